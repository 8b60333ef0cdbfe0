package event

import (
	"encoding/json"
	"errors"
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

// The shards' locks are taken in ascending order, so that two transactions never wait for each other in a circle.
const (
	lockShard  = `select pg_advisory_xact_lock($1, $2)`
	lockShards = `select pg_advisory_xact_lock($1, s) from unnest($2::int[]) s`
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
// committed. Each maximum is one descent of an index, whatever the plan's age.
const insertEvents = `with want as materialized (
		select * from unnest($1::smallint[], $2::text[], $3::uuid[], $4::text[], $5::text[], $6::uuid[], $7::uuid[], $8::text[], $9::bigint[])
			with ordinality w (shard, aggregate_type, aggregate_id, name, data, user_id, actor_id, key, expect, ord)
	), entity as (
		select aggregate_type, aggregate_id, coalesce((select max(e.version) from events e
			where e.aggregate_type = w.aggregate_type and e.aggregate_id = w.aggregate_id), 0) as now
		from (select distinct aggregate_type, aggregate_id from want) w
	), head as (
		select shard, coalesce((select max(e.seq) from events e where e.shard = w.shard), 0) as now
		from (select distinct shard from want) w
	), numbered as materialized (
		select w.*, entity.now,
			entity.now + row_number() over (partition by w.aggregate_type, w.aggregate_id order by w.ord) as version,
			head.now + row_number() over (partition by w.shard order by w.ord) as seq,
			w.key <> '' and coalesce((select true from events e where e.idempotency_key = w.key limit 1), false) as seen,
			clock_timestamp() as at
		from want w join entity using (aggregate_type, aggregate_id) join head using (shard)
	), put as (
		insert into events (shard, seq, aggregate_type, aggregate_id, version, name, data, user_id, actor_id, at, idempotency_key)
		select shard, seq, aggregate_type, aggregate_id, version, name, data::jsonb, user_id, actor_id, at, nullif(key, '')
		from numbered
		where not exists (select from numbered where seen or expect not in (-1, version - 1))
	)
	select now, version, seq, at, seen from numbered order by ord`

// insert makes b lock, number and insert rows. Their numbers stand once b is through.
func insert(b *pgx.Batch, rows []*row) {
	if len(rows) > 1 {
		insertMany(b, rows)
		return
	}
	r := rows[0]
	b.Queue(lockShard, lockSpace, r.Aggregate.Shard())
	b.Queue(insertEvent, r.Aggregate.Shard(), r.Aggregate.Type, r.Aggregate.ID, r.Name, r.data,
		r.UserID, r.ActorID, r.IdempotencyKey, r.Expect).QueryRow(r.scan)
}

// insertMany is insert with a statement that also tells which keys are used.
func insertMany(b *pgx.Batch, rows []*row) {
	n := len(rows)
	shards, types, ids, names := make([]int16, n), make([]string, n), make([]uuid.UUID, n), make([]string, n)
	data, users, actors := make([]string, n), make([]*uuid.UUID, n), make([]*uuid.UUID, n)
	keys, expected := make([]string, n), make([]int64, n)
	for i, r := range rows {
		shards[i], types[i], ids[i], names[i] = int16(r.Aggregate.Shard()), r.Aggregate.Type, r.Aggregate.ID, r.Name //nolint:gosec // 0 to 15
		data[i], users[i], actors[i] = string(r.data), r.UserID, r.ActorID
		keys[i], expected[i] = r.IdempotencyKey, r.Expect
	}
	locked := slices.Clone(shards)
	slices.Sort(locked)
	b.Queue(lockShards, lockSpace, slices.Compact(locked))
	b.Queue(insertEvents, shards, types, ids, names, data, users, actors, keys, expected).Query(func(answer pgx.Rows) error {
		for i := 0; answer.Next(); i++ {
			if err := rows[i].scan(answer); err != nil {
				return err
			}
		}
		return answer.Err()
	})
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
