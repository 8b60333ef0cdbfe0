package s3

import (
	"context"
	"sync"
	"time"

	"rootstream/backup/storage"
)

const (
	silence = 3 * time.Second // after which people want to know what is waited for
	again   = time.Minute     // after which they are told once more
)

// watch is a call that is made until it succeeds, of which the log is told if that takes long.
type watch struct {
	s     *Storage
	doing string
	mu    sync.Mutex
	last  error // of its attempts
	ended bool
	timer *time.Timer
}

func (s *Storage) watch(doing string) *watch {
	w := &watch{s: s, doing: doing}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(silence, w.look)
	return w
}

func (w *watch) failed(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = err
}

func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
}

// look tells what is waited for, unless what takes long is that much is read or written.
func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	still := now.Sub(time.Unix(0, w.s.moved.Load()))
	switch {
	case w.ended:
	case w.last == nil && still < silence:
		w.timer.Reset(silence - still)
	default:
		w.tell(now)
	}
}

// tell leaves it at one line for all calls that wait.
func (w *watch) tell(now time.Time) {
	told := w.s.told.Load()
	if now.Sub(time.Unix(0, told)) < again || !w.s.told.CompareAndSwap(told, now.UnixNano()) {
		return
	}
	why := w.last
	if why == nil {
		why = storage.ErrUnreachable
	}
	w.s.cfg.Logger.WarnContext(context.Background(), "waiting for the storage", "storage", w.s.URL(), "to", w.doing, "for_at_most", w.s.cfg.Patience.String(), "err", why)
}
