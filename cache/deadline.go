package cache

import (
	"context"
	"sync/atomic"
	"time"
)

// deadlines hands out contexts that end after timeout, or up to an eighth later. Commands begun within the same eighth
// share one, which costs a pointer load where context.WithTimeout costs a timer and four allocations.
type deadlines struct {
	timeout time.Duration
	current atomic.Pointer[deadline]
}

// deadline is a context that ends at a time and in no other way.
type deadline struct {
	at    time.Time // when it ends
	fresh time.Time // until when it may be handed out
	done  chan struct{}
}

func (d *deadline) Deadline() (time.Time, bool) { return d.at, true }
func (d *deadline) Done() <-chan struct{}       { return d.done }
func (d *deadline) Value(any) any               { return nil }

func (d *deadline) Err() error {
	select {
	case <-d.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// bound returns a context that ends by the command timeout: ctx itself if it ends sooner. Otherwise the cancellation of
// ctx is not followed, since it could save no more than the command timeout.
func (ds *deadlines) bound(ctx context.Context, now time.Time) context.Context {
	d := ds.current.Load()
	if d == nil || !now.Before(d.fresh) {
		d = ds.renew(d, now)
	}
	if at, ok := ctx.Deadline(); ok && at.Before(d.at) {
		return ctx
	}
	return d
}

func (ds *deadlines) renew(old *deadline, now time.Time) *deadline {
	slack := ds.timeout / 8
	d := &deadline{at: now.Add(ds.timeout + slack), fresh: now.Add(slack), done: make(chan struct{})}
	if !ds.current.CompareAndSwap(old, d) {
		return ds.current.Load()
	}
	time.AfterFunc(ds.timeout+slack, func() { close(d.done) })
	return d
}
