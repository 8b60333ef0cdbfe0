package statesync

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/cache"
	"rootstream/event"
	"rootstream/event/codec"
	"rootstream/postgres"
)

// Erase removes the values that are kept of an entity: those of its events and, if it is a user, of all events in that
// user's audit trail ([event.Erase]), and those in the conflict log. Other entities that were changed in a user's name get a
// new version with what is left of them. Snapshots of all state are rewritten without the values within about a minute. It
// returns how many events lost theirs.
func (m *Manager) Erase(ctx context.Context, tx *postgres.Tx, ref event.Ref) (int, error) {
	return event.Erase(ctx, tx, ref, func(ctx context.Context) error { // its lock makes the numbers of erasures come in the order of commits
		b := &pgx.Batch{}
		for _, statement := range []string{
			`insert into sync_erasures (aggregate_type, aggregate_id)` + concerned,
			`delete from sync_conflicts where (aggregate_type, aggregate_id) in (` + concerned + `) or $1 = 'user' and stamps ->> 'user' = $2::text`,
		} {
			b.Queue(statement, ref.Type, ref.ID)
		}
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return fmt.Errorf("erase state of %s: %w", ref, err)
		}
		return m.redact(ctx, tx, ref)
	})
}

// redact gives other entities whose state a user's values were in a new version: those of types that anybody can change.
// The others are of rooms that end them with the account.
func (m *Manager) redact(ctx context.Context, tx *postgres.Tx, user event.Ref) error {
	if user.Type != "user" {
		return nil
	}
	var types []string
	for name, t := range m.types {
		if t.Class == Durable && !t.ReadOnly {
			types = append(types, name)
		}
	}
	rows, _ := tx.Query(ctx, `select distinct aggregate_type, aggregate_id from events
		where user_id = $1 and aggregate_type = any($2) and (aggregate_type, aggregate_id) <> ('user', $1)
		and (starts_with(name, aggregate_type || '.') or data -> 'fields' ? $3) and data ->> 'erased' = 'true'
		order by 1, 2`, user.ID, types, changeField)
	concerned, err := pgx.CollectRows(rows, pgx.RowToStructByPos[event.Ref])
	if err != nil {
		return fmt.Errorf("find what %s changed: %w", user, err)
	}
	for _, ref := range concerned {
		if err := event.Redact(tx, ref, user.ID); err != nil {
			return err
		}
	}
	return nil
}

// concerned are the entities that values of an entity may be in.
const concerned = ` select $1::text, $2::uuid union select aggregate_type, aggregate_id from events where $1 = 'user' and user_id = $2 `

// keepErasures is for how long an erasure is remembered: a snapshot that is being taken may not have heeded it yet.
const keepErasures = "1 day"

// heed returns the number of the newest erasure, once the snapshots that are there know of it: what is made of them does.
func (m *Manager) heed(ctx context.Context) (last int64, err error) {
	err = m.cfg.DB.QueryRow(ctx, "select coalesce(max(id), 0) from sync_erasures").Scan(&last)
	if err != nil {
		return 0, fmt.Errorf("read what was erased: %w", err)
	}
	return last, m.scrub(ctx)
}

// erasedSince reports whether an entity was erased after an erasure.
func (m *Manager) erasedSince(ctx context.Context, ref event.Ref, heeded int64) (erased bool, err error) {
	err = m.cfg.DB.QueryRow(ctx, "select exists (select from sync_erasures where aggregate_type = $1 and aggregate_id = $2 and id > $3)",
		ref.Type, ref.ID, heeded).Scan(&erased)
	if err != nil {
		return false, fmt.Errorf("see whether %s was erased: %w", ref, err)
	}
	return erased, nil
}

// forgetErased forgets what was made of values that events of now tell were erased. Redis forgets them at once; and later
// once more, when an instance that was slow has told what it had to tell before.
func (m *Manager) forgetErased(events []event.Event) {
	for i := range events {
		e := &events[i]
		if !e.Erases() && !e.Redacts() {
			continue
		}
		m.heard.Store(true)
		m.feed.Forget()
		m.hub.erase(e)
		if e.Erases() && e.AggregateType == "user" {
			m.memory.dropReadOnly()
		}
	}
}

// erased removes what was erased from where it may still be; from Redis once in the life of the instance, which hears of
// what is erased later.
func (m *Manager) erased(ctx context.Context, forgotten *bool) error {
	if m.heard.Swap(false) {
		m.feed.Forget()
	}
	if !*forgotten {
		if err := m.forget(ctx); err != nil {
			return err
		}
		*forgotten = true
	}
	return m.scrub(ctx)
}

