package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"rootstream/errs"
)

// Book keeps the ledger for all processes, and a clock they share.
type Book interface {
	Read(ctx context.Context) (body []byte, tag string, err error) // nothing yet: nil, ""
	Swap(ctx context.Context, body []byte, tag string) error       // ErrChanged if the tag is no longer the one that was read
	Now(ctx context.Context) (time.Time, error)
}

// Errors of the ledger.
var (
	ErrChanged = errs.New(errs.Conflict, "schedule_changed", "another process changed the schedule's ledger")
	ErrLost    = errs.New(errs.Conflict, "schedule_claim_lost", "another process took over what this one runs")
	ErrLedger  = errs.New(errs.Internal, "schedule_ledger", "the schedule's ledger cannot be read")
)

// Read returns the ledger, and the time by the clock of all.
func Read(ctx context.Context, b Book) (l Ledger, now time.Time, err error) {
	l, _, now, err = read(ctx, b)
	return l, now, err
}

// RunNow asks that something runs as soon as a process looks, whoever that is.
func RunNow(ctx context.Context, b Book, k Kind, by string) error {
	if !slices.Contains(Kinds(), k) {
		return errs.NewInvalid("kind", fmt.Sprintf("must be one of %v", Kinds()))
	}
	return change(ctx, b, func(l *Ledger, now time.Time) (bool, error) {
		if _, asked := l.Asked[k]; asked {
			return false, nil // it will run
		}
		if l.Asked == nil {
			l.Asked = map[Kind]Ask{}
		}
		l.Asked[k] = Ask{By: by, At: now}
		return true, nil
	})
}

func read(ctx context.Context, b Book) (l Ledger, tag string, now time.Time, err error) {
	if now, err = b.Now(ctx); err != nil {
		return l, "", now, fmt.Errorf("read the schedule's clock: %w", err)
	}
	body, tag, err := b.Read(ctx)
	if err != nil {
		return l, "", now, fmt.Errorf("read the schedule's ledger: %w", err)
	}
	if len(body) > 0 {
		if err = json.Unmarshal(body, &l); err != nil {
			return l, "", now, ErrLedger.WithCause(err).WithHint("delete the object; what ran when is then forgotten, no backup is")
		}
	}
	if l.Jobs == nil {
		l.Jobs = map[string]Record{}
	}
	return l, tag, now, nil
}

// maxRaces bounds how often a change is tried again because another process was faster.
const maxRaces = 10

// change reads the ledger, lets fn change it and writes it back if fn did.
func change(ctx context.Context, b Book, fn func(l *Ledger, now time.Time) (bool, error)) error {
	for race := 0; ; race++ {
		l, tag, now, err := read(ctx, b)
		if err != nil {
			return err
		}
		changed, err := fn(&l, now)
		if err != nil || !changed {
			return err
		}
		l.Serial++
		body, err := json.Marshal(l)
		if err != nil {
			return fmt.Errorf("write the schedule's ledger: %w", err)
		}
		err = b.Swap(ctx, body, tag)
		if err == nil || !errors.Is(err, ErrChanged) || race == maxRaces {
			return err
		}
	}
}
