package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	dto "github.com/prometheus/client_model/go"

	"rootstream/internal/wait"
	"rootstream/statesync"
)

// measureDurable is that part of sync alone.
func measureDurable(ctx context.Context, s *stack) ([]row, error) {
	in, w, err := s.pairUp(ctx, place{DSN: s.dsn, Redis: s.redisURL, Key: s.key})
	if err != nil {
		return nil, err
	}
	rows, err := s.durableRows(ctx, in, w)
	return rows, errors.Join(err, in.stop(), w.kill())
}

func (s *stack) durableRows(ctx context.Context, in *syncInstance, w *watcher) ([]row, error) {
	if _, err := s.propagation(ctx, in, w, 1000, 2*time.Second); err != nil { // the first versions of all entities
		return nil, err
	}
	return s.durableRate(ctx, in, w)
}

// rating measures for a time and returns a rate.
type rating = func(ctx context.Context, d time.Duration) (float64, error)

// fewUpdaters are callers that do not make full batches, but have their answers sooner.
const fewUpdaters = 256

// updates are as many as callers get acknowledged, each for entities of its own in turn.
func updates(in *syncInstance, callers int) func(ctx context.Context, d time.Duration) (float64, error) {
	turns := make([]int, callers)
	return func(ctx context.Context, d time.Duration) (float64, error) {
		return closed(ctx, callers, d, func(ctx context.Context, worker int) error {
			turns[worker] += callers
			nth := worker + turns[worker]%(syncEntities/callers*callers)
			_, failure := in.Update(ctx, entity(durableType, nth), stamped, statesync.UpdateOptions{})
			return failure
		})
	}
}

// rested is rate after all snapshots that are due have been written: they are not to burden others.
func (in *syncInstance) rested(rate rating) rating {
	return func(ctx context.Context, d time.Duration) (float64, error) {
		for due := 1.; due > 0; {
			m, err := in.metric("rootstream_event_log_snapshots_due")
			if err = errors.Join(err, wait.For(ctx, 50*time.Millisecond)); err != nil {
				return 0, err
			}
			due = m.GetGauge().GetValue()
		}
		return rate(ctx, d)
	}
}

// batches are how many commits of the log there were, and how many events they held.
func (in *syncInstance) batches() (n uint64, events float64, err error) {
	m, err := in.metric("rootstream_event_log_batch_events")
	h := m.GetHistogram()
	return h.GetSampleCount(), h.GetSampleSum(), err
}

// metric is one of the log's.
func (in *syncInstance) metric(name string) (*dto.Metric, error) {
	families, err := in.reg.Gather()
	if err != nil {
		return nil, err
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0], nil
		}
	}
	return nil, fmt.Errorf("the log has no metric %s", name)
}

// batched is rate that notes how many events a commit of the log held.
func (in *syncInstance) batched(rowsOf *int, rate rating) rating {
	return func(ctx context.Context, d time.Duration) (float64, error) {
		before, events, err := in.batches()
		if err != nil {
			return 0, err
		}
		each, err := rate(ctx, d)
		if err != nil {
			return 0, err
		}
		n, all, err := in.batches()
		*rowsOf = int((all-events)/float64(max(n-before, 1)) + .5)
		return each, err
	}
}

// tidied is rate after a vacuum and a checkpoint: an autovacuum of what was written before, which visits every page of it and
// so has it written to the log whole once more, is not to fall into whose round it is by chance, nor are the pages that the
// round before had written.
func (s *stack) tidied(rate rating) rating {
	return func(ctx context.Context, d time.Duration) (float64, error) {
		if err := s.exec(ctx, "vacuum (analyze) events, event_snapshots, bench_events", "checkpoint"); err != nil {
			return 0, err
		}
		return rate(ctx, d)
	}
}

// warmed is rate after a moment that does not count, as pgbench's first second does not.
func warmed(rate rating) rating {
	return func(ctx context.Context, d time.Duration) (float64, error) {
		if _, err := rate(ctx, d/2); err != nil {
			return 0, err
		}
		return rate(ctx, d)
	}
}

func (s *stack) durableRate(ctx context.Context, in *syncInstance, w *watcher) ([]row, error) {
	if err := s.exec(ctx, floorTable); err != nil {
		return nil, err
	}
	var rowsOf, rowsOfFew int
	sides := append([]side{
		{rate: in.batched(&rowsOf, updates(in, syncEntities))},
		{rate: in.batched(&rowsOfFew, updates(in, fewUpdaters)), ready: true},
	}, s.floors(&rowsOf)...)
	spent := make([]string, len(sides))
	for i := range sides {
		sides[i].rate = s.told(w, &spent[i], sides[i].rate)
		if i < 2 {
			sides[i].rate = warmed(sides[i].rate)
		}
		sides[i].rate = in.rested(s.tidied(sides[i].rate))
	}
	rates, err := alternate(ctx, s, sides...)
	if err != nil {
		return nil, err
	}
	long, costs := time.Duration(2*s.scale.openFor*float64(time.Second)), ""
	lasting, err := s.told(w, &costs, updates(in, syncEntities))(ctx, long)
	if err != nil {
		return nil, err
	}
	return []row{
		atLeast("durable updates acknowledged, 2,000 callers", "/s", rates[0], 15_000).with("in the last round: %d in a commit, %s", rowsOf, spent[0]),
		atLeast("the same, 256 callers", "/s", rates[1], 15_000).with("in the last round: %d in a commit, %s", rowsOfFew, spent[1]),
		atLeast("2,000 callers for "+long.String()+" without a pause", "/s", []float64{lasting}, 15_000).with("%s", costs),
		compared("durable updates, to rows of a batched insert", rates[0], rates[2], 0.5).with("the floor in its last round: %s", spent[2]),
		compared("the same, to rows of a prepared insert from values", rates[0], rates[3], 0).with("in the last round: %s", spent[3]),
		compared("the same, to rows of the strict one", rates[0], rates[4], 0.5).with("in the last round: %s", spent[4]),
		compared("the same, to rows that nobody sends", rates[0], rates[5], 0).with("in the last round: %s", spent[5]),
	}, nil
}

// told is rate that tells what each of its calls cost in the last round.
func (s *stack) told(w *watcher, detail *string, rate rating) rating {
	return func(ctx context.Context, d time.Duration) (float64, error) {
		before, err := s.spent(ctx, w)
		if err != nil {
			return 0, err
		}
		begun := time.Now()
		each, err := rate(ctx, d)
		if err != nil {
			return 0, err
		}
		after, err := s.spent(ctx, w)
		*detail = after.per(each*time.Since(begun).Seconds(), before)
		return each, err
	}
}
