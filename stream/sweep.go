package stream

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/cache"
	"rootstream/event"
	"rootstream/postgres"
)

const (
	linesAtOnce = 500              // joins and leaves of one transaction
	claimFor    = 30 * time.Second // who fetched lines and has not written them by then is taken for dead
)

// Run writes what viewers do to PostgreSQL, batch by batch, until ctx is done.
// Every instance may run it: a stream is swept by one at a time.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.FlushEvery)
	defer tick.Stop()
	for {
		s.sweepAll(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *Store) sweepAll(ctx context.Context) {
	if s.cache == nil || !s.cache.Healthy() {
		return
	}
	for ctx.Err() == nil {
		more, err := s.sweep(ctx)
		if err != nil && ctx.Err() == nil {
			s.cfg.Logger.WarnContext(ctx, "viewers could not be written down, they will be later", "err", err)
		}
		if err != nil || !more {
			return
		}
	}
}

// Flush does at once what Run does every few seconds, as far as no other
// instance has just done it.
func (s *Store) Flush(ctx context.Context) error {
	if s.cache == nil {
		return errNoRedis
	}
	for {
		if more, err := s.sweep(ctx); err != nil || !more {
			return err
		}
	}
}

// liveRow is what viewers need to know of a stream.
type liveRow struct {
	ID           int64
	OwnerID      int64
	PublicID     uuid.UUID
	UserID       uuid.UUID
	IsLive       bool
	IsPublic     bool
	SessionRow   *int64
	SessionID    *uuid.UUID
	TotalViewers int
	PeakViewers  int
}

func (l liveRow) readableBy(a Account) bool {
	return Stream{OwnerID: l.OwnerID, IsPublic: l.IsPublic}.readableBy(a)
}

func (s *Store) loadLive(ctx context.Context, where string, arg any) ([]liveRow, error) {
	rows, _ := s.db.Query(ctx, `select s.id, s.user_id as owner_id, s.public_id, u.public_id as user_id,
			coalesce(s.is_live, false) as is_live, coalesce(s.is_public, true) as is_public,
			o.id as session_row, o.public_id as session_id,
			coalesce(o.total_viewers, 0) as total_viewers, coalesce(o.peak_viewers, 0) as peak_viewers
		from streams s join users u on u.id = s.user_id left join lateral (select * from stream_sessions
			where stream_id = s.id and session_end is null order by id desc limit 1) o on s.is_live
		where `+where, arg)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[liveRow])
	if err != nil {
		return nil, fmt.Errorf("read live streams: %w", err)
	}
	return found, nil
}

// swept is what a sweep found of one stream.
type swept struct {
	liveRow
	Figures
	idle  bool   // nobody watches and nothing is left to write
	token string // claim on lines
	lines []string
}

// sweep goes over all streams that have or had viewers once. It reports
// whether some have more to be written than one go takes.
func (s *Store) sweep(ctx context.Context) (more bool, err error) {
	active, err := s.cache.HGetAll(ctx, cache.StreamsActive)
	if err != nil {
		return false, unavailable(err)
	}
	ids := make([]uuid.UUID, 0, len(active))
	for _, text := range slices.Sorted(maps.Keys(active)) {
		if id, bad := uuid.Parse(text); bad == nil {
			ids = append(ids, id)
		}
	}
	// Those with a count but no entry: Redis came back empty.
	streams, err := s.loadLive(ctx, "s.public_id = any($1) or s.is_live and s.viewer_count > 0", ids)
	if err != nil {
		return false, err
	}
	found, err := s.collect(ctx, streams)
	if err != nil {
		return false, err
	}
	if err := s.writeFigures(ctx, found); err != nil {
		return false, err
	}
	for _, f := range found {
		if len(f.lines) > 0 {
			if err := s.writeLines(ctx, f); err != nil {
				return false, err
			}
			more = more || len(f.lines) == linesAtOnce
		}
	}
	return more, s.forgetIdle(ctx, active, streams, found)
}

