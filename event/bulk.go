package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
// What numbers its events by itself says so: events_follow, a trigger, need not look whether they follow each other.
const (
	byIndex    = `set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_seqscan', 'off', true)`
	planOnce   = `select ` + byIndex
	numbered   = byIndex + `, set_config('rootstream.numbered', 'on', true)`
	numbering  = `select ` + numbered
	lockShard  = `select pg_advisory_xact_lock($1, $2), ` + numbered
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
// answers in one row: with what the numbers count from, and whether that is as
// was said; if so, and nothing had to be looked up, when it was, else what each
// version counts from and which keys are used, whatever was inserted.
// It runs after the locks are held, in a snapshot of its own (READ COMMITTED), so
// what it finds is what is committed. Each maximum is one descent of an index,
// whatever the plan's age, and what the number is at least keeps it from reading
// a page of older ones. Columns that hold nothing come as null; side by side in a
// select list, arrays are taken apart without a copy of each.
const insertEvents = `with shards as materialized (
		select w.ord, coalesce(n.seq, 0) as seq,
			coalesce((n.seq, n.at, n.aggregate_id, t.token) = (w.seq, w.at, w.entity, w.token), false) as confirmed
		from unnest($1::smallint[], $2::bigint[], $3::timestamptz[], $4::uuid[], $5::uuid[])
			with ordinality w (shard, seq, at, entity, token, ord)
		left join event_rewrites t on t.one
		left join lateral ((select e.seq, e.at, e.aggregate_id from events e where e.shard = w.shard and e.seq >= w.seq order by e.seq desc limit 1)
			union all (select e.seq, e.at, e.aggregate_id from events e where e.shard = w.shard order by e.seq desc limit 1) limit 1) n on true
	), head as materialized (
		select array_agg(seq order by ord) as now, array_agg(confirmed order by ord) as confirmed, clock_timestamp() as at,
			bool_and(confirmed) and $17::bigint[] is not null and not exists (select from unnest($15::text[]) k
				where k <> '' and exists (select from events e where e.idempotency_key = k)) as known
		from shards
	), wanted as (
		select ` + wantedColumns + `, unnest($16::bigint[]) as expect, generate_series(1, cardinality($6::int[])) as ord
	), numbered as materialized (
		select w.*, coalesce(
				(select max(e.version) from events e where e.aggregate_type = w.aggregate_type
					and e.aggregate_id = w.aggregate_id and e.version > w.expect - coalesce(w.after_now, 1)),
				(select max(e.version) from events e where e.aggregate_type = w.aggregate_type and e.aggregate_id = w.aggregate_id),
				0) as now,
			w.key <> '' and coalesce((select true from events e where e.idempotency_key = w.key limit 1), false) as seen,
			clock_timestamp() as at
		from wanted w, head where not head.known
	), put as (
		insert into events (shard, seq, aggregate_type, aggregate_id, version, name, data, user_id, actor_id, at, idempotency_key)
		select ($1::smallint[])[n.head], head.now[n.head] + after_head, aggregate_type, aggregate_id, n.now + coalesce(after_now, 1),
			name, data::jsonb, user_id, actor_id, coalesce(n.at, head.at), nullif(key, '')
		from head, (
			select w.*, null::timestamptz as at from (select ` + wantedColumns + `, unnest($17::bigint[]) as now) w, head where head.known
			union all
			select head, after_head, after_now, aggregate_type, aggregate_id, name, data, user_id, actor_id, key, now, at from numbered
			where not exists (select from numbered where seen or expect not in (-1, now + coalesce(after_now, 1) - 1))) n
	)
	select head.now, head.confirmed, (select token from event_rewrites where one), head.known, head.at, looked.*
	from head, (select array_agg(now), array_agg(at), array_agg(ord) filter (where seen)
		from (select now, at, ord, seen from numbered order by ord) n) looked`

const wantedColumns = `unnest($6::int[]) as head, unnest($7::int[]) as after_head, unnest($8::int[]) as after_now,
			unnest($9::text[]) as aggregate_type, unnest($10::uuid[]) as aggregate_id, unnest($11::text[]) as name, unnest($12::text[]) as data,
			unnest($13::uuid[]) as user_id, unnest($14::uuid[]) as actor_id, unnest($15::text[]) as key`

// places numbers the distinct keys of rows: for each row which key it has, and the how many-th with that key it is.
type places[K comparable] struct {
	keys         []K
	which, count []int32 // from 1 on
}

func placesOf[K comparable](rows []*row, key func(*row) K) (p places[K]) {
	seen, counts := make(map[K]int32, len(rows)), []int32{}
	for _, r := range rows {
		k := key(r)
		n := seen[k]
		if n == 0 {
			p.keys, counts = append(p.keys, k), append(counts, 0)
			n = int32(len(p.keys)) //nolint:gosec // at most a thousand
			seen[k] = n
		}
		counts[n-1]++
		p.which, p.count = append(p.which, n), append(p.count, counts[n-1])
	}
	return p
}

// insert makes b lock, number and insert rows. Their numbers stand once b is through.
func insert(b *pgx.Batch, rows []*row) {
	if len(rows) > 1 {
		insertMany(b, rows, nil)
		return
	}
	r := rows[0]
	b.Queue(lockShard, lockSpace, r.Aggregate.Shard())
	b.Queue(insertEvent, r.Aggregate.Shard(), r.Aggregate.Type, r.Aggregate.ID, r.Name, r.data,
		r.UserID, r.ActorID, r.IdempotencyKey, r.Expect).QueryRow(r.scan)
}

// insertMany is insert with a statement that also tells which keys are used. What is known need not be looked up.
func insertMany(b *pgx.Batch, rows []*row, known *known) *claim {
	entities := placesOf(rows, func(r *row) Ref { return r.Aggregate })
	heads := placesOf(rows, func(r *row) int16 { return int16(r.Aggregate.Shard()) }) //nolint:gosec // 0 to 15
	c := known.claim(rows, entities.count, heads)
	b.Queue(numbering)
	b.Queue(lockShards, lockSpace, slices.Sorted(slices.Values(heads.keys)))
	b.Queue(insertEvents, heads.keys, of(c.marks, func(m mark) int64 { return m.seq }), of(c.marks, mark.when),
		of(c.marks, func(m mark) uuid.UUID { return m.entity }), of(c.marks, func(m mark) uuid.UUID { return m.token }),
		heads.which, heads.count, entities.repeated(),
		of(rows, func(r *row) string { return r.Aggregate.Type }), of(rows, func(r *row) uuid.UUID { return r.Aggregate.ID }),
		of(rows, func(r *row) string { return r.Name }), of(rows, func(r *row) []byte { return r.data }),
		anyOf(rows, func(r *row) *uuid.UUID { return r.UserID }), anyOf(rows, func(r *row) *uuid.UUID { return r.ActorID }),
		anyOf(rows, func(r *row) string { return r.IdempotencyKey }), of(rows, func(r *row) int64 { return r.Expect }), c.versions,
	).QueryRow(func(answer pgx.Row) error {
		a := answered{claim: c}
		if err := answer.Scan(&a.heads, &c.confirmed, &c.token, &c.believed, &a.then, &a.now, &a.at, &a.seen); err != nil {
			return err
		}
		return a.tell(rows, entities.count)
	})
	return c
}

// answered is what insertEvents says.
type answered struct {
	*claim
	heads []int64   // numbers before it
	then  time.Time // of all events, if nothing was looked up

	now  []int64     // versions before it
	at   []time.Time // of the events
	seen []int32     // which of them have a key that is used, from 1 on
}

// tell notes the numbers in rows, which are the how many-th of their entity.
func (a answered) tell(rows []*row, nth []int32) error {
	if a.believed {
		a.now, a.at = a.versions, slices.Repeat([]time.Time{a.then}, len(rows))
	}
	if len(a.now) != len(rows) || len(a.at) != len(rows) || len(a.heads) != len(a.marks) || len(a.confirmed) != len(a.marks) {
		return fmt.Errorf("%d events were answered as %d", len(rows), len(a.now))
	}
	for i, r := range rows {
		r.now, r.at, r.seen = a.now[i], a.at[i].UTC(), false
		r.version = r.now + int64(nth[i])
		r.seq = a.heads[a.shards.which[i]-1] + int64(a.shards.count[i])
	}
	for _, i := range a.seen {
		rows[i-1].seen = true
	}
	return nil
}

// of is one column of rows.
func of[R, V any](rows []R, value func(R) V) []V {
	column := make([]V, len(rows))
	for i, r := range rows {
		column[i] = value(r)
	}
	return column
}

// anyOf is one column of rows, nil if all that it holds is the zero value.
func anyOf[R any, V comparable](rows []R, value func(R) V) []V {
	var none V
	if !slices.ContainsFunc(rows, func(r R) bool { return value(r) != none }) {
		return nil
	}
	return of(rows, value)
}

// repeated is count, nil if every key has a single row.
func (p places[K]) repeated() []int32 {
	if len(p.keys) == len(p.count) {
		return nil
	}
	return p.count
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
