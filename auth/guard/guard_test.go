package guard_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rootstream/auth/guard"
	"rootstream/auth/guard/guardtest"
	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/internal/testclock"
)

// tally is a Backoff with one policy.
type tally struct {
	*guard.Backoff
	p guard.Policy
}

func newTally(redis *cache.Client, free int, most time.Duration, now func() time.Time) tally {
	return tally{guard.NewBackoff(redis, now), guard.Policy{Free: free, Most: most}}
}

func (t tally) Reserve(ctx context.Context, key string) (bool, time.Duration) {
	return t.Backoff.Reserve(ctx, guard.Digest(key), t.p)
}

func (t tally) Refund(ctx context.Context, key string) { t.Backoff.Refund(ctx, guard.Digest(key), t.p) }

func (t tally) Reset(ctx context.Context, key string) { t.Backoff.Reset(ctx, guard.Digest(key), t.p) }

func TestBackoffDoublesAfterTheFreeFailures(t *testing.T) {
	t.Parallel()
	clock := testclock.New()
	b := newTally(nil, 10, 15*time.Minute, clock.Now) // in process alone half are free: 5
	for range 5 {
		if _, wait := b.Reserve(t.Context(), "ada"); wait != 0 {
			t.Fatalf("a free try must wait %v", wait)
		}
	}
	for _, seconds := range []int{2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900} {
		want := time.Duration(seconds) * time.Second
		_, wait := b.Reserve(t.Context(), "ada")
		if wait != want {
			t.Fatalf("wait %v, want %v", wait, want)
		}
		if _, wait = b.Reserve(t.Context(), "bob"); wait != 0 {
			t.Fatalf("another key must wait %v", wait)
		}
		b.Refund(t.Context(), "bob")
		clock.Advance(want)
		if _, wait = b.Reserve(t.Context(), "ada"); wait != 0 {
			t.Fatalf("after %v still %v to wait", want, wait)
		}
	}
	clock.Advance(time.Hour + time.Second)
	for range 5 {
		if _, wait := b.Reserve(t.Context(), "ada"); wait != 0 {
			t.Fatalf("an hour later a try must wait %v", wait)
		}
	}
}

func TestBackoffIsSharedByInstances(t *testing.T) {
	t.Parallel()
	redis := cachetest.New(t)
	one := newTally(redis, 5, 15*time.Minute, time.Now)
	two := newTally(redis, 5, 15*time.Minute, time.Now)
	for i := range 5 {
		b := one
		if i%2 == 1 {
			b = two
		}
		begins, wait := b.Reserve(t.Context(), "ada")
		if begins != (i == 4) || wait != 0 {
			t.Fatalf("try %d: begins the waits: %v, wait %v", i+1, begins, wait)
		}
	}
	for _, b := range []tally{one, two} {
		if _, wait := b.Reserve(t.Context(), "ada"); wait <= time.Second || wait > 2*time.Second {
			t.Fatalf("wait %v, want some 2s", wait)
		}
	}
	one.Refund(t.Context(), "ada")
	if begins, wait := two.Reserve(t.Context(), "ada"); !begins || wait != 0 {
		t.Fatalf("after a refund: begins the waits: %v, wait %v", begins, wait)
	}
	two.Reset(t.Context(), "ada")
	for range 5 {
		if _, wait := one.Reserve(t.Context(), "ada"); wait != 0 {
			t.Fatalf("after a reset: wait %v", wait)
		}
	}
}

func TestPitfall38BackoffHoldsWhenRedisIsGoneOrWiped(t *testing.T) {
	t.Parallel()
	server := cachetest.Server(t)
	redis := server.Client(t, cache.Config{})
	b := newTally(redis, 5, 15*time.Minute, time.Now)
	for range 5 {
		b.Reserve(t.Context(), "ada")
	}
	server.FlushAll()
	if _, wait := b.Reserve(t.Context(), "ada"); wait == 0 {
		t.Fatal("a wipe of Redis gave a fresh start")
	}
	server.Kill()
	if _, wait := b.Reserve(t.Context(), "ada"); wait == 0 {
		t.Fatal("without Redis the waits were forgotten")
	}
	free := 0
	for range 10 {
		if _, wait := b.Reserve(t.Context(), "bob"); wait == 0 {
			free++
		}
	}
	if free != 2 {
		t.Fatalf("without Redis %d tries were free, want 2", free)
	}
}

func TestPitfall04ParallelGuessesAreCountedBeforeTheyAreJudged(t *testing.T) {
	t.Parallel()
	for name, redis := range map[string]*cache.Client{"with redis": cachetest.New(t), "without": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newTally(redis, 5, 15*time.Minute, time.Now)
			var passed atomic.Int32
			var wg sync.WaitGroup
			began := time.Now()
			for range 200 {
				wg.Go(func() {
					if _, wait := b.Reserve(t.Context(), "ada"); wait == 0 {
						passed.Add(1)
					}
				})
			}
			wg.Wait()
			if n := int(passed.Load()); n > guardtest.Permitted(5, time.Since(began)) {
				t.Errorf("%d of 200 parallel tries were let through", n)
			}
		})
	}
}

func TestBackoffMemoryIsBounded(t *testing.T) {
	t.Parallel()
	b := newTally(nil, 5, time.Minute, time.Now)
	for i := range guard.MaxTallies + 100 {
		b.Reserve(t.Context(), strconv.Itoa(i))
	}
	if n := b.Keys(); n > guard.MaxTallies {
		t.Errorf("%d keys are remembered", n)
	}
}

func TestWindowsLimitInProcess(t *testing.T) {
	t.Parallel()
	clock := testclock.New()
	w := guard.NewWindows(clock.Now)
	limit := cache.Limit{Count: 2, Per: time.Minute}
	for i, want := range []bool{true, true, false} {
		if ok, wait := w.Allow(t.Context(), "a", limit); ok != want || (wait == time.Minute) == ok {
			t.Fatalf("attempt %d: %v, wait %v", i, ok, wait)
		}
	}
	clock.Advance(time.Minute)
	for i := range guard.MaxWindows + 10 {
		if ok, _ := w.Allow(t.Context(), strconv.Itoa(i), limit); !ok {
			t.Fatal("a new key was refused")
		}
	}
}

func TestTurnsGoOneAfterTheOtherByKey(t *testing.T) {
	t.Parallel()
	var turns guard.Turns
	var inside, most atomic.Int32
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			next, err := turns.Take(t.Context(), "ada")
			if err != nil {
				t.Error(err)
				return
			}
			most.Store(max(most.Load(), inside.Add(1)))
			inside.Add(-1)
			next()
		})
	}
	wg.Wait()
	if most.Load() != 1 || guard.TurnKeys(&turns) != 0 {
		t.Errorf("%d at once, %d keys left", most.Load(), guard.TurnKeys(&turns))
	}
	next, err := turns.Take(t.Context(), "ada")
	if err != nil {
		t.Fatal(err)
	}
	defer next()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := turns.Take(ctx, "ada"); !errors.Is(err, guard.ErrBusy) {
		t.Errorf("waiting in vain: %v", err)
	}
	if other, err := turns.Take(t.Context(), "bob"); err != nil {
		t.Errorf("another key waits: %v", err)
	} else {
		other()
	}
}
