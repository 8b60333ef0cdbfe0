package event

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/postgres"
)

const maxPage = 1000

// Store reads the log.
type Store struct{ db postgres.Querier }

// NewStore reads the log through db, a pool or a transaction.
func NewStore(db postgres.Querier) *Store { return &Store{db: db} }

// Page asks for events of one entity.
type Page struct {
	Entity      Ref
	FromVersion int64 // first version wanted; 0 means 1
	Limit       int   // at most 1000; 0 means 100
}

// Read returns an entity's events in order of version.
func (s *Store) Read(ctx context.Context, p Page) ([]Event, error) {
	limit, err := pageSize(p.Limit)
	if err != nil {
		return nil, err
	}
	return s.collect(ctx, "read events", `select `+columns+` from events
		where aggregate_type = $1 and aggregate_id = $2 and version >= $3 order by version limit $4`,
		p.Entity.Type, p.Entity.ID, p.FromVersion, limit)
}

// Audit returns a user's trail, newest first, of events before a time.
func (s *Store) Audit(ctx context.Context, userID uuid.UUID, before time.Time, limit int) ([]Event, error) {
	limit, err := pageSize(limit)
	if err != nil {
		return nil, err
	}
	return s.collect(ctx, "read the audit trail", `select `+columns+` from events
		where user_id = $1 and at < $2 order by at desc, shard, seq desc limit $3`, userID, before, limit)
}

// Shard returns a shard's events after a sequence number, in order.
func (s *Store) Shard(ctx context.Context, shard int, after int64, limit int) ([]Event, error) {
	limit, err := pageSize(limit)
	if err != nil {
		return nil, err
	}
	return s.collect(ctx, "read a shard", `select `+columns+` from events
		where shard = $1 and seq > $2 order by seq limit $3`, shard, after, limit)
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

// Gap is a place where the log is not what it must be.
type Gap struct {
	Place string `json:"place"` // shard 3, or user:<uuid>
	After int64  `json:"after"` // the last number that is right
	Next  int64  `json:"next"`  // the number found instead of After+1
}

// Verify looks at every shard and every entity for numbers that are missing.
func (s *Store) Verify(ctx context.Context) ([]Gap, error) {
	rows, err := s.db.Query(ctx, `
		select 'shard ' || shard, before, seq from (
			select shard, seq, lag(seq, 1, 0::bigint) over (partition by shard order by seq) before from events) q
		where seq <> before + 1
		union all
		select aggregate_type || ':' || aggregate_id, before, version from (
			select aggregate_type, aggregate_id, version,
			       lag(version, 1, 0::bigint) over (partition by aggregate_type, aggregate_id order by version) before from events) q
		where version <> before + 1
		limit 1000`)
	if err != nil {
		return nil, fmt.Errorf("verify the log: %w", err)
	}
	gaps, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Gap])
	if err != nil {
		return nil, fmt.Errorf("verify the log: %w", err)
	}
	return gaps, nil
}

const columns = `shard, seq, aggregate_type, aggregate_id, version, name, data, user_id, actor_id, at`

func (s *Store) collect(ctx context.Context, doing, sql string, args ...any) ([]Event, error) {
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	events, err := pgx.CollectRows(rows, pgx.RowToStructByName[Event])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return events, nil
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