// collect asks Redis for each stream's part; those another instance swept just now are left out.
func (s *Store) collect(ctx context.Context, streams []liveRow) ([]swept, error) {
	runs := make([]cache.Run, len(streams))
	for i, l := range streams {
		live := "0"
		if l.IsLive {
			live = "1"
		}
		runs[i] = cache.Run{Keys: viewerKeys(l.PublicID), Args: append(s.sessionArgs(l),
			live, millis(s.cfg.FlushEvery/2), millis(claimFor), strconv.Itoa(linesAtOnce))}
	}
	results, err := s.scripts.collect.ExecMany(ctx, s.cache, runs)
	if err != nil {
		return nil, unavailable(err)
	}
	var found []swept
	for i, r := range results {
		if r.Err != nil {
			return nil, unavailable(r.Err)
		}
		list, bad := r.Reply.Strings()
		if bad != nil {
			return nil, unavailable(bad)
		}
		if len(list) >= 6 {
			found = append(found, swept{streams[i], readFigures(list), list[4] == "1", list[5], list[6:]})
		}
	}
	return found, nil
}

// writeFigures brings viewer_count, peak and total up to date.
func (s *Store) writeFigures(ctx context.Context, found []swept) error {
	var ids, counts, sessions, peaks, totals []int64
	for _, f := range found {
		if !f.IsLive {
			continue
		}
		ids, counts = append(ids, f.ID), append(counts, int64(f.Count))
		if f.SessionRow != nil && f.session == *f.SessionID {
			sessions, peaks, totals = append(sessions, *f.SessionRow), append(peaks, int64(f.Peak)), append(totals, int64(f.Total))
		}
	}
	if len(ids) == 0 {
		return nil
	}
	b := &pgx.Batch{}
	b.Queue(`update streams s set viewer_count = v.n from unnest($1::bigint[], $2::bigint[]) v(id, n)
		where s.id = v.id and s.is_live and s.viewer_count is distinct from v.n`, ids, counts)
	b.Queue(`update stream_sessions o set peak_viewers = greatest(o.peak_viewers, v.peak), total_viewers = greatest(o.total_viewers, v.total)
		from unnest($1::bigint[], $2::bigint[], $3::bigint[]) v(id, peak, total)
		where o.id = v.id and o.session_end is null
			and (coalesce(o.peak_viewers, 0) < v.peak or coalesce(o.total_viewers, 0) < v.total)`, sessions, peaks, totals)
	err := s.db.InTx(ctx, func(tx *postgres.Tx) error { return tx.SendBatch(ctx, b).Close() })
	if err != nil {
		return fmt.Errorf("write viewers' figures: %w", err)
	}
	return nil
}

// writeLines appends the events and the usage of joins and leaves. Lines may be fetched again, after a crash here or
// because Redis came back with old ones; each is written once.
func (s *Store) writeLines(ctx context.Context, f swept) error {
	visits, err := s.readVisits(ctx, f)
	if err != nil {
		return err
	}
	err = s.db.InTx(ctx, func(tx *postgres.Tx) error { return writeVisits(ctx, tx, f.liveRow, visits) })
	if err != nil { // ErrDuplicate too: somebody else is writing them, and the next sweep sees which
		return fmt.Errorf("write viewers down: %w", err)
	}
	if _, err := s.scripts.acknowledge.Exec(ctx, s.cache, viewerKeys(f.PublicID), f.token); err != nil {
		return unavailable(err)
	}
	return nil
}

// readVisits reads lines; those that are none of ours are dropped and counted.
func (s *Store) readVisits(ctx context.Context, f swept) ([]visit, error) {
	visits := make([]visit, 0, len(f.lines))
	now := time.Now().UTC()
	for _, line := range f.lines {
		v, ok := readVisit(line)
		if ok {
			var err error
			if ok, err = s.sealed(v, f.PublicID); err != nil {
				return nil, err
			}
		}
		if !ok {
			continue
		}
		if v.left.After(now) { // which is all that Redis decides of it
			v.left = now
		}
		visits = append(visits, v)
	}
	if n := len(f.lines) - len(visits); n > 0 {
		s.cfg.Logger.WarnContext(ctx, "Redis told of visits that were not ours, they are dropped", "stream_id", f.PublicID, "count", n)
	}
	return visits, nil
}

// forgetIdle takes streams nobody watches any more, or that are gone, out of the hash of active ones.
func (s *Store) forgetIdle(ctx context.Context, active map[string]string, streams []liveRow, found []swept) error {
	keep := map[string]bool{}
	for _, l := range streams {
		keep[l.PublicID.String()] = true
	}
	for _, f := range found {
		if f.idle {
			delete(keep, f.PublicID.String())
		}
	}
	for id, seen := range active {
		if keep[id] {
			continue
		}
		if _, err := s.scripts.forget.Exec(ctx, s.cache, []string{cache.StreamsActive}, id, seen); err != nil {
			return unavailable(err)
		}
	}
	return nil
}

