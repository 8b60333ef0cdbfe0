package event

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/postgres"
)

type pendingKey struct{}

// pending is what a transaction has collected, and what of it is written.
type pending struct {
	events, written []*row
	last            []func(context.Context) error // run before, while nobody else can append
}

func pendingOf(tx *postgres.Tx) *pending {
	p, ok := tx.Value(pendingKey{}).(*pending)
	if !ok {
		p = &pending{}
		tx.SetValue(pendingKey{}, p)
	}
	return p
}

// Append makes e part of tx's last statements. A version that does not match
// fails the transaction with a [VersionError], a key that was used before with
// [ErrDuplicate].
func Append(tx *postgres.Tx, e New) error {
	data, err := e.check()
	if err != nil {
		return err
	}
	return appendRow(tx, &row{New: e, data: data})
}

func appendRow(tx *postgres.Tx, r *row) error {
	p := pendingOf(tx)
	if len(p.events)+len(p.written) == maxEvents {
		return errs.NewInvalid("events", fmt.Sprintf("at most %d in one transaction", maxEvents))
	}
	if len(p.events) == 0 {
		tx.AtLast(func(ctx context.Context) error { return p.write(ctx, tx) })
	}
	p.events = append(p.events, r)
	return nil
}

// Appended returns tx's events with the numbers they got. It is for functions
// given to [postgres.Tx.AfterCommit] and [postgres.Config.OnCommit]; before
// that there are none.
func Appended(tx *postgres.Tx) []Event {
	p, ok := tx.Value(pendingKey{}).(*pending)
	if !ok {
		return nil
	}
	events := make([]Event, len(p.written))
	for i, r := range p.written {
		events[i] = r.event()
	}
	return events
}

// write locks, numbers and inserts what was collected in one round trip, in which it is committed too if it can be.
func (p *pending) write(ctx context.Context, tx *postgres.Tx) error {
	if err := p.alone(ctx, tx); err != nil {
		return err
	}
	b := &pgx.Batch{}
	insert(b, p.events)
	var err error
	if conditional(p.events) {
		err = tx.SendBatch(ctx, b).Close()
	} else {
		err = tx.SendLast(ctx, b)
	}
	if postgres.Violates(err, keyIndex) {
		return ErrDuplicate
	}
	if err != nil {
		return fmt.Errorf("append events: %w", err)
	}
	if !stored(p.events) {
		return settle([][]*row{p.events})[0]
	}
	p.written, p.events = append(p.written, p.events...), nil
	return nil
}

// alone runs what has to be last. All that was appended before is committed then, and nobody appends until tx ends.
func (p *pending) alone(ctx context.Context, tx *postgres.Tx) error {
	if len(p.last) == 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, lockAll, lockSpace, Shards); err != nil {
		return fmt.Errorf("wait for appends to end: %w", err)
	}
	for _, do := range p.last {
		if err := do(ctx); err != nil {
			return err
		}
	}
	p.last = nil
	return nil
}

// Exclude makes b, which is to be a transaction of its own, wait until whoever appends to r's shard has committed, or
// erases anything, and keeps others from it.
func Exclude(b *pgx.Batch, r Ref) {
	b.Queue("select pg_advisory_xact_lock($1, $2)", lockSpace, r.Shard())
}

// keyIndex is the unique index of idempotency keys.
const keyIndex = "events_idempotency_key"
