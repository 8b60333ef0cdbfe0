package statesync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/statesync/merge"
)

// ErrNoConflict means that there is no such entry in the conflict log.
var ErrNoConflict = errs.New(errs.NotFound, "no_conflict", "there is no such conflict")

// Conflict is a decision between two values, with both of them.
type Conflict struct {
	ID            uuid.UUID       `json:"id"`
	AggregateType string          `json:"type"`
	AggregateID   uuid.UUID       `json:"entity_id"`
	Rule          string          `json:"rule"` // rebase:retry, rebase:keep_theirs, rebase:reject, orphan, restore
	Winner        json.RawMessage `json:"winner"`
	Loser         json.RawMessage `json:"loser"`
	Stamps        json.RawMessage `json:"stamps"`
	Vectors       json.RawMessage `json:"vectors"`
	Token         string          `json:"token"`
	At            time.Time       `json:"at"`
	ResolvedAt    *time.Time      `json:"resolved_at"`
	ResolvedBy    *uuid.UUID      `json:"resolved_by"`
}

// ConflictPage asks for conflicts, newest first.
type ConflictPage struct {
	Ref    *event.Ref // of one entity only
	Open   bool       // only those nobody has resolved
	Cursor string     // what the page before returned
	Limit  int        // at most 1000; 0 means 100
}

// Conflicts reads the conflict log. next is "" after the last page.
func (m *Manager) Conflicts(ctx context.Context, p ConflictPage) (list []Conflict, next string, err error) {
	if p.Limit < 0 || p.Limit > 1000 {
		return nil, "", errs.NewInvalid("limit", "must be between 1 and 1000")
	}
	if p.Limit == 0 {
		p.Limit = 100
	}
	before := uuid.Max
	if p.Cursor != "" {
		if before, err = uuid.Parse(p.Cursor); err != nil {
			return nil, "", errs.NewInvalid("cursor", "is not one of ours")
		}
	}
	var kind *string
	var id *uuid.UUID
	if p.Ref != nil {
		kind, id = &p.Ref.Type, &p.Ref.ID
	}
	rows, _ := m.cfg.DB.Query(ctx, `select `+conflictColumns+` from sync_conflicts
		where id < $1 and ($2::text is null or (aggregate_type = $2 and aggregate_id = $3)) and (not $4 or resolved_at is null)
		order by id desc limit $5`, before, kind, id, p.Open, p.Limit)
	list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Conflict])
	if err != nil {
		return nil, "", fmt.Errorf("read conflicts: %w", err)
	}
	if len(list) == p.Limit {
		next = list[len(list)-1].ID.String()
	}
	return list, next, nil
}

const conflictColumns = `id, aggregate_type, aggregate_id, rule, winner, loser, stamps, vectors, token, at, resolved_at, resolved_by`

// conflict reads one entry of the conflict log.
func (m *Manager) conflict(ctx context.Context, id uuid.UUID) (Conflict, error) {
	rows, _ := m.cfg.DB.Query(ctx, `select `+conflictColumns+` from sync_conflicts where id = $1`, id)
	c, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Conflict])
	if errors.Is(err, postgres.ErrNoRows) {
		return Conflict{}, ErrNoConflict
	}
	if err != nil {
		return Conflict{}, fmt.Errorf("read a conflict: %w", err)
	}
	return c, nil
}

// RestoreLoser makes the losing value the state, whatever it is now; what it replaces is in the log in turn.
func (m *Manager) RestoreLoser(ctx context.Context, id uuid.UUID, actor *uuid.UUID) (Result, error) {
	c, err := m.conflict(ctx, id)
	if err != nil {
		return Result{}, err
	}
	ref := event.Ref{Type: c.AggregateType, ID: c.AggregateID}
	r, err := m.Update(ctx, ref, func(d *Doc) error {
		now, failed := m.conflict(ctx, id) // once more: if it was erased, then before the version that d has
		if failed != nil {
			return failed
		}
		loser, failed := decodeObject(now.Loser)
		if failed != nil {
			return errs.NewInvalid("id", "its losing value is not a document").WithCause(failed)
		}
		d.Data = loser
		return nil
	}, UpdateOptions{Actor: actor, IdempotencyKey: "restore:" + id.String()})
	if err != nil {
		return Result{}, err
	}
	_, err = m.cfg.DB.Exec(ctx, `update sync_conflicts set resolved_at = clock_timestamp(), resolved_by = $2
		where id = $1 and resolved_at is null`, id, actor)
	if err != nil {
		return r, fmt.Errorf("resolve a conflict: %w", err)
	}
	return r, nil
}

