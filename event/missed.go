package event

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/errs"
)

// ErrTooMany is the answer to who has missed more than is read for anybody.
var ErrTooMany = errs.New(errs.Gone, "too_many_events", "too much has happened since")

// Missed is what happened to some entities in a stretch of the log. It reads their events and no others.
type Missed struct {
	store    *Store
	entities []Ref
	told     []int64 // versions before those that come next
	upTo     [Shards]int64
}

// findMissed answers, for one entity after the other, with its newest version, its oldest that is kept, and the newest of those
// up to a number of its shard. It looks through no more events than may have been missed, less those of the entities before,
// and ends when they are more.
const findMissed = `with recursive found (n, newest, oldest, before, most) as (
		select 0, 0::bigint, 0::bigint, null::bigint, $4::bigint
		union all
		select n + 1, now.newest, now.oldest, now.before, most - now.newest + coalesce(now.before, 0)
		from found cross join lateral (
			select ($1::text[])[n + 1] as type, ($2::uuid[])[n + 1] as id, ($3::bigint[])[n + 1] as after
		) r cross join lateral (
			select coalesce((select max(version) from events where aggregate_type = r.type and aggregate_id = r.id), 0) as newest,
				coalesce((select min(version) from events where aggregate_type = r.type and aggregate_id = r.id), 0) as oldest,
				(select version from (select version, seq from events where aggregate_type = r.type and aggregate_id = r.id
					order by version desc limit most + 1) e where seq <= r.after limit 1) as before
		) now where n < cardinality($1::text[]) and most >= 0
	)
	select newest, oldest, before from found where n > 0 order by n`

// Missed finds where in their histories what happened to entities after a sequence number of each shard begins. It fails with
// [ErrPruned] if not all of it is kept, and with [ErrTooMany] if it is more than most events.
func (s *Store) Missed(ctx context.Context, entities []Ref, after, upTo [Shards]int64, most int64) (*Missed, error) {
	m := &Missed{s, entities, make([]int64, len(entities)), upTo}
	b := &pgx.Batch{}
	b.Queue(planOnce)
	b.Queue(findMissed, of(entities, func(r Ref) string { return r.Type }), of(entities, func(r Ref) uuid.UUID { return r.ID }),
		of(entities, func(r Ref) int64 { return after[r.Shard()] }), most,
	).Query(func(rows pgx.Rows) error {
		var newest, oldest int64
		var before *int64
		i := 0
		_, err := pgx.ForEachRow(rows, []any{&newest, &oldest, &before}, func() error {
			switch {
			case before != nil:
				m.told[i] = *before
			case oldest > 1 && newest-oldest < most:
				return ErrPruned
			}
			if most -= newest - m.told[i]; most < 0 {
				return ErrTooMany
			}
			i++
			return nil
		})
		return err
	})
	if err := s.db.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("find what was missed: %w", err)
	}
	return m, nil
}

// Next returns the events that come next, in the order of each shard, one shard after the other; none at the end.
func (m *Missed) Next(ctx context.Context, limit int) ([]Event, error) {
	limit, err := pageSize(limit)
	if err != nil {
		return nil, err
	}
	events, err := m.store.collect(ctx, "read what was missed", `select `+columns+`
		from unnest($1::text[], $2::uuid[], $3::bigint[], $4::bigint[]) r (type, id, told, up_to) cross join lateral (
			select * from events w where w.aggregate_type = r.type and w.aggregate_id = r.id and w.version > r.told and w.seq <= r.up_to
			order by w.version limit $5) e
		order by shard, seq limit $5`,
		of(m.entities, func(r Ref) string { return r.Type }), of(m.entities, func(r Ref) uuid.UUID { return r.ID }), m.told,
		of(m.entities, func(r Ref) int64 { return m.upTo[r.Shard()] }), limit)
	if err != nil {
		return nil, err
	}
	last := make(map[Ref]int64, len(m.entities))
	for i := range events {
		last[events[i].Ref()] = events[i].Version
	}
	for i, r := range m.entities {
		m.told[i] = max(m.told[i], last[r])
	}
	return events, nil
}
