package event

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/postgres"
)

const maxPage = 1000

// Store reads the log.
type Store struct {
	db     postgres.Querier
	schema *Schema
}

// NewStore reads the log through db, a pool or a transaction. It knows no
// schema: data comes in the shape it was stored in.
func NewStore(db postgres.Querier) *Store { return &Store{db: db, schema: NewSchema()} }

// With returns a store that brings data into schema's newest shapes and folds as it says.
func (s *Store) With(schema *Schema) *Store { return &Store{db: s.db, schema: schema} }

// Page asks for events of one entity.
type Page struct {
	Entity      Ref
	FromVersion int64 // first version wanted; 0 means the first that is kept
	Limit       int   // at most 1000; 0 means 100
}

// Read returns an entity's events in order of version. It fails with
// [ErrPruned] if FromVersion is no longer kept.
func (s *Store) Read(ctx context.Context, p Page) ([]Event, error) {
	limit, err := pageSize(p.Limit)
	if err != nil {
		return nil, err
	}
	events, err := s.collect(ctx, "read events", `select `+columns+` from events
		where aggregate_type = $1 and aggregate_id = $2 and version >= $3 order by version limit $4`,
		p.Entity.Type, p.Entity.ID, p.FromVersion, limit)
	if err == nil && p.FromVersion > 0 && len(events) > 0 && events[0].Version > p.FromVersion {
		return nil, ErrPruned
	}
	return events, err
}

// Audit returns a page of a user's trail, newest first: what comes before the
// last event of the page before. The zero Position asks for the first page.
func (s *Store) Audit(ctx context.Context, userID uuid.UUID, last Position, limit int) ([]Event, error) {
	limit, err := pageSize(limit)
	if err != nil {
		return nil, err
	}
	var at *time.Time
	if last != (Position{}) {
		at = &last.At
	}
	return s.collect(ctx, "read the audit trail", `select `+columns+` from events
		where user_id = $1 and (at, shard, seq) < (coalesce($2::timestamptz, 'infinity'), $3::smallint, $4::bigint)
		order by at desc, shard desc, seq desc limit $5`, userID, at, last.Shard, last.Seq, limit)
}

// Trail returns as many as most events of a user's trail, newest first.
func (s *Store) Trail(ctx context.Context, userID uuid.UUID, most int) ([]Event, error) {
	all := []Event{}
	for last := (Position{}); len(all) < most; {
		limit := min(maxPage, most-len(all))
		page, err := s.Audit(ctx, userID, last, limit)
		if err != nil {
			return nil, err
		}
		if all = append(all, page...); len(page) < limit {
			break
		}
		last = page[limit-1].Position()
	}
	return all, nil
}

// Shard returns a shard's events after a sequence number, in order. It fails
// with [ErrPruned] if not all of them are kept.
func (s *Store) Shard(ctx context.Context, shard int, after int64, limit int) ([]Event, error) {
	limit, err := pageSize(limit)
	if err != nil {
		return nil, err
	}
	events, err := s.collect(ctx, "read a shard", `select `+columns+` from events
		where shard = $1 and seq > $2 order by seq limit $3`, shard, after, limit)
	if err != nil {
		return nil, err
	}
	if events, err = s.kept(ctx, func(int) int64 { return after }, events); err != nil {
		return nil, err
	}
	return events, nil
}

// Since returns events after a sequence number of each shard: a shard's in
// order and without a hole, the shards' merged by time. It fails with
// [ErrPruned] if not all of them are kept.
func (s *Store) Since(ctx context.Context, after [Shards]int64, limit int) ([]Event, error) {
	var upTo [Shards]int64
	for i := range upTo {
		upTo[i] = math.MaxInt64
	}
	return s.Within(ctx, after, upTo, limit)
}

// Within is Since, of events up to a sequence number of each shard. Who wants no others must say so: by a clock that was
// set back, newer ones of one shard come before older ones of another.
func (s *Store) Within(ctx context.Context, after, upTo [Shards]int64, limit int) ([]Event, error) {
	limit, err := pageSize(limit)
	if err != nil {
		return nil, err
	}
	// A clock set back must not bring a shard out of order, so what merges is the latest time so far.
	events, err := s.collect(ctx, "read the shards", `select `+columns+` from (
			select e.*, max(e.at) over (partition by e.shard order by e.seq) as reached
			from unnest($1::bigint[], $2::bigint[]) with ordinality a (seq, up_to, n) cross join lateral (
				select * from events where shard = a.n - 1 and seq > a.seq and seq <= a.up_to order by seq limit $3) e) q
		order by reached, shard, seq limit $3`, after[:], upTo[:], limit)
	if err != nil {
		return nil, err
	}
	return s.kept(ctx, func(shard int) int64 { return after[shard] }, events)
}

