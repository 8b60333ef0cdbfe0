package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sync/errgroup"

	"rootstream/internal/wait"
	"rootstream/postgres"
	"rootstream/session"
)

const nearNote = `
One session.Manager in this process, room for all tokens. What is cached in the process lives for at most 5 s, so each
round reads all tokens from Redis, which takes most of that life (whatever is not in after 3.5 s is left out), and measures
in what is left of it: windows of one and of two goroutines over those distinct tokens, in an order no cache can guess,
while another instance revokes 200 sessions a second. A window that would outlive an entry is cut short. Each goroutine
copies the next 64 tokens into a buffer and validates them out of it, as who validates has just received them; the
copying counts. "Per CPU second" divides by the CPU time this process used, loops and
garbage collection included. The steady state lets entries die and be read again from Redis, one token a call.`

// warm makes Redis hold the views of all tokens, as they are minutes after a start.
func (s *stack) warm(ctx context.Context) error {
	if err := s.load(ctx); err != nil {
		return err
	}
	if time.Since(s.data.warm) < 200*time.Second { // views live for 5 minutes there
		return nil
	}
	in, err := s.instance(ctx, func(c *session.Config) { c.NearCapacity = 1 })
	if err != nil {
		return err
	}
	begun := time.Now()
	if _, err := in.cache.Do(ctx, flushAll()); err != nil {
		return errors.Join(err, in.stop())
	}
	if _, err := validateAll(ctx, in, s.data.tokens, begun.Add(10*patience)); err != nil {
		return errors.Join(err, in.stop())
	}
	s.data.warm = begun
	s.say("Redis holds the views of all tokens after %.1f s", time.Since(begun).Seconds())
	return in.stop()
}

