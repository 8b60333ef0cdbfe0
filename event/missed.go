package event

import (
	"context"
	"fmt"

	"github.com/google/uuid"

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

// findMissed answers with an entity's newest version, its oldest that is kept, and the newest of those up to a number of its
// shard, for which it looks through no more than it was asked to.
const findMissed = `select coalesce((select max(version) from events where aggregate_type = $1 and aggregate_id = $2), 0),
	coalesce((select min(version) from events where aggregate_type = $1 and aggregate_id = $2), 0),
	(select version from (select version, seq from events where aggregate_type = $1 and aggregate_id = $2 order by version desc limit $4) e
		where seq <= $3 limit 1)`

// Missed finds where in their histories what happened to entities after a sequence number of each shard begins. It fails with
// [ErrPruned] if not all of it is kept, and with [ErrTooMany] if it is more than most events.
func (s *Store) Missed(ctx context.Context, entities []Ref, after, upTo [Shards]int64, most int64) (*Missed, error) {
	m := &Missed{s, entities, make([]int64, len(entities)), upTo}
	for i, r := range entities {
		var newest, oldest int64
		var before *int64
		err := s.db.QueryRow(ctx, findMissed, r.Type, r.ID, after[r.Shard()], most+1).Scan(&newest, &oldest, &before)
		if err != nil {
			return nil, fmt.Errorf("find what %s missed: %w", r, err)
		}
		switch {
		case before != nil:
			m.told[i] = *before
		case oldest > 1 && newest-oldest < most:
			return nil, ErrPruned
		}
		if most -= newest - m.told[i]; most < 0 {
			return nil, ErrTooMany
		}
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
