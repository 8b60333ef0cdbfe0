package guard

import (
	"context"
	"sync"
	"time"

	"rootstream/errs"
)

// ErrBusy is a queue that did not move.
var ErrBusy = errs.New(errs.Unavailable, "busy", "too many tries are being judged right now")

// Turns lets tries at one key go one after the other, so that many right
// passwords at once are all let in although each is counted before it is judged.
type Turns struct {
	mu   sync.Mutex
	keys map[string]*turn
}

type turn struct {
	free    chan struct{} // holds one token while nobody has the turn
	waiting int
}

// longestQueue is how long somebody waits for a turn.
const longestQueue = 10 * time.Second

// Take waits for the turn of key; the returned function passes it on.
func (t *Turns) Take(ctx context.Context, key string) (func(), error) {
	t.mu.Lock()
	if t.keys == nil {
		t.keys = map[string]*turn{}
	}
	q, ok := t.keys[key]
	if !ok {
		q = &turn{free: make(chan struct{}, 1)}
		q.free <- struct{}{}
		t.keys[key] = q
	}
	q.waiting++
	t.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, longestQueue)
	defer cancel()
	select {
	case <-q.free:
		return func() { q.free <- struct{}{}; t.leave(key, q) }, nil
	case <-ctx.Done():
		t.leave(key, q)
		return nil, ErrBusy.WithCause(ctx.Err()).WithRetryAfter(2 * time.Second)
	}
}

func (t *Turns) leave(key string, q *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if q.waiting--; q.waiting == 0 {
		delete(t.keys, key)
	}
}
