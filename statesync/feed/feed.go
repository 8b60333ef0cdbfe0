package feed

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/internal/wait"
)

// ErrReset ends a wait for a position that is no longer part of history.
var ErrReset = errs.New(errs.Unavailable, "sync_reset", "the position waited for is no longer part of history")

// Feed hands on the event log. It is safe for concurrent use.
type Feed struct {
	cfg         Config
	store       *event.Store
	incarnation atomic.Int64
	epoch       atomic.Int64
	shards      [event.Shards]shard
	ready       chan struct{}

	own queue // committed here, to be handed on
	out queue // to be published

	look   chan struct{}              // something is missing: wake the sweeper soon
	heads  [event.Shards]atomic.Int64 // as PostgreSQL last said
	swept  atomic.Pointer[time.Time]  // when it was asked that
	server time.Time                  // when PostgreSQL started; of the sweeper
	behind [event.Shards]lag          // of the sweeper

	erased   atomic.Bool                        // Redis has something to forget
	reading  atomic.Pointer[context.CancelFunc] // ends what is being read
	ownFrame []byte                             // how frames with our events begin
	echoAt   atomic.Pointer[time.Time]          // when our own sign of life was last read

	mu      sync.Mutex
	peers   map[Sender]*Peer
	orphans []event.Event // not yet reported

	casts    atomic.Int64
	counters counters
}

// New makes a feed. Nothing happens before Run.
func New(cfg Config) (*Feed, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	f := &Feed{
		cfg: cfg, store: event.NewStore(cfg.DB), ready: make(chan struct{}), look: make(chan struct{}, 1),
		peers: map[Sender]*Peer{}, own: newQueue(), out: newQueue(),
	}
	return f, f.register(cfg.Registerer)
}

// Ready is closed once the feed knows where it starts; everything committed later is handed on.
func (f *Feed) Ready() <-chan struct{} { return f.ready }

// Offer takes events that were committed here. It never blocks.
func (f *Feed) Offer(events []event.Event) {
	if len(events) == 0 {
		return
	}
	f.own.put(events)
	if f.cfg.Cache != nil {
		f.counters.dropped.Add(int64(f.out.put(events)))
	}
}

// Run feeds until ctx ends; then it returns nil.
func (f *Feed) Run(ctx context.Context) error {
	if !f.start(ctx) {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { f.apply(ctx); return nil })
	g.Go(func() error { f.sweepLoop(ctx); return nil })
	if f.cfg.Cache != nil {
		g.Go(func() error { f.publishLoop(ctx); return nil })
		g.Go(func() error { f.readLoop(ctx); return nil })
		g.Go(func() error { f.beatLoop(ctx); return nil })
	}
	return g.Wait()
}

// start finds where to begin, however long PostgreSQL takes; false if ctx ended first.
func (f *Feed) start(ctx context.Context) bool {
	for {
		err := f.begin(ctx)
		if err == nil {
			close(f.ready)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		f.cfg.Logger.WarnContext(ctx, "the feed cannot begin, trying again", "err", err)
		_ = wait.For(ctx, 10*sweepEvery)
	}
}

func (f *Feed) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	var incarnation int64
	if err := f.cfg.DB.QueryRow(ctx, "select nextval('sync_incarnation')").Scan(&incarnation); err != nil {
		return err
	}
	f.incarnation.Store(incarnation)
	v, err := f.compare(ctx)
	if err != nil {
		return err
	}
	f.ownFrame = newFrame(isEvents, f.self())
	f.reset(v, "start")
	return nil
}

// apply hands on what was committed here.
func (f *Feed) apply(ctx context.Context) {
	for f.own.wait(ctx) {
		f.handOn(f.own.take(), &f.counters.local)
	}
}