// conflict is an entry about to be written.
type conflict struct {
	ref           event.Ref
	rule, token   string
	winner, loser any
	stamps        any
	vectors       any
	known         int64 // version of the entity that the values are from: what was erased since is not noted
}

func (c conflict) queue(b *pgx.Batch) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	var parts [4][]byte
	for i, v := range []any{c.winner, c.loser, c.stamps, c.vectors} {
		if parts[i], err = json.Marshal(v); err != nil {
			return err
		}
	}
	b.Queue(`insert into sync_conflicts (id, aggregate_type, aggregate_id, rule, winner, loser, stamps, vectors, token)
		select $1, $2, $3, $4, $5, $6, $7, $8, $9 where not exists (select from events
			where aggregate_type = $2 and aggregate_id = $3 and version > $10 and name in ($11, $12)) on conflict do nothing`,
		id, c.ref.Type, c.ref.ID, c.rule, parts[0], parts[1], parts[2], parts[3], c.token, c.known,
		event.ErasureOf(c.ref.Type), event.RedactionOf(c.ref.Type))
	return nil
}

// note writes entries into the conflict log.
func note(ctx context.Context, db postgres.Querier, list ...conflict) error {
	b := &pgx.Batch{}
	for _, c := range list {
		if err := c.queue(b); err != nil {
			return err
		}
	}
	if err := db.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("note a conflict: %w", err)
	}
	return nil
}

// noteAlone is note for a decision that no append goes with: it waits for erasures under way.
func noteAlone(ctx context.Context, db postgres.Querier, c conflict) error {
	b := &pgx.Batch{}
	event.Exclude(b, c.ref)
	if err := c.queue(b); err != nil {
		return err
	}
	if err := db.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("note a conflict: %w", err)
	}
	return nil
}

// decided is what a Rebase decided, with both values; c is the change that it leads to, if it does.
func (m *Manager) decided(v Verdict, base, theirs, mine Doc, c change) conflict {
	vectors := map[string]any{"base": base.Version, "theirs": theirs.Version, "result": theirs.Version}
	d := conflict{
		ref: theirs.Ref, known: theirs.Version, rule: "rebase:" + v.String(), winner: theirs.Data, loser: mine.Data, vectors: vectors,
		token: fmt.Sprintf("%s:%d:%d:%s", theirs.Ref, base.Version, theirs.Version, uuid.NewString()),
		stamps: map[string]any{
			"theirs": theirs.At, "mine": merge.Stamp{At: m.clock.Now(), Node: m.cfg.Node},
		},
	}
	if c.name != "" {
		d.winner, d.loser = c.next.Data, theirs.Data
		vectors["result"], vectors["mine"] = theirs.Version+1, mine.Data
	}
	return d
}

// onOrphans records events that PostgreSQL has lost. All instances that saw one record it; it is kept once.
func (m *Manager) onOrphans(ctx context.Context, lost []event.Event) error {
	list := make([]conflict, 0, len(lost))
	for _, e := range lost {
		loser, err := m.lostValue(ctx, e)
		if err != nil {
			return err
		}
		list = append(list, conflict{
			ref: e.Ref(), known: math.MaxInt64, rule: "orphan", loser: loser,
			token:   fmt.Sprintf("%d:%d:%s", e.Shard, e.Seq, e.At.UTC().Format(time.RFC3339Nano)),
			stamps:  map[string]any{"at": e.At, "user": e.UserID, "actor": e.ActorID},
			vectors: map[string]any{"shard": e.Shard, "seq": e.Seq, "version": e.Version, "name": e.Name, "data": e.Data},
		})
	}
	return note(ctx, m.cfg.DB, list...)
}

// lostValue is the document a lost event would have led to, as far as that can be told: its whole document, or its patch
// on what is there now.
func (m *Manager) lostValue(ctx context.Context, e event.Event) (any, error) {
	t, ok := m.types[e.AggregateType]
	if !ok || t.Class != Durable {
		return e.Data, nil
	}
	d, _, err := m.replay(ctx, e.Ref(), 0)
	if err != nil {
		return nil, err
	}
	state, err := t.fold(cloneMap(d.state()), e)
	if err != nil {
		return e.Data, nil //nolint:nilerr // it cannot be folded: the data itself is kept
	}
	return docOf(e.Ref(), e.Version, e.At, state).Data, nil
}
