package statesync

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/statesync/feed"
	"rootstream/statesync/merge"
)

// Manager is one instance's view of the shared state. It is safe for concurrent use.
type Manager struct {
	cfg    Config
	types  map[string]Type // written before Run
	store  *event.Store
	feed   *feed.Feed
	memory *memory
	loader *loader
	gates  gates
	hub    hub
	pasts  *semaphore.Weighted // what is read for who resumes
	vol    *volatile
	clock  *merge.Clock
	heard  atomic.Bool // of an erasure, since Redis was last made to forget
}

// New makes a manager. Register types, then Run.
func New(cfg Config) (*Manager, error) {
	if cfg.DB == nil || cfg.Log == nil || cfg.CacheBytes < 0 || cfg.SnapshotEvery < 0 || cfg.KeepSnapshots < 0 {
		return nil, errs.New(errs.Internal, "statesync_config", "a manager needs a database and a log")
	}
	cfg.CacheBytes, cfg.KeepSnapshots = cmp.Or(cfg.CacheBytes, 64<<20), cmp.Or(cfg.KeepSnapshots, 10)
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default()).With("component", "statesync")
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Node == uuid.Nil {
		cfg.Node = uuid.New()
	}
	types := map[string]Type{}
	m := &Manager{
		cfg: cfg, types: types, store: event.NewStore(cfg.DB).With(cfg.Log.Schema()), memory: newMemory(cfg.CacheBytes, types),
		gates: gates{held: map[event.Ref][]chan struct{}{}}, clock: merge.NewClock(cfg.Now, 0),
	}
	m.loader, m.pasts = newLoader(m.store), semaphore.NewWeighted(maxPasts)
	m.hub.init()
	m.vol = newVolatile(m)
	var err error
	m.feed, err = feed.New(feed.Config{
		DB: cfg.DB, Cache: cfg.Cache, Auth: cfg.Auth, Node: cfg.Node, Address: cfg.Address,
		OnBatch: m.onBatch, OnReset: m.onReset, OnOrphans: m.onOrphans, OnBroadcast: m.vol.hear,
		Registerer: cfg.Registerer, Logger: cfg.Logger, Now: cfg.Now,
	})
	return m, err
}

// Register adds a type; all are to be registered before Run.
func (m *Manager) Register(t Type) error {
	t, err := t.check()
	if err != nil {
		return err
	}
	if _, there := m.types[t.Name]; there {
		return errs.NewInvalid("name", "is registered already")
	}
	m.types[t.Name] = t
	if t.Class == Durable {
		m.cfg.Log.Schema().Fold(t.Name, t.FoldVersion, t.fold)
	}
	return nil
}

// Offer takes events that were committed by this instance, so that all others hear of them at once. It never blocks.
func (m *Manager) Offer(events []event.Event) { m.feed.Offer(events) }

// Ready is closed once the manager knows where in the log it begins.
func (m *Manager) Ready() <-chan struct{} { return m.feed.Ready() }

// Run keeps the state until ctx ends; then it returns nil.
func (m *Manager) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.feed.Run(ctx) })
	g.Go(func() error { m.vol.run(ctx); return nil })
	g.Go(func() error { m.hold(ctx); return nil })
	return g.Wait()
}

func (m *Manager) onBatch(shard int, events []event.Event) {
	m.memory.apply(shard, events)
	m.hub.publish(shard, events)
	m.forgetErased(events)
}

func (m *Manager) onReset(r feed.Reset) {
	m.memory.clear()
	m.hub.reset(r)
}

// durable finds a durable type.
func (m *Manager) durable(ref event.Ref) (Type, error) {
	t, ok := m.types[ref.Type]
	switch {
	case !ok:
		return t, ErrUnknownType
	case t.Class != Durable:
		return t, errs.NewInvalid("type", "is volatile")
	case ref.ID == uuid.Nil:
		return t, errs.NewInvalid("id", "must be a UUID that is not all zero")
	}
	return t, nil
}

// Read says how current a document has to be.
type Read struct {
	latest bool
	token  Token
}

// Local takes what is in memory. While nothing confirms that it is current, PostgreSQL is asked.
func Local() Read { return Read{} }

// Latest asks PostgreSQL.
func Latest() Read { return Read{latest: true} }

// AtLeast is Local, but not from before t: it waits a moment for it, and then asks PostgreSQL.
func AtLeast(t Token) Read { return Read{token: t} }

