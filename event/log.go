package event

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"rootstream/errs"
	"rootstream/postgres"
)

const (
	maxWaiting = 64 << 10 // events that wait or are being committed
	maxRivals  = 3        // runs of a batch that lost the race for a key, a version or a number
)

// LogConfig says how to append. Zero values mean the defaults.
type LogConfig struct {
	DB            *postgres.DB
	MaxBatch      int     // events of one commit; 0 means 256
	Workers       int     // commits at a time; 0 means 2
	Schema        *Schema // folds for the snapshots; nil means the default fold for every type
	SnapshotEvery int     // versions of an entity, under load a few times as many; 0 means 100
	KeepSnapshots int     // of an entity; 0 means 3
	Registerer    prometheus.Registerer
	Logger        *slog.Logger // nil means slog.Default

	// OnCommit hears of every commit this instance knows of, before whoever
	// appended does. A call holds whole units, a shard's events in order. Calls
	// come from several goroutines and may overtake each other: Seq is what
	// orders. It must not block.
	OnCommit func([]Event)
}

func (c LogConfig) withDefaults() LogConfig {
	if c.MaxBatch == 0 {
		c.MaxBatch = 256
	}
	if c.Workers == 0 {
		c.Workers = 2
	}
	if c.Schema == nil {
		c.Schema = NewSchema()
	}
	if c.SnapshotEvery == 0 {
		c.SnapshotEvery = 100
	}
	if c.KeepSnapshots == 0 {
		c.KeepSnapshots = 3
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.OnCommit == nil {
		c.OnCommit = func([]Event) {}
	}
	return c
}

func (c LogConfig) validate() error {
	var f errs.Fields
	if c.DB == nil {
		f.Add("db", "must be set")
	}
	if c.MaxBatch < 1 || c.MaxBatch > maxBatch {
		f.Add("max_batch", fmt.Sprintf("must be between 1 and %d", maxBatch))
	}
	if c.Workers < 1 || c.Workers > Shards {
		f.Add("workers", fmt.Sprintf("must be between 1 and %d", Shards))
	}
	if c.SnapshotEvery < 1 {
		f.Add("snapshot_every", "must be positive")
	}
	if c.KeepSnapshots < 1 {
		f.Add("keep_snapshots", "must be positive")
	}
	return f.Err()
}

// Log appends for many callers at once: whatever waits while a commit is under
// way goes into the next one together. It is safe for concurrent use.
type Log struct {
	cfg    LogConfig
	room   *semaphore.Weighted // for events that wait or are being committed
	queue  *queue              // a lane for each worker, by shard, and one for units of several workers' shards
	known  known
	due    dues // snapshots to write
	counts *counts
}

// NewLog prepares a log; [Log.Run] does the work.
func NewLog(cfg LogConfig) (*Log, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	l := &Log{cfg: cfg, room: semaphore.NewWeighted(maxWaiting), due: newDues(), queue: newQueue(cfg.Workers + 1)}
	var err error
	l.counts, err = newCounts(cfg.Registerer, l.queue.len, l.due.len)
	return l, err
}

// Schema is how the log reads what its snapshots are made of.
func (l *Log) Schema() *Schema { return l.cfg.Schema }

// Run commits and writes snapshots until ctx ends. The commits under way are
// finished, what still waits is refused with [ErrStopped].
func (l *Log) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error {
		l.dispatch(ctx)
		return nil
	})
	g.Go(func() error {
		l.writeSnapshots(ctx)
		return nil
	})
	return g.Wait()
}

// dispatch starts commits; it ends when the last one has.
func (l *Log) dispatch(ctx context.Context) {
	var commits sync.WaitGroup
	defer commits.Wait()
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			for _, u := range l.queue.close() {
				l.answer(u, nil, ErrStopped.WithRetryAfter(time.Second))
			}
			return
		case <-l.queue.ready:
		case <-due.C:
		}
		for ctx.Err() == nil {
			b, wait := l.queue.take(l.cfg.MaxBatch, time.Now())
			if b.units == nil {
				if wait > 0 {
					due.Reset(wait)
				}
				break
			}
			commits.Go(func() {
				l.commit(context.WithoutCancel(ctx), b.units)
				l.queue.done(b)
			})
		}
	}
}

// Append appends a unit: all of its events or none. It returns them with their
// numbers once they are committed.
//
// The first event's idempotency key is the unit's: if it was used before for
// the same events, those are returned as they were stored then; if for others,
// [ErrDuplicate]. After an [postgres.ErrCommitUnknown], which is also the
// answer when ctx ends during the commit, the same key makes a retry safe.
// [ErrOverloaded] means that ctx ended while the unit waited: nothing was stored.
func (l *Log) Append(ctx context.Context, events ...New) ([]Event, error) {
	u, err := newUnit(events)
	if err != nil {
		return nil, err
	}
	if err = l.room.Acquire(ctx, int64(len(u.rows))); err != nil {
		return nil, ErrOverloaded.WithCause(err).WithRetryAfter(time.Second)
	}
	if !l.queue.put(u, l.lane(u)) {
		l.room.Release(int64(len(u.rows)))
		return nil, ErrStopped.WithRetryAfter(time.Second)
	}
	select {
	case a := <-u.answer:
		return a.events, a.err
	case <-ctx.Done():
		if l.queue.drop(u) {
			l.room.Release(int64(len(u.rows)))
			return nil, ErrOverloaded.WithCause(ctx.Err()).WithRetryAfter(time.Second)
		}
		return nil, postgres.ErrCommitUnknown.WithCause(ctx.Err()).WithRetryAfter(time.Second)
	}
}

