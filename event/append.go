package event

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/postgres"
)

// lockSpace is the first key of the advisory locks that order a shard; the second is the shard.
const lockSpace = 7205

type pendingKey struct{}

// pending is what a transaction has collected.
type pending struct{ events []collected }

type collected struct {
	New
	data json.RawMessage
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
		tx.BeforeCommit(func(ctx context.Context) error { return p.write(ctx, tx) })
	}
	if len(p.events) == maxBatch {
		return errs.NewInvalid("events", fmt.Sprintf("at most %d in one transaction", maxBatch))
	}
	p.events = append(p.events, collected{e, data})
	return nil
}

// write numbers and inserts what was collected. The shard locks are taken in
// ascending order, so two transactions never wait for each other in a circle;
// each statement after them sees all that is committed (READ COMMITTED).
func (p *pending) write(ctx context.Context, tx *postgres.Tx) error {
	shards, refs := p.touched()
	b := &pgx.Batch{}
	for _, s := range shards {
		b.Queue("select pg_advisory_xact_lock($1, $2)", lockSpace, s)
	}
	seqs := make(map[int]int64, len(shards))
	b.Queue(`select s, coalesce((select max(seq) from events where shard = s), 0)
		from unnest($1::smallint[]) s`, shards).Query(func(rows pgx.Rows) error {
		var s int
		var seq int64
		_, err := pgx.ForEachRow(rows, []any{&s, &seq}, func() error { seqs[s] = seq; return nil })
		return err
	})
	types, ids := make([]string, len(refs)), make([]uuid.UUID, len(refs))
	for i, r := range refs {
		types[i], ids[i] = r.Type, r.ID
	}
	versions := make(map[Ref]int64, len(refs))
	b.Queue(`select t, i, coalesce((select max(version) from events where aggregate_type = t and aggregate_id = i), 0)
		from unnest($1::text[], $2::uuid[]) u(t, i)`, types, ids).Query(func(rows pgx.Rows) error {
		var r Ref
		var v int64
		_, err := pgx.ForEachRow(rows, []any{&r.Type, &r.ID, &v}, func() error { versions[r] = v; return nil })
		return err
	})
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("order events: %w", err)
	}
	return p.insert(ctx, tx, seqs, versions)
}

func (p *pending) insert(ctx context.Context, tx *postgres.Tx, seqs map[int]int64, versions map[Ref]int64) error {
	b := &pgx.Batch{}
	for _, e := range p.events {
		shard := e.Aggregate.Shard()
		if have := versions[e.Aggregate]; e.Expect != Any && e.Expect != have {
			return &VersionError{Entity: e.Aggregate, Expected: e.Expect, Actual: have}
		}
		seqs[shard]++
		versions[e.Aggregate]++
		b.Queue(`insert into events (shard, seq, aggregate_type, aggregate_id, version, name, data, user_id, actor_id, idempotency_key)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, nullif($10, ''))`,
			shard, seqs[shard], e.Aggregate.Type, e.Aggregate.ID, versions[e.Aggregate], e.Name, e.data,
			e.UserID, e.ActorID, e.IdempotencyKey)
	}
	err := tx.SendBatch(ctx, b).Close()
	if postgres.Violates(err, "events_idempotency_key") {
		return ErrDuplicate
	}
	if err != nil {
		return fmt.Errorf("append events: %w", err)
	}
	return nil
}

// touched returns the shards and the entities of the collected events, each once, shards ascending.
func (p *pending) touched() ([]int16, []Ref) {
	var shards []int16
	var refs []Ref
	for _, e := range p.events {
		shards = append(shards, int16(e.Aggregate.Shard())) //nolint:gosec // 0 to 15
		refs = append(refs, e.Aggregate)
	}
	slices.Sort(shards)
	slices.SortFunc(refs, func(a, b Ref) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), slices.Compare(a.ID[:], b.ID[:]))
	})
	return slices.Compact(shards), slices.Compact(refs)
}
