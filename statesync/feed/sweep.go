package feed

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/cache"
	"rootstream/event"
	"rootstream/internal/wait"
)

// view is what PostgreSQL says about the log, next to what we had handed on when we asked.
type view struct {
	when    time.Time // it was asked
	epoch   int64
	server  time.Time
	asked   [event.Shards]int64
	askedAt [event.Shards]int64 // times of the events at asked, as we have them
	heads   [event.Shards]int64
	at      [event.Shards]int64 // times of the events at asked, as PostgreSQL has them
}

// lag is a head that was ahead of what was applied.
type lag struct {
	head  int64
	since time.Time
}

// sweepLoop compares with PostgreSQL.
func (f *Feed) sweepLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-f.look:
			_ = wait.For(ctx, grace)
		}
		next, err := f.sweep(ctx)
		if ctx.Err() != nil {
			return
		}
		if failing != (err != nil) {
			failing = err != nil
			if failing {
				f.cfg.Logger.WarnContext(ctx, "the log cannot be compared with PostgreSQL", "err", err)
			} else {
				f.cfg.Logger.InfoContext(ctx, "the log is compared with PostgreSQL again")
			}
		}
		timer.Reset(next)
	}
}

// sweep does one round and says when the next is due.
func (f *Feed) sweep(ctx context.Context) (time.Duration, error) {
	next := sweepEvery*3/4 + rand.N(sweepEvery/2) //nolint:gosec // jitter
	if f.Alone() {
		next = sweepAlone
	}
	v, err := f.compare(ctx)
	if err != nil {
		return next, err
	}
	if lost, e := f.isAnother(ctx, v); e != nil || lost {
		return grace, errors.Join(e, f.report(ctx))
	}
	f.note(v)
	f.server = v.server
	if err = f.report(ctx); err != nil {
		return next, err
	}
	total := int64(0)
	for i := range v.heads {
		total += max(0, v.heads[i]-f.shards[i].applied.Load())
	}
	if total > tooFar {
		f.reset(v, "behind")
		return next, nil
	}
	wait, err := f.catchUp(ctx, v)
	return min(next, wait), errors.Join(err, f.forget(ctx))
}

// forget empties the stream if it has to be, once Redis answers.
func (f *Feed) forget(ctx context.Context) error {
	if f.Alone() || !f.erased.Swap(false) {
		return nil
	}
	_, err := f.cfg.Cache.Do(ctx, cache.Cmd{Name: "XTRIM", Key: cache.Sync, Args: []string{"MAXLEN", "0"}})
	if err != nil {
		f.erased.Store(true)
	}
	return err
}

// compare asks PostgreSQL for the heads of the shards, for the epoch, and for the events we handed on last.
func (f *Feed) compare(ctx context.Context) (view, error) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	v := view{when: time.Now()}
	var shards [event.Shards]int16
	for i := range f.shards {
		s := &f.shards[i]
		s.mu.Lock()
		shards[i], v.asked[i], v.askedAt[i] = int16(i), s.applied.Load(), s.at.Load()
		s.mu.Unlock()
	}
	rows, err := f.cfg.DB.Query(ctx, `select a.shard, coalesce((select max(e.seq) from events e where e.shard = a.shard), 0),
			(select e.at from events e where e.shard = a.shard and e.seq = a.seq),
			(select epoch from sync_epoch), pg_postmaster_start_time()
		from unnest($1::smallint[], $2::bigint[]) a (shard, seq)`, shards[:], v.asked[:])
	if err != nil {
		return v, err
	}
	defer rows.Close()
	for rows.Next() {
		var shard int16
		var head int64
		var at *time.Time
		var epoch *int64
		if err := rows.Scan(&shard, &head, &at, &epoch, &v.server); err != nil {
			return v, err
		}
		if epoch == nil {
			return v, errors.New("the table sync_epoch is empty")
		}
		v.epoch = *epoch
		v.heads[shard] = head
		if at != nil {
			v.at[shard] = at.UnixMicro()
		}
	}
	if err := rows.Err(); err != nil {
		return v, err
	}
	return v, nil
}

func (f *Feed) note(v view) {
	for i := range v.heads {
		f.heads[i].Store(v.heads[i])
	}
	f.swept.Store(&v.when)
}

// lost reports whether PostgreSQL no longer has what we have handed on.
func (v view) lost() bool {
	for i := range v.heads {
		if v.heads[i] < v.asked[i] || (v.askedAt[i] != 0 && v.at[i] != 0 && v.at[i] != v.askedAt[i]) {
			return true
		}
	}
	return false
}

