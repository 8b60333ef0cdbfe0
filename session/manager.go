package session

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"rootstream/cache"
	"rootstream/session/near"
)

// Manager creates, validates and ends sessions. It is safe for concurrent use.
type Manager struct {
	cfg      Config
	clock    *clock
	near     *near.Map[View]
	negative *near.Map[struct{}]
	marks    *marks
	shared   *shared
	loader   *loader
	flights  flights
	activity *activity
	feed     feed
	legacy   legacy
	counts   counts

	loaded func() // a test stands here, between the reading of PostgreSQL and the filling of the caches
}

// counts are what metrics show beyond what the parts count themselves.
type counts struct {
	dbLoads, refusedBlind, polls, pollFailures, created, revoked atomic.Uint64
}

// NewManager makes a Manager. It answers Validate once [Manager.Run] (or [Manager.Poll]) has read the invalidations.
func NewManager(cfg Config) (*Manager, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Manager{
		cfg: cfg, clock: newClock(),
		near: near.New[View](cfg.NearCapacity), negative: near.New[struct{}](negativeSlots),
		marks: newMarks(maxMarks), loaded: func() {},
	}
	m.shared = newShared(&cfg, m.clock)
	m.loader = newLoader(cfg.DB)
	m.activity = newActivity()
	m.legacy.possible.Store(true)
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(newCollector(m)); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Run reads invalidations, writes activity and cleans up until ctx ends.
// Activity still in hand is then written. Without it, and until it has read for
// the first time ([Manager.Ready]), Validate answers [ErrBlind].
func (m *Manager) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.runFeed(ctx) })
	g.Go(func() error { return m.runActivity(ctx) })
	g.Go(func() error { return m.runLegacy(ctx) })
	g.Go(func() error { return m.runCleanup(ctx) })
	return g.Wait()
}

// Invalidate forgets the sessions behind keys of Redis that changed; nil means all of them. It is quick: it is what
// cache.Config.OnInvalidate calls.
func (m *Manager) Invalidate(keys []string) {
	if keys == nil {
		m.shared.lost()
		m.near.Flush()
		return
	}
	for _, key := range keys {
		if half, ok := cache.ParseSessionView(key); ok {
			m.near.Invalidate(near.Key(half))
		}
	}
}

// Now is the database's time, as far as this instance knows it: what the times
// of a View are to be compared with.
func (m *Manager) Now() time.Time { return time.UnixMicro(m.clock.now()) }

// Ready reports whether this instance may answer: it has heard of revocations lately.
func (m *Manager) Ready() bool { return !m.clock.blind(m.clock.mono(), m.cfg.MaxBlind) }
