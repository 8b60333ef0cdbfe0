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
type pending struct{ events, written []*row }

// Append makes e part of tx's last statements. A version that does not match
// fails the transaction with a [VersionError], a key that was used before with
// [ErrDuplicate].
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
	if len(p.events)+len(p.written) == maxEvents {
		return errs.NewInvalid("events", fmt.Sprintf("at most %d in one transaction", maxEvents))
	}
	if len(p.events) == 0 {
		tx.AtLast(func(ctx context.Context) error { return p.write(ctx, tx) })
	}
	p.events = append(p.events, &row{New: e, data: data})
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
	b := &pgx.Batch{}
	insert(b, p.events, nil)
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

// keyIndex is the unique index of idempotency keys.
const keyIndex = "events_idempotency_key"
