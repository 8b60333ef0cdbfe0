package session

import (
	"context"
	"errors"

	"rootstream/internal/gather"
	"rootstream/postgres"
)

// Whoever misses the caches while others read shares the next reading, so that many who miss at once cost the database
// few statements and the pool few connections, and Redis few commands.
const (
	maxLoads = 8 // statements at a time
	maxGets  = 1 // commands at a time; those who wait meanwhile are spared more than they lose
	maxAsks  = 256
)

// loaded is what the database says of a token.
type loaded struct {
	view View
	live bool
}

type loader = gather.Group[[32]byte, loaded]

func newLoader(db *postgres.DB) *loader {
	return gather.New(maxLoads, maxAsks, func(ctx context.Context, asks []*gather.Ask[[32]byte, loaded]) {
		ctx, cancel := context.WithTimeout(ctx, loadTimeout)
		defer cancel()
		if len(asks) == 1 {
			a := asks[0]
			a.Answer.view, a.Answer.live, a.Err = load(ctx, db, a.Question)
			return
		}
		hashes := make([][]byte, len(asks))
		for i, a := range asks {
			hashes[i] = a.Question[:]
		}
		views, err := loadAll(ctx, db, hashes)
		for _, a := range asks {
			a.Answer.view, a.Answer.live = views[a.Question]
			a.Err = err
		}
	})
}

func (m *Manager) loadOne(ctx context.Context, c *credential) (View, bool, error) {
	m.counts.dbLoads.Add(1)
	found, err := m.loader.Do(ctx, c.hash)
	if errors.Is(err, gather.ErrUnread) {
		err = ErrBlind.WithCause(err)
	}
	return found.view, found.live, err
}
