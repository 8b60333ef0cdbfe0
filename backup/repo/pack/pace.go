package pack

import (
	"context"
	"sync"
	"time"

	"rootstream/internal/wait"
)

// pacer holds a stream of bytes to a rate. The zero value holds nothing back.
type pacer struct {
	rate int64 // bytes per second

	mu   sync.Mutex
	free time.Time // when what was let through so far is through, at that rate
}

// wait blocks until n bytes may go.
func (p *pacer) wait(ctx context.Context, n int) error {
	if p.rate <= 0 {
		return nil
	}
	p.mu.Lock()
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	pause := p.free.Sub(now)
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	p.mu.Unlock()
	return wait.For(ctx, pause)
}
