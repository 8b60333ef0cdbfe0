package session

import (
	"context"
	"sync"

	"rootstream/session/near"
)

// flights lets one caller read for all who ask for the same token meanwhile.
// The reading is the first caller's own work, which ends by its own bounds, so
// that one who gives up does not fail the others.
type flights struct {
	mu    sync.Mutex
	byKey map[near.Key]*flight
}

type flight struct {
	done chan struct{}
	view View
	live bool
	err  error
}

func (f *flights) do(ctx context.Context, k near.Key, read func(context.Context) (View, bool, error)) (View, bool, error) {
	f.mu.Lock()
	if under, ok := f.byKey[k]; ok {
		f.mu.Unlock()
		select {
		case <-under.done:
			return under.view, under.live, under.err
		case <-ctx.Done():
			return View{}, false, ErrBlind.WithCause(context.Cause(ctx))
		}
	}
	mine := &flight{done: make(chan struct{}), err: ErrBlind} // should read panic, the others are refused
	if f.byKey == nil {
		f.byKey = map[near.Key]*flight{}
	}
	f.byKey[k] = mine
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.byKey, k)
		f.mu.Unlock()
		close(mine.done)
	}()
	mine.view, mine.live, mine.err = read(context.WithoutCancel(ctx))
	return mine.view, mine.live, mine.err
}
