package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"rootstream/internal/wait"
)

// closed calls f from n goroutines, each again as soon as it has its answer,
// and returns calls a second. f gets the number of its goroutine.
func closed(ctx context.Context, n int, d time.Duration, f func(ctx context.Context, worker int) error) (float64, error) {
	var over atomic.Bool
	var calls atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	begun := time.Now()
	for worker := range n {
		wg.Go(func() {
			mine := int64(0)
			for !over.Load() {
				if err := f(ctx, worker); err != nil {
					failed.CompareAndSwap(nil, &err)
					over.Store(true)
					break
				}
				mine++
			}
			calls.Add(mine)
		})
	}
	err := wait.For(ctx, d)
	took := time.Since(begun)
	over.Store(true)
	// What is under way when the time is over counts, and so does its time.
	wg.Wait()
	took = max(took, time.Since(begun))
	if e := failed.Load(); e != nil {
		err = errors.Join(err, *e)
	}
	return float64(calls.Load()) / took.Seconds(), err
}

// side is one of several things that are measured by turns.
type side struct {
	rate  func(ctx context.Context, d time.Duration) (float64, error)
	ready bool // needs no run that does not count
}

// alternate measures all sides in each of the rounds, in turning order, after a
// short run of each that does not count. The answer is by side, then by round.
func alternate(ctx context.Context, s *stack, sides ...side) ([][]float64, error) {
	return alternateFor(ctx, s, s.round(), sides...)
}

// alternateFor is alternate with rounds of another length.
func alternateFor(ctx context.Context, s *stack, d time.Duration, sides ...side) ([][]float64, error) {
	rates := make([][]float64, len(sides))
	for _, one := range sides {
		if one.ready {
			continue
		}
		if _, err := one.rate(ctx, d/4); err != nil {
			return nil, err
		}
	}
	for round := range s.scale.rounds {
		for k := range sides {
			i := (k + round) % len(sides)
			rate, err := sides[i].rate(ctx, d)
			if err != nil {
				return nil, err
			}
			rates[i] = append(rates[i], rate)
		}
	}
	return rates, nil
}

// open calls f on a clock, perSecond times a second for d, whatever the answers
// take, and returns how long each took from the moment it was due.
func open(ctx context.Context, perSecond float64, d time.Duration, f func(ctx context.Context, i int) error) ([]time.Duration, error) {
	n := max(1, int(perSecond*d.Seconds()))
	took := make([]time.Duration, n)
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	begun := time.Now().Add(20 * time.Millisecond)
	for i := range n {
		due := begun.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))
		if err := ctx.Err(); err != nil {
			wg.Wait()
			return nil, err
		}
		sleep(time.Until(due))
		wg.Go(func() {
			if err := f(ctx, i); err != nil {
				failed.CompareAndSwap(nil, &err)
			}
			took[i] = time.Since(due)
		})
	}
	wg.Wait()
	if e := failed.Load(); e != nil {
		return nil, *e
	}
	return took, nil
}

// sleep is exact to some 60 µs. The runtime's timers may be a millisecond late when nothing else goes on, which would
// count as time that an answer took.
func sleep(d time.Duration) {
	for end := time.Now().Add(d); d > 0; d = time.Until(end) {
		spec := syscall.NsecToTimespec(d.Nanoseconds())
		_ = syscall.Nanosleep(&spec, nil) // a signal may cut it short
	}
}

// quantile is the value that the share q of sorted does not exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func sorted(d []time.Duration) []time.Duration {
	d = slices.Clone(d)
	slices.Sort(d)
	return d
}

// middle is the median.
func middle(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if len(v) == 0 {
		return 0
	}
	if len(v)%2 == 1 {
		return v[len(v)/2]
	}
	return (v[len(v)/2-1] + v[len(v)/2]) / 2
}

func mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}

// ratios divides round by round.
func ratios(ours, floor []float64) []float64 {
	out := make([]float64, len(ours))
	for i := range ours {
		out[i] = ours[i] / floor[i]
	}
	return out
}
