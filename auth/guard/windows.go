package guard

import (
	"context"
	"maps"
	"sync"
	"time"

	"rootstream/cache"
)

// Windows counts attempts in fixed windows, in process: the limiter of an
// instance that runs without Redis.
type Windows struct {
	now func() time.Time

	mu   sync.Mutex
	open map[string]window
}

type window struct {
	ends time.Time
	n    int
}

const maxWindows = 65536

// NewWindows makes one that goes by a clock.
func NewWindows(now func() time.Time) *Windows {
	return &Windows{now: now, open: map[string]window{}}
}

// Allow counts an attempt and reports whether it may be made, else when to try again.
func (w *Windows) Allow(_ context.Context, key string, limit cache.Limit) (ok bool, retryAfter time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	at, have := w.open[key]
	if !have || !now.Before(at.ends) {
		if !have && len(w.open) >= maxWindows {
			w.sweep(now)
		}
		at = window{ends: now.Add(limit.Per)}
	}
	if at.n >= limit.Count {
		return false, at.ends.Sub(now)
	}
	at.n++
	w.open[key] = at
	return true, 0
}

// sweep drops what has ended, and any one if nothing has: the memory is bounded either way.
func (w *Windows) sweep(now time.Time) {
	maps.DeleteFunc(w.open, func(_ string, at window) bool { return !now.Before(at.ends) })
	for k := range w.open {
		if len(w.open) >= maxWindows {
			delete(w.open, k)
		}
		return
	}
}