// forget has Redis forget what was erased of late: the instance that should have may have ended before it could.
func (m *Manager) forget(ctx context.Context) error {
	var lately bool
	err := m.cfg.DB.QueryRow(ctx, "select exists (select from sync_erasures where at > now() - $1::interval)", cache.SyncTTL).Scan(&lately)
	if err != nil {
		return fmt.Errorf("read what was erased: %w", err)
	}
	if lately {
		m.feed.Forget()
	}
	return nil
}

// scrub rewrites the snapshots that hold what was erased since they were taken. One instance at a time does.
func (m *Manager) scrub(ctx context.Context) error {
	if due, err := dueToScrub(ctx, m.cfg.DB); err != nil || !due {
		return err
	}
	return m.cfg.DB.InTx(ctx, func(tx *postgres.Tx) error {
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock(hashtextextended('rootstream.sync.scrub', 0))"); err != nil {
			return fmt.Errorf("wait for who scrubs: %w", err)
		}
		if due, err := dueToScrub(ctx, tx); err != nil || !due {
			return err
		}
		s := &scrubbing{Manager: m, tx: tx}
		if err := s.read(ctx); err != nil {
			return fmt.Errorf("read what was erased: %w", err)
		}
		for _, shot := range s.shots {
			if err := s.rewrite(ctx, shot); err != nil {
				return fmt.Errorf("rewrite snapshot %s: %w", shot.ID, err)
			}
		}
		_, err := tx.Exec(ctx, `delete from sync_erasures where at < now() - $1::interval and id < (select max(id) from sync_erasures)`, keepErasures)
		return err
	})
}

func dueToScrub(ctx context.Context, db postgres.Querier) (due bool, err error) {
	err = db.QueryRow(ctx, `select exists (select from sync_snapshots where erased < (select max(id) from sync_erasures))`).Scan(&due)
	if err != nil {
		return false, fmt.Errorf("compare snapshots with what was erased: %w", err)
	}
	return due, nil
}

// scrubbing is one run of scrub. What it reads is as it was before.
type scrubbing struct {
	*Manager
	tx     *postgres.Tx
	shots  []shotMark // a delta comes after what it is based on
	heeded map[uuid.UUID]int64
	last   int64
	erased map[event.Ref]int64
}

type shotMark struct {
	ID     uuid.UUID
	Base   *uuid.UUID
	Erased int64
}

func (s *scrubbing) read(ctx context.Context) error {
	s.heeded, s.erased = map[uuid.UUID]int64{}, map[event.Ref]int64{}
	rows, _ := s.tx.Query(ctx, "select id, base, erased from sync_snapshots order by at, id for update")
	var err error
	if s.shots, err = pgx.CollectRows(rows, pgx.RowToStructByPos[shotMark]); err != nil {
		return err
	}
	for _, shot := range s.shots {
		s.heeded[shot.ID] = shot.Erased
	}
	rows, _ = s.tx.Query(ctx, "select aggregate_type, aggregate_id, max(id) from sync_erasures group by 1, 2")
	var ref event.Ref
	var id int64
	_, err = pgx.ForEachRow(rows, []any{&ref.Type, &ref.ID, &id}, func() error {
		s.erased[ref] = id
		s.last = max(s.last, id)
		return nil
	})
	return err
}

func (s *scrubbing) rewrite(ctx context.Context, shot shotMark) error {
	kind, content := codec.Full, any(nil)
	state, err := s.clean(ctx, shot.ID)
	if err != nil {
		return err
	}
	content = state
	if shot.Base != nil {
		kind = codec.Delta
		base, failed := s.clean(ctx, *shot.Base)
		if failed != nil {
			return failed
		}
		if content, err = Diff(base, state); err != nil {
			return err
		}
	}
	c, err := codec.New(maxSnapshot)
	if err != nil {
		return err
	}
	whole, err := state.Bytes()
	if err != nil {
		return err
	}
	b, err := json.Marshal(content)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(whole)
	_, err = s.tx.Exec(ctx, "update sync_snapshots set content = $2, sha256 = $3, erased = $4 where id = $1", shot.ID, c.Encode(kind, b), sum[:], s.last)
	return err
}

// clean is a snapshot's state as the log tells it now, as far as it was erased since.
func (s *scrubbing) clean(ctx context.Context, id uuid.UUID) (State, error) {
	state, err := s.LoadSnapshot(ctx, id)
	if err != nil {
		return State{}, err
	}
	for i := range state.Docs {
		d := &state.Docs[i]
		if s.erased[d.Ref()] <= s.heeded[id] {
			continue
		}
		now, _, err := s.replay(ctx, d.Ref(), d.Version)
		if err != nil && !errors.Is(err, event.ErrPruned) {
			return State{}, err
		}
		if d.Data = now.Data; d.Data == nil {
			d.Data = map[string]any{}
		}
	}
	return state, nil
}