// isAnother finds out whether PostgreSQL goes on from another history than ours, begins a new epoch if nobody has,
// and follows it.
func (f *Feed) isAnother(ctx context.Context, v view) (bool, error) {
	lost := v.lost()
	if v.epoch == f.epoch.Load() && !lost && v.server.Equal(f.server) {
		return false, nil
	}
	orphans, err := f.missing(ctx)
	if err != nil {
		return false, err
	}
	if v.epoch == f.epoch.Load() {
		if !lost && len(orphans) == 0 {
			return false, nil // restarted, nothing lost
		}
		if err = f.newEpoch(ctx, v.epoch); err != nil {
			return false, err
		}
	} else if v.epoch < f.epoch.Load() {
		if err = f.newEpoch(ctx, v.epoch); err != nil {
			return false, err
		}
	}
	if v, err = f.compare(ctx); err != nil {
		return false, err
	}
	f.mu.Lock()
	f.orphans = append(f.orphans, orphans...)
	f.mu.Unlock()
	f.counters.orphans.Add(int64(len(orphans)))
	f.cfg.Logger.ErrorContext(ctx, "PostgreSQL has lost commits, starting over from what it has",
		"epoch", v.epoch, "lost_events", len(orphans))
	f.reset(v, "epoch")
	return true, nil
}

func (f *Feed) newEpoch(ctx context.Context, seen int64) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	_, err := f.cfg.DB.Exec(ctx, `update sync_epoch set epoch = greatest(epoch, $2) + 1, since = now(), reason = 'lost commits'
		where epoch = $1`, seen, f.epoch.Load())
	return err
}

// missing returns the events handed on of late that PostgreSQL does not have.
func (f *Feed) missing(ctx context.Context) ([]event.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	var have []event.Event
	for i := range f.shards {
		s := &f.shards[i]
		s.mu.Lock()
		for _, e := range s.recent {
			if e.Seq > 0 {
				have = append(have, e)
			}
		}
		s.mu.Unlock()
	}
	shards, seqs := make([]int16, len(have)), make([]int64, len(have))
	ids, ats := make([]uuid.UUID, len(have)), make([]time.Time, len(have))
	for i, e := range have {
		shards[i], seqs[i], ids[i], ats[i] = int16(e.Shard), e.Seq, e.AggregateID, e.At //nolint:gosec // one of 16
	}
	rows, _ := f.cfg.DB.Query(ctx, `select i - 1 from unnest($1::smallint[], $2::bigint[], $3::uuid[], $4::timestamptz[])
			with ordinality a (shard, seq, id, at, i)
		where not exists (select from events e where e.shard = a.shard and e.seq = a.seq and e.aggregate_id = a.id and e.at = a.at)
			and a.seq > coalesce((select min(e.seq) from events e where e.shard = a.shard), 1) - 1
		order by i`, shards, seqs, ids, ats)
	at, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	lost := make([]event.Event, 0, len(at))
	for _, i := range at {
		lost = append(lost, have[i])
	}
	return lost, err
}

// report hands on orphans until they are taken.
func (f *Feed) report(ctx context.Context) error {
	f.mu.Lock()
	lost := f.orphans
	f.mu.Unlock()
	if len(lost) == 0 {
		return nil
	}
	if err := f.cfg.OnOrphans(ctx, lost); err != nil {
		return err
	}
	f.mu.Lock()
	f.orphans = f.orphans[len(lost):]
	f.mu.Unlock()
	return nil
}

// catchUp reads from PostgreSQL what is missing for longer than its way through Redis should take. It returns how long
// what is left may take.
func (f *Feed) catchUp(ctx context.Context, v view) (wait time.Duration, err error) {
	wait = time.Second
	now := time.Now()
	alone := f.Alone()
	due := false
	after := v.heads
	for i := range v.heads {
		applied, b := f.shards[i].applied.Load(), &f.behind[i]
		if b.head != 0 && applied >= b.head {
			*b = lag{}
		}
		if v.heads[i] <= applied {
			continue
		}
		if b.head == 0 {
			*b = lag{v.heads[i], now}
		}
		patience := f.shards[i].patience()
		if alone || now.Sub(b.since) >= patience {
			after[i], due = applied, true
		} else {
			wait = min(wait, patience)
		}
	}
	for due {
		events, err := f.since(ctx, after)
		if errors.Is(err, event.ErrPruned) {
			f.reset(v, "behind")
			return wait, nil
		}
		if err != nil {
			return wait, err
		}
		f.handOn(events, &f.counters.postgres)
		for _, e := range events {
			after[e.Shard] = max(after[e.Shard], e.Seq)
		}
		due = len(events) == page
	}
	return wait, nil
}

func (f *Feed) since(ctx context.Context, after [event.Shards]int64) ([]event.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	return f.store.Since(ctx, after, page)
}