const waitAtLeast = 250 * time.Millisecond

// Get returns an entity's state; ErrNotFound if it is not there (any more).
func (m *Manager) Get(ctx context.Context, ref event.Ref, r Read) (Doc, error) {
	if t, ok := m.types[ref.Type]; ok && t.Class == Volatile {
		return m.vol.get(ref)
	}
	t, err := m.durable(ref)
	if err != nil {
		return Doc{}, err
	}
	d, err := m.read(ctx, t, ref, r)
	if err == nil && (d.Version == 0 || d.Deleted) {
		err = ErrNotFound
	}
	return d.clone(), err
}

// read returns a document that must not be changed; version 0 if there is none.
func (m *Manager) read(ctx context.Context, t Type, ref event.Ref, r Read) (Doc, error) {
	if !r.latest && !m.feed.Suspect() && m.reached(ctx, ref, r.token) {
		if d, ok := m.memory.get(ref); ok {
			return d, nil
		}
	}
	return m.load(ctx, t, ref)
}

// reached waits until the feed is where t says that it has to be for ref.
func (m *Manager) reached(ctx context.Context, ref event.Ref, t Token) bool {
	shard := ref.Shard()
	if t.set>>shard&1 == 0 {
		return true
	}
	if t.epoch != m.feed.Epoch() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, waitAtLeast)
	defer cancel()
	return m.feed.Wait(ctx, shard, t.seq[shard]) == nil
}

// GetAt returns an entity's state as it was at a version or a time, also of one that was deleted then.
func (m *Manager) GetAt(ctx context.Context, ref event.Ref, at event.At) (Doc, error) {
	if _, err := m.durable(ref); err != nil {
		return Doc{}, err
	}
	s, err := m.store.State(ctx, ref, at)
	if errors.Is(err, event.ErrNotFound) {
		return Doc{}, ErrNotFound
	}
	if err != nil {
		return Doc{}, err
	}
	return docOf(ref, s.Version, s.At.UTC(), s.Data), nil
}

// Token is what this instance has applied.
func (m *Manager) Token() Token { return tokenOf(m.feed.Epoch(), m.feed.Applied()) }

// WaitAll waits until every instance that lives has applied t.
func (m *Manager) WaitAll(ctx context.Context, t Token) error {
	if t.epoch != m.feed.Epoch() {
		return feed.ErrReset
	}
	return m.feed.WaitAll(ctx, t.seq)
}

// Status is what an operator wants to know.
type Status struct {
	feed.Status
	Documents   int   `json:"documents"` // in memory
	Bytes       int64 `json:"bytes"`     // they take, about
	Subscribers int   `json:"subscribers"`
	Volatile    int   `json:"volatile"` // entities
	Drift       int64 `json:"drift"`    // contributions refused for a clock too far ahead
}

// Status tells how the instance is doing.
func (m *Manager) Status() Status {
	s := Status{Status: m.feed.Status(), Subscribers: m.hub.count(), Volatile: m.vol.count(), Drift: m.clock.Refused()}
	s.Documents, s.Bytes = m.memory.size()
	return s
}

// gates let one update of an entity at a time through, so that those of this instance do not defeat each other.
type gates struct {
	mu   sync.Mutex
	held map[event.Ref][]chan struct{} // whose turn is next, by entity that is being updated
}

func (g *gates) enter(ctx context.Context, ref event.Ref) error {
	g.mu.Lock()
	waiting, busy := g.held[ref]
	if !busy {
		g.held[ref] = nil
		g.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	g.held[ref] = append(waiting, turn)
	g.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	at := slices.Index(g.held[ref], turn)
	if at >= 0 {
		g.held[ref] = slices.Delete(g.held[ref], at, at+1)
	}
	g.mu.Unlock()
	if at < 0 { // the turn has come just now
		g.leave(ref)
	}
	return ErrBusy.WithCause(context.Cause(ctx))
}

// leave lets the next one in.
func (g *gates) leave(ref event.Ref) {
	g.mu.Lock()
	defer g.mu.Unlock()
	waiting := g.held[ref]
	if len(waiting) == 0 {
		delete(g.held, ref)
		return
	}
	close(waiting[0])
	g.held[ref] = waiting[1:]
}

func lostRace(err error) (*event.VersionError, bool) {
	return errors.AsType[*event.VersionError](err)
}