// handOn hands on events of any shards, in any order.
func (f *Feed) handOn(events []event.Event, source *atomic.Int64) {
	var n [event.Shards]int
	for i := range events {
		n[events[i].Shard]++
	}
	var by [event.Shards][]event.Event
	for _, e := range events {
		if by[e.Shard] == nil {
			by[e.Shard] = make([]event.Event, 0, n[e.Shard])
		}
		by[e.Shard] = append(by[e.Shard], e)
	}
	for shard := range by {
		for _, run := range runs(by[shard]) {
			f.deliver(shard, run, source)
		}
	}
}

// deliver hands on a run of a shard's events, or keeps it until what is before it has come.
func (f *Feed) deliver(shard int, events []event.Event, source *atomic.Int64) {
	n, hole := f.shards[shard].deliver(events, func(next []event.Event) {
		f.cfg.OnBatch(shard, next)
	})
	source.Add(int64(n))
	if hole {
		wait.Wake(f.look)
	}
}

// Forget has Redis forget soon all that was told, since it may hold what was erased. Who has not read it goes on from
// PostgreSQL.
func (f *Feed) Forget() {
	f.erased.Store(true)
	wait.Wake(f.look)
}

// reset starts over from what PostgreSQL has. While it runs, nothing is handed on, and nobody who waits for a number is told
// that it has come before what was made of earlier ones is forgotten.
func (f *Feed) reset(v view, reason string) {
	for i := range f.shards {
		f.shards[i].mu.Lock()
	}
	f.cfg.OnReset(Reset{Reason: reason, Epoch: v.epoch, Heads: v.heads})
	for i := range f.shards {
		f.shards[i].reset(v.heads[i])
	}
	f.epoch.Store(v.epoch)
	f.note(v)
	f.server, f.behind = v.server, [event.Shards]lag{}
	f.counters.resets.Add(1)
	for i := range f.shards {
		f.shards[i].mu.Unlock()
	}
}

// Epoch is the history that is being followed.
func (f *Feed) Epoch() int64 { return f.epoch.Load() }

// Applied is the last number handed on of each shard.
func (f *Feed) Applied() (v [event.Shards]int64) {
	for i := range f.shards {
		v[i] = f.shards[i].applied.Load()
	}
	return v
}

// Wait waits until a shard's events up to seq have been handed on.
func (f *Feed) Wait(ctx context.Context, shard int, seq int64) error {
	s := &f.shards[shard]
	if s.applied.Load() >= seq {
		return nil
	}
	s.mu.Lock()
	if s.applied.Load() >= seq {
		s.mu.Unlock()
		return nil
	}
	w := waiter{seq, make(chan struct{})}
	s.waiters = append(s.waiters, w)
	s.mu.Unlock()
	select {
	case <-w.done:
		if s.applied.Load() < seq {
			return ErrReset
		}
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.waiters = slices.DeleteFunc(s.waiters, func(o waiter) bool { return o.done == w.done })
	s.mu.Unlock()
	return context.Cause(ctx)
}

// queue holds events for one goroutine.
type queue struct {
	mu     sync.Mutex
	events []event.Event
	taken  []event.Event // their room is used again
	more   chan struct{}
}

func newQueue() queue { return queue{more: make(chan struct{}, 1)} }

// put returns how many events did not fit.
func (q *queue) put(events []event.Event) (dropped int) {
	q.mu.Lock()
	if len(q.events)+len(events) > maxQueued {
		dropped = len(events)
	} else {
		q.events = append(q.events, events...)
	}
	q.mu.Unlock()
	wait.Wake(q.more)
	return dropped
}

// wait waits until there is something, false if ctx ends.
func (q *queue) wait(ctx context.Context) bool {
	select {
	case <-q.more:
		return true
	case <-ctx.Done():
		return false
	}
}

// take empties the queue. What it returns is good until the next time.
func (q *queue) take() []event.Event {
	clear(q.taken)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.events, q.taken = q.taken[:0], q.events
	if cap(q.events) > maxRoom {
		q.events = nil
	}
	return q.taken
}
