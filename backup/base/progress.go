package base

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"rootstream/internal/wait"
)

// progress counts what workers have done.
type progress struct {
	callback            func(Progress)
	phase               Phase
	total, files, bytes atomic.Int64
}

// tell calls back. Only the goroutine that runs the backup, or the one that watches in its place, calls it.
func (p *progress) tell(stored int64) {
	p.callback(Progress{Phase: p.phase, Files: p.files.Load(), Bytes: p.bytes.Load(), Total: p.total.Load(), Stored: stored})
}

// pace limits how fast all workers together read.
type pace struct {
	rate int64 // bytes per second; 0: no limit
	mu   sync.Mutex
	free time.Time // when what was admitted is paid for
}

func (p *pace) wait(ctx context.Context, n int) error {
	if p.rate == 0 {
		return nil
	}
	p.mu.Lock()
	now := time.Now()
	start := p.free
	if start.Before(now) {
		start = now
	}
	p.free = start.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	p.mu.Unlock()
	return wait.For(ctx, start.Sub(now))
}
