package watch

import (
	"context"
	"net/http"
	"sync"
	"time"

	"rootstream/internal/wait"
	"rootstream/statesync"
)

// connection is somebody who watches. Its goroutine writes; another is told of
// changes, and waits when the client is slow.
type connection struct {
	viewer
	w       http.ResponseWriter
	rc      *http.ResponseController
	wake    chan struct{} // there is something to send
	room    chan struct{} // something was sent
	checked time.Time

	mu     sync.Mutex
	unsent []byte
	spare  []byte
}

// run serves the client until it leaves, is too slow or may no longer watch, or the server ends.
func (c *connection) run(ctx context.Context, wish Wish) {
	_ = c.rc.SetReadDeadline(time.Time{}) // one that passed would end the connection
	h := c.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	if !c.send([]byte("retry: 1000\n: watching\n\n")) {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	told := make(chan error, 1)
	o := statesync.SubOptions{From: wish.From, OnReady: func(t statesync.Token) {
		switch {
		case wish.Unknown:
			c.put([]byte("event: reset\ndata: {\"reset\":true,\"reason\":\"unknown\"}\n"), t)
		case wish.From.IsZero(): // who leaves before anything has happened can still resume
			c.put(nil, t)
		}
	}}
	go func() {
		defer close(told)
		told <- c.hub.cfg.State.Subscribe(ctx, wish.Topics, o, func(change statesync.Change) error { return c.tell(ctx, change) })
	}()
	c.write(ctx, told)
	cancel()
	for err := range told {
		c.hub.ended(err)
	}
}

// tell queues one change; it waits while the client has too much to read.
func (c *connection) tell(ctx context.Context, change statesync.Change) error {
	ok, err := c.sees(ctx, &change)
	if err != nil || !ok {
		return err
	}
	text, err := c.hub.envelopes.text(&change)
	if err != nil {
		return err
	}
	for c.full() {
		select {
		case <-c.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	c.put(text, change.Token)
	return nil
}

func (c *connection) full() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.unsent) >= maxUnsent
}

// put queues text, and where to resume after it.
func (c *connection) put(text []byte, t statesync.Token) {
	c.mu.Lock()
	c.unsent = append(c.unsent, text...)
	c.unsent = append(c.unsent, "id: "...)
	c.unsent = append(c.unsent, t.String()...)
	c.unsent = append(c.unsent, "\n\n"...)
	c.mu.Unlock()
	wait.Wake(c.wake)
}

// write sends what is queued, at once after a pause and else a tick's worth
// together, until nothing more comes or the client may not have it.
func (c *connection) write(ctx context.Context, told <-chan error) {
	alive, check, later := time.NewTicker(beat), time.NewTicker(recheck), time.NewTimer(time.Hour)
	defer alive.Stop()
	defer check.Stop()
	defer later.Stop()
	var sent time.Time
	for ok := true; ok; {
		select {
		case <-ctx.Done():
			return
		case <-c.hub.ending:
			c.flush(ctx)
			return
		case err := <-told:
			c.hub.ended(err)
			c.flush(ctx)
			return
		case <-c.wake:
			if rest := tick - time.Since(sent); rest > 0 {
				later.Reset(rest)
				continue
			}
			ok, sent = c.flush(ctx), time.Now()
		case <-later.C:
			ok, sent = c.flush(ctx), time.Now()
		case <-alive.C:
			ok = c.send([]byte(":\n\n"))
		case <-check.C:
			ok = c.allowed(ctx)
		}
	}
}

// allowed looks at the session, unless that was done a moment ago.
func (c *connection) allowed(ctx context.Context) bool {
	if time.Since(c.checked) < recheck/2 {
		return true
	}
	c.checked = time.Now()
	return c.check(ctx)
}

// flush sends what is queued, if the client may still have it.
func (c *connection) flush(ctx context.Context) bool {
	if time.Since(c.checked) > recheck && !c.allowed(ctx) {
		return false
	}
	c.mu.Lock()
	c.unsent, c.spare = c.spare[:0], c.unsent
	c.mu.Unlock()
	wait.Wake(c.room)
	return len(c.spare) == 0 || c.send(c.spare)
}

// send writes and flushes; false if the client does not take it in time.
func (c *connection) send(b []byte) bool {
	_ = c.rc.SetWriteDeadline(time.Now().Add(writeDeadline))
	if _, err := c.w.Write(b); err != nil {
		return false
	}
	return c.rc.Flush() == nil
}
