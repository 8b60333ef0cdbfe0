package event

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/postgres"
)

// Pruned is what retention removed, or would.
type Pruned struct {
	Events    int64 `json:"events"`
	Snapshots int64 `json:"snapshots"`
}

const pruneBatch = 5000

// bases are the newest snapshots taken before $2 of the entities of shard $1;
// the events up to them can go. $3 and $4 are the types' folds.
const bases = `with base as (
		select aggregate_type, aggregate_id, fold, max(version) as version from event_snapshots
		where event_shard(aggregate_id) = $1 and at < $2
		and fold = coalesce((select f from unnest($3::text[], $4::int[]) known (t, f) where t = aggregate_type), 0)
		group by 1, 2, 3
	), old as (
		select s.ctid from event_snapshots s join base b using (aggregate_type, aggregate_id) where s.version < b.version
	), doomed as (
		select e.seq from events e join base b using (aggregate_type, aggregate_id)
		where e.shard = $1 and e.version <= b.version
		and e.version < (select max(n.version) from events n
			where n.aggregate_type = e.aggregate_type and n.aggregate_id = e.aggregate_id)
		and e.seq < (select max(seq) from events where shard = $1)
		and e.seq <= coalesce((select min(seq) from event_cursors where shard = $1), e.seq)
		order by e.seq limit $5
	)`

const prune = bases + `, gone as (
		delete from events where shard = $1 and seq in (select seq from doomed) returning seq
	), cut as (
		delete from event_snapshots where ctid in (select ctid from old) returning 1
	), reached as (
		insert into event_horizon (shard, seq) select $1, max(seq) + 1 from gone having count(*) > 0
		on conflict (shard) do update set seq = greatest(event_horizon.seq, excluded.seq)
	)
	select (select count(*) from gone), (select count(*) from cut)`

const prunable = bases + ` select (select count(*) from doomed), (select count(*) from old)`

// Prune removes events that a snapshot older than before makes dispensable,
// and that every [Consumer] has handled; never the last of an entity or a
// shard. States and events before such a snapshot are then gone: [ErrPruned].
// A dry run only counts.
func (s *Store) Prune(ctx context.Context, before time.Time, dry bool) (total Pruned, err error) {
	var types []string
	var folds []int
	for t, f := range s.schema.folds {
		types, folds = append(types, t), append(folds, f.version)
	}
	for shard := range Shards {
		for {
			b := &pgx.Batch{} // one transaction
			b.Queue("select pg_advisory_xact_lock($1, $2)", lockSpace, eraseLock)
			statement, limit := prune, int64(pruneBatch)
			if dry {
				statement, limit = prunable, 1<<62
			}
			var one Pruned
			b.Queue(statement, shard, before, types, folds, limit).QueryRow(func(row pgx.Row) error {
				return row.Scan(&one.Events, &one.Snapshots)
			})
			if err := s.db.SendBatch(ctx, b).Close(); err != nil {
				return total, fmt.Errorf("prune shard %d: %w", shard, err)
			}
			total.Events += one.Events
			total.Snapshots += one.Snapshots
			if dry || one.Events < pruneBatch {
				break
			}
		}
	}
	return total, nil
}

// erase replaces the values in data by the mark that they are gone, removes the
// snapshots of the entities concerned, and answers which those are.
const erase = `with hit as (
		update events set data = jsonb_build_object('erased', true, 'fields', case jsonb_typeof(data)
			when 'object' then (select coalesce(jsonb_agg(k order by k), '[]') from jsonb_object_keys(data) k) else '[]' end)
		where (aggregate_type = $1 and aggregate_id = $2 or $1 = 'user' and user_id = $2)
		and case jsonb_typeof(data) when 'object' then data <> '{}' and data - 'fields' <> '{"erased": true}' else true end
		returning aggregate_type, aggregate_id
	), entity as (
		select aggregate_type, aggregate_id, count(*) as events from hit group by 1, 2
	), cut as (
		delete from event_snapshots s where (s.aggregate_type, s.aggregate_id) = ($1, $2)
		or (s.aggregate_type, s.aggregate_id) in (select aggregate_type, aggregate_id from entity)
	)
	select aggregate_type, aggregate_id, events, (select min(e.version) > 1 from events e
		where e.aggregate_type = entity.aggregate_type and e.aggregate_id = entity.aggregate_id)
	from entity order by 1, 2`

