package event

import (
	"context"
	"fmt"
	"math"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// maxTail is how many events after its snapshot an entity may have to be read together with others.
const maxTail = 1000

// readStates finds the newest snapshot of each entity and the events after it, in one view of the log. They come in the order
// in which they are found; sorting them would take longer than finding them, and what came in another is told one by one.
const readStates = `with shot as materialized (
		select r.n, r.type, r.id, r.up_to, s.version, s.codec, s.sha256, s.state, s.at
		from unnest($1::text[], $2::uuid[], $3::int[], $5::bigint[]) with ordinality r (type, id, fold, up_to, n) left join lateral (
			select * from event_snapshots k where k.aggregate_type = r.type and k.aggregate_id = r.id and k.fold = r.fold
			and k.version <= r.up_to order by k.version desc limit 1) s on true
	)
	select n, version, at, codec, sha256, state, 0::bigint as seq, '' as name, null::jsonb as data, null::uuid as user_id, null::uuid as actor_id
	from shot where version is not null
	union all
	select n, e.version, e.at, 0, null, null, e.seq, e.name, e.data, e.user_id, e.actor_id from shot cross join lateral (
		select * from events w where w.aggregate_type = shot.type and w.aggregate_id = shot.id and w.version > coalesce(shot.version, 0)
		and w.version <= shot.up_to order by w.version limit $4) e`

// States returns the newest states of many entities, in their order, as of one moment and in one round trip. An entity
// without events is at version 0. One that cannot be told of like this is nil: [Store.State] tells of it, or why not.
func (s *Store) States(ctx context.Context, entities []Ref) ([]*State, error) {
	all, err := s.foldings(ctx, entities, of(entities, func(Ref) int64 { return math.MaxInt64 }))
	if err != nil {
		return nil, err
	}
	states := make([]*State, len(entities))
	for i, f := range all {
		if f == nil || !f.known || f.tail == maxTail {
			continue
		}
		if _, data, err := f.canonical(); err == nil {
			states[i] = &State{f.entity, f.version, f.at, data}
		}
	}
	return states, nil
}

// foldings makes the states of entities, as of a version of each or the newest before it, from their newest snapshots and
// what comes after them, up to maxTail events. One that a snapshot or an event does not let be made is nil.
func (s *Store) foldings(ctx context.Context, entities []Ref, upTo []int64) ([]*folding, error) {
	f := of(entities, s.start)
	b := &pgx.Batch{}
	b.Queue(planOnce)
	b.Queue(readStates, of(entities, func(r Ref) string { return r.Type }), of(entities, func(r Ref) uuid.UUID { return r.ID }),
		of(entities, func(r Ref) int { return s.schema.fold(r.Type).version }), maxTail, upTo,
	).Query(func(rows pgx.Rows) error {
		var row stateRow
		for rows.Next() {
			row = stateRow{}
			if err := row.scan(rows); err != nil {
				return err
			}
			if i := row.entity - 1; f[i] != nil && !s.take(f[i], &row) {
				f[i] = nil
			}
		}
		return rows.Err()
	})
	if err := s.db.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("read states: %w", err)
	}
	return f, nil
}

// stateRow is an entity's snapshot, or an event after it.
type stateRow struct {
	entity     int64 // counted from 1
	codec      int   // 0: it is an event
	sum, state []byte
	event      Event
}

func (r *stateRow) scan(rows pgx.Rows) error {
	e := &r.event
	return rows.Scan(&r.entity, &e.Version, &e.At, &r.codec, &r.sum, &r.state, &e.Seq, &e.Name, (*[]byte)(&e.Data), &e.UserID, &e.ActorID)
}

// take brings a state to row; false if it cannot.
func (s *Store) take(f *folding, row *stateRow) bool {
	if row.codec == 0 {
		f.tail++
		row.event.Shard, row.event.AggregateType, row.event.AggregateID = f.entity.Shard(), f.entity.Type, f.entity.ID
		e, err := s.schema.newest(row.event)
		return err == nil && f.add(e) == nil
	}
	content, err := s.schema.open(snapshot{Codec: row.codec, SHA256: row.sum, State: row.state})
	if err != nil {
		return false
	}
	f.state, err = decode(content)
	f.version, f.at = row.event.Version, row.event.At
	return err == nil
}