// kept returns events, or ErrPruned if a hole between or before them is one that retention made.
func (s *Store) kept(ctx context.Context, after func(shard int) int64, events []Event) ([]Event, error) {
	var last [Shards]int64
	for i := range last {
		last[i] = after(i)
	}
	for _, e := range events {
		if e.Seq != last[e.Shard]+1 {
			horizon, err := s.horizon(ctx)
			if err != nil {
				return nil, err
			}
			if last[e.Shard]+1 < horizon[e.Shard] {
				return nil, ErrPruned
			}
		}
		last[e.Shard] = e.Seq
	}
	return events, nil
}

// horizon returns from where on each shard is complete.
func (s *Store) horizon(ctx context.Context) (from [Shards]int64, err error) {
	rows, err := s.db.Query(ctx, "select shard, seq from event_horizon")
	if err != nil {
		return from, fmt.Errorf("read the horizon: %w", err)
	}
	var shard int
	var seq int64
	_, err = pgx.ForEachRow(rows, []any{&shard, &seq}, func() error {
		from[shard] = seq
		return nil
	})
	if err != nil {
		return from, fmt.Errorf("read the horizon: %w", err)
	}
	return from, nil
}

// Heads returns the newest sequence number of each shard; 0 means it is empty.
func (s *Store) Heads(ctx context.Context) (heads [Shards]int64, err error) {
	var all []int64
	err = s.db.QueryRow(ctx, `select array(select coalesce((select max(seq) from events where shard = s), 0)
		from generate_series(0, $1 - 1) s)`, Shards).Scan(&all)
	if err != nil {
		return heads, fmt.Errorf("read the heads: %w", err)
	}
	copy(heads[:], all)
	return heads, nil
}

// Position is where an event stands among all, by time.
type Position struct {
	At    time.Time
	Shard int
	Seq   int64
}

// Position returns where e stands.
func (e Event) Position() Position { return Position{e.At, e.Shard, e.Seq} }

// Span asks for events of a time.
type Span struct {
	From, To time.Time // To is the first moment that is not wanted
	After    Position  // of the last event seen; zero at first
	Limit    int       // at most 1000; 0 means 100
}

// Between returns all entities' events of a time, oldest first.
func (s *Store) Between(ctx context.Context, span Span) ([]Event, error) {
	limit, err := pageSize(span.Limit)
	if err != nil {
		return nil, err
	}
	return s.collect(ctx, "read a time", `select `+columns+` from events
		where at >= greatest($1::timestamptz, $3) and at < $2 and (at, shard, seq) > ($3::timestamptz, $4::smallint, $5::bigint)
		order by at, shard, seq limit $6`, span.From, span.To, span.After.At, span.After.Shard, span.After.Seq, limit)
}

// Version returns the entity's newest version; 0 means it has no events.
func (s *Store) Version(ctx context.Context, r Ref) (int64, error) {
	var v int64
	err := s.db.QueryRow(ctx, `select coalesce(max(version), 0) from events
		where aggregate_type = $1 and aggregate_id = $2`, r.Type, r.ID).Scan(&v)
	if err != nil {
		return 0, fmt.Errorf("read the version of %s: %w", r, err)
	}
	return v, nil
}

const columns = `shard, seq, aggregate_type, aggregate_id, version, name, data, user_id, actor_id, at`

func (s *Store) collect(ctx context.Context, doing, sql string, args ...any) ([]Event, error) {
	events := []Event{} // in JSON a list, also when it is empty
	err := s.each(ctx, func(e Event) error {
		events = append(events, e)
		return nil
	}, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return events, nil
}

// each calls fn with one event after the other, in its newest shape.
func (s *Store) each(ctx context.Context, fn func(Event) error, sql string, args ...any) error {
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var e Event
		err := rows.Scan(&e.Shard, &e.Seq, &e.AggregateType, &e.AggregateID, &e.Version, &e.Name, (*[]byte)(&e.Data),
			&e.UserID, &e.ActorID, &e.At)
		if err != nil {
			return err
		}
		if e, err = s.schema.newest(e); err != nil {
			return err
		}
		if err = fn(e); err != nil {
			return err
		}
	}
	return rows.Err()
}

func pageSize(limit int) (int, error) {
	if limit < 0 || limit > maxPage {
		return 0, errs.NewInvalid("limit", fmt.Sprintf("must be between 1 and %d", maxPage))
	}
	if limit == 0 {
		return 100, nil
	}
	return limit, nil
}