// Committed tells the log of events that were committed by transactions: see
// [Appended]. They are passed on to OnCommit and count for snapshots.
func (l *Log) Committed(events []Event) {
	if len(events) == 0 {
		return
	}
	l.cfg.OnCommit(events)
	for i := range events {
		e := &events[i]
		if e.Version%int64(l.cfg.SnapshotEvery) == 0 {
			l.due.add(e.Ref(), e.Version)
		}
	}
}

// lane returns which lane u goes into.
func (l *Log) lane(u *unit) int {
	at := u.rows[0].Aggregate.Shard() % l.cfg.Workers
	for _, r := range u.rows {
		if r.Aggregate.Shard()%l.cfg.Workers != at {
			return l.cfg.Workers
		}
	}
	return at
}

// commit stores units, each by itself as far as success is concerned.
func (l *Log) commit(ctx context.Context, units []*unit) {
	for rivals := 0; len(units) > 0; {
		rows := rowsOf(units)
		err := l.send(ctx, rows, rivals > 0 || len(rows) == 1 && rows[0].IdempotencyKey != "")
		switch {
		case err == nil && stored(rows):
			l.succeed(units)
			return
		case err == nil:
			var first []*unit
			first, units = l.settle(ctx, units)
			l.commit(ctx, first)
		case postgres.UniqueViolation(err, "events") && rivals < maxRivals:
			rivals++ // it is committed now, so the next run sees whose key, version or number it is
		case len(units) > 1 && errs.KindOf(err) != errs.Unavailable: // the fault of one of them
			half := len(units) / 2
			l.commit(ctx, units[:half])
			units = units[half:]
		default:
			if errs.Of(err) == nil {
				err = fmt.Errorf("append events: %w", err)
			}
			for _, u := range units {
				l.answer(u, nil, err)
			}
			return
		}
	}
}

// send runs the statement that stores rows, and keeps in mind how that leaves the shards.
func (l *Log) send(ctx context.Context, rows []*row, tellKeys bool) error {
	b := &pgx.Batch{}
	var c *claim
	if tellKeys || len(rows) > 1 {
		c = insertMany(b, rows, &l.known)
	} else {
		insert(b, rows)
	}
	begun := time.Now()
	err := l.cfg.DB.Pipeline(ctx, b)
	l.counts.seconds.Observe(time.Since(begun).Seconds())
	switch {
	case err != nil || c == nil:
		l.known.forget(rows)
	case stored(rows):
		l.known.learn(rows, c)
		if c.believed {
			l.counts.believed.Add(float64(len(rows)))
		}
	}
	return err
}

func (l *Log) succeed(units []*unit) {
	rows := rowsOf(units)
	events := make([]Event, len(rows))
	for i, r := range rows {
		events[i] = r.event()
	}
	l.counts.batch.Observe(float64(len(events)))
	l.Committed(events)
	for _, u := range units {
		n := len(u.rows)
		l.answer(u, events[:n:n], nil)
		events = events[n:]
	}
}

// settle answers the units that cannot be stored and returns the others: what to commit first, and then.
func (l *Log) settle(ctx context.Context, units []*unit) (first, then []*unit) {
	all := make([][]*row, len(units))
	for i, u := range units {
		all[i] = u.rows
	}
	for i, err := range settle(all) {
		u := units[i]
		switch {
		case err == nil:
			first = append(first, u)
		case errors.Is(err, errLater):
			then = append(then, u)
		case errors.Is(err, ErrDuplicate):
			events, failure := l.original(ctx, u)
			l.answer(u, events, failure)
		default:
			l.counts.conflicts.Inc()
			l.answer(u, nil, err)
		}
	}
	return first, then
}

// original returns the events that u's keys stand for, if they are u's.
func (l *Log) original(ctx context.Context, u *unit) ([]Event, error) {
	keys := make([]string, len(u.rows))
	for i, r := range u.rows {
		keys[i] = r.IdempotencyKey
	}
	events, err := NewStore(l.cfg.DB).collect(ctx, "read the original events", `select `+columns+`
		from unnest($1::text[]) with ordinality k (key, ord) join events on idempotency_key = key order by ord`, keys)
	if err != nil {
		return nil, err
	}
	if len(events) != len(u.rows) {
		return nil, ErrDuplicate
	}
	for i, e := range events {
		if r := u.rows[i]; e.Ref() != r.Aggregate || e.Name != r.Name {
			return nil, ErrDuplicate
		}
	}
	l.counts.repeats.Inc()
	return events, nil
}

func (l *Log) answer(u *unit, events []Event, err error) {
	u.answer <- answer{events, err} // it has room for one
	l.room.Release(int64(len(u.rows)))
}

// unit is what one call of Append stores.
type unit struct {
	rows   []*row
	answer chan answer
	lane   *lane
	place  *list.Element // in its lane while it waits there
}

type answer struct {
	events []Event
	err    error
}

func newUnit(events []New) (*unit, error) {
	if len(events) == 0 || len(events) > maxBatch {
		return nil, errs.NewInvalid("events", fmt.Sprintf("must be between 1 and %d", maxBatch))
	}
	u := &unit{rows: make([]*row, len(events)), answer: make(chan answer, 1)}
	key := events[0].IdempotencyKey
	for i, e := range events {
		data, err := e.check()
		if err != nil {
			return nil, err
		}
		if i > 0 && e.IdempotencyKey != "" {
			return nil, errs.NewInvalid("idempotency_key", "must be given with the unit's first event")
		}
		if i > 0 && key != "" {
			e.IdempotencyKey = key + ":" + strconv.Itoa(i)
		}
		u.rows[i] = &row{New: e, data: data}
	}
	return u, nil
}

func rowsOf(units []*unit) []*row {
	rows := make([]*row, 0, len(units))
	for _, u := range units {
		rows = append(rows, u.rows...)
	}
	return rows
}
