package event

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/postgres"
)

// lockSpace is the first key of the advisory locks that order a shard; the second is the shard.
const lockSpace = 7205

type pendingKey struct{}

// pending is what a transaction has collected, and what of it is written.
type pending struct{ events, written []collected }

type collected struct {
	New
	data    json.RawMessage
	seq     int64
	version int64
	at      time.Time
}

// Append makes e part of tx's last statements. A version that does not match
// fails the transaction with a [VersionError].
func Append(tx *postgres.Tx, e New) error {
	data, err := e.check()
	if err != nil {
		return err
	}
	p, ok := tx.Value(pendingKey{}).(*pending)
	if !ok {
		p = &pending{}
		tx.SetValue(pendingKey{}, p)
	}
	if len(p.events)+len(p.written) == maxBatch {
		return errs.NewInvalid("events", fmt.Sprintf("at most %d in one transaction", maxBatch))
	}
	if len(p.events) == 0 {
		tx.AtLast(func(ctx context.Context) error { return p.write(ctx, tx) })
	}
	p.events = append(p.events, collected{New: e, data: data})
	return nil
}

// Appended returns tx's events with the numbers they got. It is for functions
// given to [postgres.Tx.AfterCommit]; before that there are none.
func Appended(tx *postgres.Tx) []Event {
	p, ok := tx.Value(pendingKey{}).(*pending)
	if !ok {
		return nil
	}
	events := make([]Event, len(p.written))
	for i, e := range p.written {
		events[i] = Event{
			Shard: e.Aggregate.Shard(), Seq: e.seq, AggregateType: e.Aggregate.Type, AggregateID: e.Aggregate.ID,
			Version: e.version, Name: e.Name, Data: e.data, UserID: e.UserID, ActorID: e.ActorID, At: e.at,
		}
	}
	return events
}

// insertEvent numbers one event and inserts it if the entity has the version
// that is expected; it answers with that version either way. It runs after the
// shard's lock is held, in a snapshot of its own (READ COMMITTED), so both
// maxima are what is committed.
const insertEvent = `with v as (
		select coalesce((select max(version) from events where aggregate_type = $2 and aggregate_id = $3), 0) as now
	), put as (
		insert into events (shard, seq, aggregate_type, aggregate_id, version, name, data, user_id, actor_id, idempotency_key)
		select $1::smallint, coalesce((select max(seq) from events where shard = $1::smallint), 0) + 1, $2::text, $3::uuid,
		       v.now + 1, $4::text, $5::jsonb, $6::uuid, $7::uuid, nullif($8::text, '')
		from v where $9::bigint in (-1, v.now)
		returning seq, at
	)
	select v.now, put.seq, put.at from v left join put on true`

// write locks, numbers and inserts what was collected in one round trip. The
// shard locks are taken in ascending order, so two transactions never wait for
// each other in a circle.
func (p *pending) write(ctx context.Context, tx *postgres.Tx) error {
	b := &pgx.Batch{}
	for _, s := range p.shards() {
		b.Queue("select pg_advisory_xact_lock($1, $2)", lockSpace, s)
	}
	for i := range p.events {
		e := &p.events[i]
		b.Queue(insertEvent, e.Aggregate.Shard(), e.Aggregate.Type, e.Aggregate.ID, e.Name, e.data,
			e.UserID, e.ActorID, e.IdempotencyKey, e.Expect).QueryRow(e.number)
	}
	err := tx.SendBatch(ctx, b).Close()
	if postgres.Violates(err, "events_idempotency_key") {
		return ErrDuplicate
	}
	if err != nil {
		return fmt.Errorf("append events: %w", err)
	}
	p.written, p.events = append(p.written, p.events...), nil
	return nil
}

// number notes what insertEvent answered.
func (e *collected) number(row pgx.Row) error {
	var now int64
	var seq *int64
	var at *time.Time
	if err := row.Scan(&now, &seq, &at); err != nil {
		return err
	}
	if seq == nil {
		return &VersionError{Entity: e.Aggregate, Expected: e.Expect, Actual: now}
	}
	e.seq, e.version, e.at = *seq, now+1, at.UTC()
	return nil
}

// shards returns the shards of the collected events, each once, ascending.
func (p *pending) shards() []int {
	var shards []int
	for _, e := range p.events {
		shards = append(shards, e.Aggregate.Shard())
	}
	slices.Sort(shards)
	return slices.Compact(shards)
}