// validateAll validates tokens in order, in batches of 1000, until the time is over, and returns how many it did.
func validateAll(ctx context.Context, in *instance, tokens []string, until time.Time) (int, error) {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range 4 {
		g.Go(func() error {
			for time.Now().Before(until) {
				to := int(next.Add(session.MaxBatch))
				from := to - session.MaxBatch
				if from >= len(tokens) {
					return nil
				}
				if err := allValid(ctx, in, tokens[from:min(to, len(tokens))]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	return min(int(next.Load()), len(tokens)), err
}

var errNotValid = errors.New("a live session was refused")

func allValid(ctx context.Context, in *instance, tokens []string) error {
	results, err := in.ValidateBatch(ctx, tokens)
	if err != nil {
		return err
	}
	for _, r := range results {
		if !r.Valid {
			return errNotValid
		}
	}
	return nil
}

// window is what was measured in one stretch.
type window struct {
	perSecond, perCPUSecond, allocs float64

	tokens int     // distinct ones
	fill   float64 // tokens a second while the cache was filled
	share  float64 // of calls answered in the process, in percent
}

// hits validates from n goroutines until end, each token in turn.
func hits(ctx context.Context, in *instance, tokens []string, n int, end time.Time) (window, error) {
	samples := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}}
	metrics.Read(samples)
	before, cpu, begun := samples[0].Value.Uint64(), ownCPU(), time.Now()
	var calls atomic.Int64
	var g errgroup.Group
	for worker := range n {
		g.Go(func() error {
			at := newStride(len(tokens), worker*len(tokens)/n)
			mine, some := int64(0), make([]byte, 0, received*len(tokens[0]))
			for time.Now().Before(end) {
				for range 8 {
					if err := validateReceived(ctx, in, tokens, &at, some); err != nil {
						return err
					}
				}
				mine += 8 * received
			}
			calls.Add(mine)
			return nil
		})
	}
	err := g.Wait()
	took, used := time.Since(begun), ownCPU()-cpu
	metrics.Read(samples)
	total := float64(calls.Load())
	return window{
		perSecond: total / took.Seconds(), perCPUSecond: total / used.Seconds(),
		allocs: float64(samples[0].Value.Uint64()-before) / total,
	}, err
}

// received is how many tokens come together, as from a connection.
const received = 64

// validateReceived copies the next tokens into buf, then validates them.
func validateReceived(ctx context.Context, in *instance, tokens []string, at *stride, buf []byte) error {
	size := len(tokens[0])
	for range received {
		buf = append(buf, tokens[at.next()]...)
	}
	all := unsafe.String(unsafe.SliceData(buf), len(buf)) //nolint:gosec // G103: a conversion would allocate, and nobody keeps it
	for ; all != ""; all = all[size:] {
		if _, err := in.Validate(ctx, all[:size], session.ClientHint{}); err != nil {
			return err
		}
	}
	return nil
}

// ownCPU is the CPU time of this process.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// revoker ends sessions of accounts that are there for it, ten at a time, until stopped.
type revoker struct {
	ended  atomic.Int64
	idle   atomic.Bool // it rests
	cancel context.CancelFunc
	wg     sync.WaitGroup
	err    error
}

func (s *stack) revoke(ctx context.Context, every time.Duration) (*revoker, error) {
	in, err := s.instance(ctx, nil)
	if err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(ctx)
	r := &revoker{cancel: cancel}
	r.wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for run.Err() == nil && len(s.data.owners) > 1 {
			if r.idle.Load() {
				_ = wait.For(run, time.Millisecond)
				continue
			}
			owner := s.data.owners[0]
			s.data.owners = s.data.owners[1:]
			n := 0
			err := in.db.InTx(run, func(tx *postgres.Tx) (err error) {
				n, err = in.RevokeAll(run, tx, owner, session.Cause{Reason: "bench"})
				return err
			})
			if err != nil && run.Err() == nil {
				r.err = err
				break
			}
			r.ended.Add(int64(n))
			select {
			case <-run.Done():
			case <-tick.C:
			}
		}
		r.err = errors.Join(r.err, in.stop())
	})
	return r, nil
}

func (r *revoker) stop() error {
	r.cancel()
	r.wg.Wait()
	return r.err
}

const (
	nearLife = 5 * time.Second
	nearFill = 3500 * time.Millisecond
)

func measureNear(ctx context.Context, s *stack) ([]row, error) {
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	in, err := s.instance(ctx, func(c *session.Config) { c.NearCapacity = 3 * len(s.data.tokens) })
	if err != nil {
		return nil, err
	}
	revokers, err := s.revoke(ctx, 50*time.Millisecond)
	if err != nil {
		return nil, errors.Join(err, in.stop())
	}
	rows, err := s.nearRows(ctx, in, revokers)
	return rows, errors.Join(err, revokers.stop(), in.stop())
}

func (s *stack) nearRows(ctx context.Context, in *instance, revokers *revoker) ([]row, error) {
	cores := min(2, runtime.GOMAXPROCS(0))
	byCores := map[int][]window{}
	for range min(3, s.scale.rounds) {
		for _, n := range []int{1, cores} {
			if err := s.warm(ctx); err != nil {
				return nil, err
			}
			w, err := s.window(ctx, in, revokers, n)
			if err != nil {
				return nil, err
			}
			byCores[n] = append(byCores[n], w)
		}
	}
	steady, share, err := s.steady(ctx, in)
	if err != nil {
		return nil, err
	}
	one, all := byCores[1], byCores[cores]
	both := slices.Concat(one, all)
	rows := []row{
		atLeast("validate, one goroutine", "/s", pick(one, func(w window) float64 { return w.perSecond }), 1e6).
			with("over at least %s distinct tokens, read from Redis at %s/s; %.1f %% of the calls were answered in the process",
				number(slices.Min(pick(both, func(w window) float64 { return float64(w.tokens) }))),
				number(middle(pick(both, func(w window) float64 { return w.fill }))),
				middle(pick(both, func(w window) float64 { return w.share }))),
		atLeast(fmt.Sprintf("validate, %d goroutines", cores), "/s", pick(all, func(w window) float64 { return w.perSecond }), 1e6*float64(cores)).
			with("%d sessions were revoked meanwhile", revokers.ended.Load()),
		atLeast("validate, per CPU second", "/s", pick(both, func(w window) float64 { return w.perCPUSecond }), 1e6),
		atMost("allocations of a call, all loops included", "", pick(both, func(w window) float64 { return w.allocs }), 0.05),
		atMost("allocations of a hit by itself", "", []float64{s.allocsOfAHit(ctx, in)}, 0),
		about("steady state, refilled from Redis", "/s", steady...).with("%.0f %% of the calls were answered in the process", share),
	}
	return rows, nil
}

// window fills the cache, measures n goroutines and waits until all entries are dead.
func (s *stack) window(ctx context.Context, in *instance, revokers *revoker, n int) (window, error) {
	revokers.idle.Store(true) // what is revoked while views are under way keeps its neighbours out of the cache
	if err := wait.For(ctx, 300*time.Millisecond); err != nil {
		return window{}, err
	}
	began := time.Now()
	filled, err := validateAll(ctx, in, s.data.tokens, began.Add(nearFill))
	if err != nil {
		return window{}, err
	}
	took := time.Since(began)
	end := time.Now().Add(s.round())
	if dies := began.Add(nearLife - 100*time.Millisecond); dies.Before(end) {
		end = dies
	}
	revokers.idle.Store(false)
	misses, hit := in.counter(nearMisses), in.counter(nearHits)
	w, err := hits(ctx, in, s.data.tokens[:filled], n, end)
	if err != nil {
		return window{}, err
	}
	hit = in.counter(nearHits) - hit
	w.tokens, w.fill = filled, float64(filled)/took.Seconds()
	w.share = 100 * hit / (hit + in.counter(nearMisses) - misses)
	return w, wait.For(ctx, time.Until(end.Add(nearLife)))
}

const (
	nearHits   = "rootstream_session_near_hits_total"
	nearMisses = "rootstream_session_near_misses_total"
)

// steady validates all tokens again and again, one a call, while entries die.
func (s *stack) steady(ctx context.Context, in *instance) (rates []float64, share float64, err error) {
	const workers = 64
	at := make([]stride, workers)
	for i := range at {
		at[i] = newStride(len(s.data.tokens), i*len(s.data.tokens)/workers)
	}
	if err := s.warm(ctx); err != nil {
		return nil, 0, err
	}
	misses, hit := in.counter(nearMisses), in.counter(nearHits)
	for range s.scale.rounds {
		rate, err := closed(ctx, workers, s.round(), func(ctx context.Context, worker int) error {
			_, err := in.Validate(ctx, s.data.tokens[at[worker].next()], session.ClientHint{})
			return err
		})
		if err != nil {
			return nil, 0, err
		}
		rates = append(rates, rate)
	}
	hit = in.counter(nearHits) - hit
	return rates, 100 * hit / (hit + in.counter(nearMisses) - misses), nil
}

func (s *stack) round() time.Duration { return time.Duration(s.seconds * float64(time.Second)) }

// allocsOfAHit counts what one goroutine allocates on the hit path; the least
// of some tries, since loops of the process allocate meanwhile.
func (s *stack) allocsOfAHit(ctx context.Context, in *instance) float64 {
	token, least := s.data.tokens[0], 1.0
	for range 10 {
		least = min(least, testing.AllocsPerRun(500, func() { _, _ = in.Validate(ctx, token, session.ClientHint{}) }))
	}
	return least
}

func pick[T any](list []T, f func(T) float64) []float64 {
	out := make([]float64, len(list))
	for i, v := range list {
		out[i] = f(v)
	}
	return out
}
