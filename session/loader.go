package session

import (
	"context"
	"sync"

	"rootstream/postgres"
)

// maxLoads is how many statements read views at a time. Whoever asks meanwhile shares the next one, so that many who
// miss the caches at once cost the database few statements and the pool few connections.
const (
	maxLoads    = 8
	maxLoadSize = 256
)

// loader reads views from PostgreSQL. Every reading begins after it was asked for.
type loader struct {
	db      *postgres.DB
	busy    chan struct{}
	mu      sync.Mutex
	pending []*want
}

type want struct {
	hash [32]byte
	done chan struct{}
	view View
	live bool
	err  error
}

func newLoader(db *postgres.DB) *loader {
	return &loader{db: db, busy: make(chan struct{}, maxLoads)}
}

// load reads one view. One of those who wait does the work for all of them.
func (l *loader) load(ctx context.Context, hash [32]byte) (View, bool, error) {
	mine := &want{hash: hash, done: make(chan struct{})}
	l.mu.Lock()
	l.pending = append(l.pending, mine)
	l.mu.Unlock()
	lead := l.busy
	for {
		select {
		case <-mine.done:
			return mine.view, mine.live, mine.err
		case lead <- struct{}{}:
			batch := l.take()
			l.run(context.WithoutCancel(ctx), batch)
			<-l.busy
			if len(batch) == 0 {
				lead = nil // somebody else is reading mine
			}
		case <-ctx.Done():
			return View{}, false, ErrBlind.WithCause(context.Cause(ctx))
		}
	}
}

func (l *loader) take() []*want {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.pending), maxLoadSize)
	batch := l.pending[:n:n]
	l.pending = l.pending[n:]
	return batch
}

func (l *loader) run(ctx context.Context, batch []*want) {
	if len(batch) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	if len(batch) == 1 {
		w := batch[0]
		w.view, w.live, w.err = load(ctx, l.db, w.hash)
		close(w.done)
		return
	}
	hashes := make([][]byte, len(batch))
	for i, w := range batch {
		hashes[i] = w.hash[:]
	}
	views, err := loadAll(ctx, l.db, hashes)
	for _, w := range batch {
		w.view, w.live = views[w.hash]
		w.err = err
		close(w.done)
	}
}