// eraseLegacy does the same in the tables of 24.2 that hold what was imported, or will be.
const eraseLegacy = `with known as (
		select aggregate_type, aggregate_id from event_log_entities where entity = $2
		union select 'user', id from users where $1 = 'user' and public_id = $2
	), states as (
		delete from snapshots where (lower(aggregate_type), aggregate_id) in (select aggregate_type, aggregate_id from known)
	)
	update event_log set event_data = '` + Nothing + `'
	where (lower(aggregate_type), aggregate_id) in (select aggregate_type, aggregate_id from known)
	or user_id = (select id from users where $1 = 'user' and public_id = $2)
	or id in (select legacy_id from events where aggregate_type = $1 and aggregate_id = $2 or $1 = 'user' and user_id = $2)`

// Erase removes the values from the data of r's events and, if r is a user, of
// all events in that user's audit trail; the names of the fields stay, and so do
// events that have none. What 24.2 kept of r goes too. It
// appends an event named erased to r, which starts with an empty state there,
// and to other entities whose state cannot be told without what is gone. It
// returns how many events lost their values.
//
// At the end of tx it looks once more, when nobody else can append: an event
// that was on its way meanwhile loses its values too. also, unless nil, is
// called then.
func Erase(ctx context.Context, tx *postgres.Tx, r Ref, also func(context.Context) error) (int, error) {
	if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1, $2)", lockSpace, eraseLock); err != nil {
		return 0, fmt.Errorf("erase %s: %w", r, err)
	}
	if _, err := tx.Exec(ctx, eraseLegacy, r.Type, r.ID); err != nil {
		return 0, fmt.Errorf("erase what 24.2 kept of %s: %w", r, err)
	}
	p := pendingOf(tx)
	p.last = append(p.last, func(ctx context.Context) error {
		if _, err := wipe(ctx, tx, r); err != nil || also == nil {
			return err
		}
		return also(ctx)
	})
	if err := Append(tx, New{Aggregate: r, Name: ErasureOf(r.Type), Expect: Any}); err != nil {
		return 0, err
	}
	return wipe(ctx, tx, r)
}

// Redact makes it part of tx's last statements that an entity of which a user's erasure has wiped events has a new version:
// whoever made something of them reads it again, and whoever was about to change it does so on what is left. If r is erased
// itself in tx, that is enough.
func Redact(tx *postgres.Tx, r Ref, user uuid.UUID) error {
	if slices.ContainsFunc(pendingOf(tx).events, func(o *row) bool { return o.Aggregate == r && o.Name == ErasureOf(r.Type) }) {
		return nil
	}
	return appendRow(tx, &row{
		New:  New{Aggregate: r, Name: RedactionOf(r.Type), UserID: &user, Expect: Any},
		data: json.RawMessage(Nothing),
	})
}

// Nothing is what the data of an event that had none is, once it is erased.
const Nothing = `{"erased": true, "fields": []}`

// wipe erases what is committed.
func wipe(ctx context.Context, tx *postgres.Tx, r Ref) (total int, err error) {
	rows, err := tx.Query(ctx, erase, r.Type, r.ID)
	if err != nil {
		return 0, fmt.Errorf("erase %s: %w", r, err)
	}
	var anew []Ref
	var one Ref
	var events int
	var pruned bool
	_, err = pgx.ForEachRow(rows, []any{&one.Type, &one.ID, &events, &pruned}, func() error {
		total += events
		if pruned && one != r {
			anew = append(anew, one)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("erase %s: %w", r, err)
	}
	for _, entity := range anew {
		if err := Append(tx, New{Aggregate: entity, Name: ErasureOf(entity.Type), Expect: Any}); err != nil {
			return 0, err
		}
	}
	return total, nil
}
