package event

import (
	"encoding/json"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// lockSpace is the first key of the advisory locks that order a shard; the second is the shard.
const lockSpace = 7205

// row is an event on its way into the log, and what the statement answered.
type row struct {
	New
	data json.RawMessage

	now          int64 // the entity's version before the statement
	version, seq int64 // the numbers it has if the statement inserted
	at           time.Time
	seen         bool // its idempotency key is in the log
}

// The shards' locks are taken in ascending order, so that two transactions never wait for each other in a circle. A plan that
// was made while the table was small would read all of it long after: what follows the locks is planned to use the indexes.
const (
	byIndex    = `set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_seqscan', 'off', true)`
	planOnce   = `select ` + byIndex
	lockShard  = `select pg_advisory_xact_lock($1, $2), ` + byIndex
	lockShards = `select pg_advisory_xact_lock($1, s) from unnest($2::int[]) s`
	lockAll    = `select pg_advisory_xact_lock($1, s) from generate_series(0, $2::int - 1) s`
)

// insertEvent is insertEvents for a single one, at a third of the time. A used
// key is for the unique index to refuse.
const insertEvent = `with v as (
		select coalesce((select max(version) from events where aggregate_type = $2 and aggregate_id = $3), 0) as now
	), put as (
		insert into events (shard, seq, aggregate_type, aggregate_id, version, name, data, user_id, actor_id, idempotency_key)
		select $1::smallint, coalesce((select max(seq) from events where shard = $1::smallint), 0) + 1, $2::text, $3::uuid,
		       v.now + 1, $4::text, $5::jsonb, $6::uuid, $7::uuid, nullif($8::text, '')
		from v where $9::bigint in (-1, v.now)
		returning seq, at
	)
	select v.now, v.now + 1, coalesce(put.seq, 0), coalesce(put.at, now()), false from v left join put on true`

// insertEvents numbers the wanted events and inserts them all, or none if the
// version of one is not what it expects or the key of one is in the log. It
// answers with each event's numbers either way. It runs after the locks are
// held, in a snapshot of its own (READ COMMITTED), so the maxima are what is
// committed. Each maximum is one descent of an index, whatever the plan's age,
// and what the number is at least keeps it from reading a page of older ones.
const insertEvents = `with entity as materialized (
		select array(select coalesce(
			(select max(e.version) from events e
				where e.aggregate_type = w.aggregate_type and e.aggregate_id = w.aggregate_id and e.version >= w.least),
			(select max(e.version) from events e
				where e.aggregate_type = w.aggregate_type and e.aggregate_id = w.aggregate_id), 0)
			from unnest($1::text[], $2::uuid[], $17::bigint[]) with ordinality w (aggregate_type, aggregate_id, least, ord)
			order by ord) as now
	), head as materialized (
		select array(select coalesce(
			(select max(e.seq) from events e where e.shard = w.shard and e.seq >= w.least),
			(select max(e.seq) from events e where e.shard = w.shard), 0)
			from unnest($3::smallint[], $18::bigint[]) with ordinality w (shard, least, ord) order by ord) as now
	), numbered as materialized (
		select w.*, entity.now[w.entity] as now, entity.now[w.entity] + w.after_now as version, head.now[w.head] + w.after_head as seq,
			w.key <> '' and coalesce((select true from events e where e.idempotency_key = w.key limit 1), false) as seen,
			clock_timestamp() as at
		from unnest($4::int[], $5::int[], $6::int[], $7::int[], $8::smallint[], $9::text[], $10::uuid[], $11::text[], $12::text[],
				$13::uuid[], $14::uuid[], $15::text[], $16::bigint[])
			with ordinality w (entity, after_now, head, after_head, shard, aggregate_type, aggregate_id, name, data,
				user_id, actor_id, key, expect, ord), entity, head
	), put as (
		insert into events (shard, seq, aggregate_type, aggregate_id, version, name, data, user_id, actor_id, at, idempotency_key)
		select shard, seq, aggregate_type, aggregate_id, version, name, data::jsonb, user_id, actor_id, at, nullif(key, '')
		from numbered
		where not exists (select from numbered where seen or expect not in (-1, version - 1))
	)
	select now, version, seq, at, seen from numbered order by ord`

// places numbers the distinct keys of rows: for each row which key it has, and the how many-th with that key it is.
type places[K comparable] struct {
	keys         []K
	which, count []int32 // from 1 on
}

func placesOf[K comparable](rows []*row, key func(*row) K) (p places[K]) {
	seen, counts := make(map[K]int32, len(rows)), []int32{}
	for _, r := range rows {
		k := key(r)
		if seen[k] == 0 {
			p.keys, counts = append(p.keys, k), append(counts, 0)
			seen[k] = int32(len(p.keys)) //nolint:gosec // at most a thousand
		}
		n := seen[k]
		counts[n-1]++
		p.which, p.count = append(p.which, n), append(p.count, counts[n-1])
	}
	return p
}

// insert makes b lock, number and insert rows. Their numbers stand once b is through. heads are what the shards' newest
// numbers are at least; nil means that nothing is known.
func insert(b *pgx.Batch, rows []*row, heads *heads) {
	if len(rows) > 1 {
		insertMany(b, rows, heads)
		return
	}
	r := rows[0]
	b.Queue(lockShard, lockSpace, r.Aggregate.Shard())
	b.Queue(insertEvent, r.Aggregate.Shard(), r.Aggregate.Type, r.Aggregate.ID, r.Name, r.data,
		r.UserID, r.ActorID, r.IdempotencyKey, r.Expect).QueryRow(r.scan)
}

// insertMany is insert with a statement that also tells which keys are used.
func insertMany(b *pgx.Batch, rows []*row, known *heads) {
	entities := placesOf(rows, func(r *row) Ref { return r.Aggregate })
	shard := func(r *row) int16 { return int16(r.Aggregate.Shard()) } //nolint:gosec // 0 to 15
	heads := placesOf(rows, shard)
	b.Queue(planOnce)
	b.Queue(lockShards, lockSpace, slices.Sorted(slices.Values(heads.keys)))
	b.Queue(insertEvents,
		of(entities.keys, func(r Ref) string { return r.Type }), of(entities.keys, func(r Ref) uuid.UUID { return r.ID }), heads.keys,
		entities.which, entities.count, heads.which, heads.count, of(rows, shard),
		of(rows, func(r *row) string { return r.Aggregate.Type }), of(rows, func(r *row) uuid.UUID { return r.Aggregate.ID }),
		of(rows, func(r *row) string { return r.Name }),
		of(rows, func(r *row) string { return string(r.data) }),
		of(rows, func(r *row) *uuid.UUID { return r.UserID }), of(rows, func(r *row) *uuid.UUID { return r.ActorID }),
		of(rows, func(r *row) string { return r.IdempotencyKey }), of(rows, func(r *row) int64 { return r.Expect }),
		expected(entities, rows), of(heads.keys, known.least),
	).Query(func(answer pgx.Rows) error {
		for i := 0; answer.Next(); i++ {
			if err := rows[i].scan(answer); err != nil {
				return err
			}
		}
		return answer.Err()
	})
}

// expected is what the versions of entities are at least if their first events of rows expect the right ones.
func expected(entities places[Ref], rows []*row) []int64 {
	least := make([]int64, len(entities.keys))
	for i, r := range rows {
		if entities.count[i] == 1 {
			least[entities.which[i]-1] = r.Expect
		}
	}
	return least
}

// heads are numbers that the shards have been seen to have.
type heads [Shards]atomic.Int64

func (h *heads) least(shard int16) int64 {
	if h == nil {
		return 0
	}
	return h[shard].Load()
}

// saw notes e's number; that of an older event may take a newer one's place.
func (h *heads) saw(e *Event) { h[e.Shard].Store(e.Seq) }

// of is one column of rows.
func of[R, V any](rows []R, value func(R) V) []V {
	column := make([]V, len(rows))
	for i, r := range rows {
		column[i] = value(r)
	}
	return column
}

// scan notes what the statement answered.
func (r *row) scan(answer pgx.Row) error {
	err := answer.Scan(&r.now, &r.version, &r.seq, &r.at, &r.seen)
	r.at = r.at.UTC()
	return err
}

// stored reports whether the statement that answered rows inserted them.
func stored(rows []*row) bool {
	return !slices.ContainsFunc(rows, func(r *row) bool {
		return r.seen || r.Expect != Any && r.Expect != r.version-1
	})
}

// errLater is settle's answer for a unit whose fate hangs on those before it.
var errLater = errors.New("run the units before it first")

// conditional reports whether the statement's answer tells if it inserted rows. Otherwise they are in, unless it failed.
func conditional(rows []*row) bool {
	return slices.ContainsFunc(rows, func(r *row) bool {
		return r.Expect != Any || len(rows) > 1 && r.IdempotencyKey != ""
	})
}

// settle says of each unit in a statement that inserted nothing whether it can
// go in after those before it: nil if it can; [ErrDuplicate] or a
// [VersionError] if it cannot, whatever becomes of them; else errLater. At
// least one is not nil, and the first one of an entity is never errLater.
func settle(units [][]*row) []error {
	faults := make([]error, len(units))
	versions := map[Ref]int64{} // of the entities as the accepted units would leave them
	for i, rows := range units {
		faults[i] = fault(rows, versions)
	}
	return faults
}

func fault(rows []*row, versions map[Ref]int64) error {
	own := map[Ref]int64{} // versions that this unit adds
	later := false
	for _, r := range rows {
		if r.seen {
			return ErrDuplicate
		}
		stored := r.now + own[r.Aggregate]
		most := max(r.now, versions[r.Aggregate]) + own[r.Aggregate]
		if r.Expect != Any && (r.Expect < stored || r.Expect > most) {
			return &VersionError{Entity: r.Aggregate, Expected: r.Expect, Actual: stored}
		}
		later = later || r.Expect != Any && r.Expect != most
		own[r.Aggregate]++
	}
	if later {
		return errLater
	}
	for _, r := range rows {
		versions[r.Aggregate] = max(r.now, versions[r.Aggregate]) + 1
	}
	return nil
}

// event is r as it was stored.
func (r *row) event() Event {
	return Event{
		Shard: r.Aggregate.Shard(), Seq: r.seq, AggregateType: r.Aggregate.Type, AggregateID: r.Aggregate.ID,
		Version: r.version, Name: r.Name, Data: r.data, UserID: r.UserID, ActorID: r.ActorID, At: r.at,
	}
}