// visit is a join or a leave.
type visit struct {
	viewer uuid.UUID
	user   int64
	joined time.Time
	left   time.Time // zero for a join
	seal   string    // over stream, viewer, account and joined
}

// readVisit reads a line of the log: j or l, viewer, when, ticket.
func readVisit(line string) (visit, bool) {
	parts := strings.Split(line, " ")
	if len(parts) == 5 { // without a keyset there is no seal
		parts = append(parts, "")
	}
	if len(parts) != 6 || parts[0] != "j" && parts[0] != "l" {
		return visit{}, false
	}
	var n [3]int64 // when, account, joined
	for i, text := range parts[2:5] {
		var err error
		if n[i], err = strconv.ParseInt(text, 10, 64); err != nil || n[i] < 0 || n[i] > 1<<52 {
			return visit{}, false
		}
	}
	id, err := uuid.Parse(parts[1])
	if err != nil || n[1] > 1<<31-1 {
		return visit{}, false
	}
	v := visit{viewer: id, user: n[1], joined: time.UnixMilli(n[2]).UTC(), seal: parts[5]}
	if parts[0] == "l" {
		v.left = time.UnixMilli(max(n[0], n[2])).UTC()
	}
	return v, true
}

// key is of the event: a viewer joins once and leaves once.
func (v visit) key() string { return fmt.Sprintf("viewers:%s:%t", v.viewer, v.left.IsZero()) }

func (v visit) seconds() int64 {
	if v.left.IsZero() {
		return 0
	}
	return min(int64(v.left.Sub(v.joined)/time.Second), 1<<31-1)
}

func writeVisits(ctx context.Context, tx *postgres.Tx, of liveRow, visits []visit) error {
	var ids, users, seconds []int64
	var keys, kinds []string
	for _, v := range visits {
		ids, keys = append(ids, v.user), append(keys, v.key())
	}
	written, err := event.NewStore(tx).Used(ctx, keys)
	if err != nil {
		return fmt.Errorf("find visits: %w", err)
	}
	known := map[int64]uuid.UUID{} // an account may be gone
	rows, _ := tx.Query(ctx, `select id, public_id from users where id = any($1::bigint[]) for key share`, ids)
	var id int64
	var name uuid.UUID
	if _, err = pgx.ForEachRow(rows, []any{&id, &name}, func() error { known[id] = name; return nil }); err != nil {
		return fmt.Errorf("find viewers' accounts: %w", err)
	}
	var times []time.Time
	for _, v := range visits {
		user, ok := known[v.user]
		if !ok || written[v.key()] {
			continue
		}
		written[v.key()] = true
		e, kind, at := v.event(of, user), "viewer_join", v.joined
		if !v.left.IsZero() {
			kind, at = "viewer_leave", v.left
		}
		if err = event.Append(tx, e); err != nil {
			return err
		}
		users, kinds, seconds, times = append(users, v.user), append(kinds, kind), append(seconds, v.seconds()), append(times, at)
	}
	_, err = tx.Exec(ctx, `insert into usage_logs (user_id, stream_id, event_type, duration_seconds, created_at)
		select v.u, $1, v.k, v.s, v.t from unnest($2::bigint[], $3::text[], $4::bigint[], $5::timestamptz[]) v(u, k, s, t)`,
		of.ID, users, kinds, seconds, times)
	if err != nil {
		return fmt.Errorf("log usage: %w", err)
	}
	return nil
}

func (v visit) event(of liveRow, user uuid.UUID) event.New {
	data := map[string]any{"stream_id": of.PublicID, "user_id": user, "viewer_id": v.viewer}
	name := "viewer.joined"
	if v.left.IsZero() {
		data["timestamp"] = v.joined
	} else {
		name = "viewer.left"
		data["duration"] = v.seconds()
	}
	return event.New{
		Aggregate: event.Ref{Type: "stream", ID: of.PublicID}, Name: name, Data: data, UserID: &user, Expect: event.Any,
		IdempotencyKey: v.key(),
	}
}
