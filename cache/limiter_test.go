package cache_test

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rootstream/cache"
	"rootstream/cache/cachetest"
)

func TestLimiterLetsThroughExactlyTheLimitOfParallelAttempts(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	limit := cache.Limit{Count: 5, Per: time.Minute}
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 3 { // instances
		l := cache.NewLimiter(srv.Client(t, cache.Config{}), cache.LimiterConfig{})
		for range 100 {
			wg.Go(func() {
				ok, after := l.Allow(t.Context(), "login:ann@example.org", limit)
				if ok {
					passed.Add(1)
				} else if after <= 0 || after > time.Minute {
					t.Errorf("retry after %v", after)
				}
			})
		}
	}
	wg.Wait()
	if passed.Load() != 5 {
		t.Errorf("%d attempts passed, want 5", passed.Load())
	}
	keys, _ := srv.Do("KEYS", "*").([]any)
	if len(keys) != 1 || strings.Contains(fmt.Sprint(keys), "ann") {
		t.Errorf("keys in Redis: %v, want one that does not tell whose it is", keys)
	}
}

func TestLimiterNeverLetsMoreThanTheLimitIntoAnyPeriod(t *testing.T) {
	t.Parallel()
	l := cache.NewLimiter(cachetest.New(t), cache.LimiterConfig{})
	limit := cache.Limit{Count: 3, Per: 300 * time.Millisecond}
	var asked, passed []time.Time // of the attempts that passed
	for start := time.Now(); time.Since(start) < 1500*time.Millisecond; {
		before := time.Now()
		if ok, after := l.Allow(t.Context(), "k", limit); ok {
			asked, passed = append(asked, before), append(passed, time.Now())
		} else if after > limit.Per {
			t.Fatalf("retry after %v", after)
		}
		time.Sleep(3 * time.Millisecond)
	}
	if len(passed) < 9 {
		t.Errorf("%d attempts passed, want the full rate", len(passed))
	}
	for i := limit.Count; i < len(passed); i++ {
		if gap := passed[i].Sub(asked[i-limit.Count]); gap < limit.Per {
			t.Errorf("attempts %d and %d are at most %v apart", i-limit.Count, i, gap)
		}
	}
}

func TestPitfall38LimiterWithoutRedisIsStricterAndNeverOpen(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	c := srv.Client(t, cache.Config{})
	l := cache.NewLimiter(c, cache.LimiterConfig{Nodes: 3, MaxLocal: 100})
	srv.Kill()
	eventually(t, 3*time.Second, "outage", func() bool { return !c.Healthy() })
	if n := allowed(t, l, "k", cache.Limit{Count: 9, Per: time.Hour}, 30); n != 3 {
		t.Errorf("%d of 9 passed on one of three instances, want 3", n)
	}
	if n := allowed(t, l, "single", cache.Limit{Count: 1, Per: time.Hour}, 5); n != 1 {
		t.Errorf("%d of 1 passed, want 1", n)
	}
	if ok, after := l.Allow(t.Context(), "single", cache.Limit{Count: 1, Per: time.Hour}); ok || after < 59*time.Minute || after > time.Hour {
		t.Errorf("Allow = %v, retry after %v", ok, after)
	}
	flood := 0
	for i := range 5000 {
		if ok, _ := l.Allow(t.Context(), fmt.Sprint("flood", i), cache.Limit{Count: 9, Per: time.Hour}); ok {
			flood++
		}
	}
	if flood > 100+3 {
		t.Errorf("%d new keys passed with room for 100", flood)
	}
}

func TestLimiterCarriesOnWhenRedisComesBackEmpty(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	c := srv.Client(t, cache.Config{})
	l := cache.NewLimiter(c, cache.LimiterConfig{})
	limit := cache.Limit{Count: 6, Per: time.Hour}
	if n := allowed(t, l, "k", limit, 20); n != 6 {
		t.Fatalf("%d passed, want 6", n)
	}
	srv.FlushAll()
	if n := allowed(t, l, "k", limit, 20); n != 0 {
		t.Errorf("%d more passed after a wipe", n)
	}
	srv.Kill()
	eventually(t, 3*time.Second, "outage", func() bool { return !c.Healthy() })
	if n := allowed(t, l, "k", limit, 20); n != 0 {
		t.Errorf("%d more passed during the outage", n)
	}
	if n := allowed(t, l, "other", limit, 20); n != 3 {
		t.Errorf("%d passed during the outage, want half", n)
	}
	srv.Restart()
	eventually(t, 3*time.Second, "back", c.Healthy)
	if n := allowed(t, l, "k", limit, 20); n != 0 {
		t.Errorf("%d more passed after the outage", n)
	}
	if n := allowed(t, l, "other", limit, 20); n > 3 {
		t.Errorf("%d more passed after the outage, want what was left", n)
	}
}

func TestLimiterSurvivesAClockThatJumpsBack(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	c := srv.Client(t, cache.Config{})
	limit := cache.Limit{Count: 3, Per: time.Second}
	if n := allowed(t, cache.NewLimiter(c, cache.LimiterConfig{}), "k", limit, 2); n != 2 {
		t.Fatalf("%d passed, want 2", n)
	}
	key := srv.Do("KEYS", "rsr:*").([]any)[0].(string)
	srv.Do("DEL", key)
	future := fmt.Sprint(time.Now().Add(10 * time.Hour).UnixMicro())
	srv.Do("RPUSH", key, future, future)
	fresh := cache.NewLimiter(c, cache.LimiterConfig{}) // knows nothing of its own
	if n := allowed(t, fresh, "k", limit, 5); n != 1 {
		t.Errorf("%d passed, want the one that is left", n)
	}
	eventually(t, 3*time.Second, "passes again after one period", func() bool {
		ok, _ := fresh.Allow(t.Context(), "k", limit)
		return ok
	})
}

func TestLimiterTakesLimitsItCannotHold(t *testing.T) {
	t.Parallel()
	l := cache.NewLimiter(cachetest.New(t), cache.LimiterConfig{Pepper: []byte("p")})
	if n := allowed(t, l, "zero", cache.Limit{}, 1); n != 1 {
		t.Error("a limit of nothing counts as one attempt")
	}
	if n := allowed(t, l, "many", cache.Limit{Count: 1 << 30, Per: time.Second}, 10); n != 10 {
		t.Errorf("%d passed", n)
	}
}

func TestTheCountInProcessPassesWhatALogPassesAndAtMostTwiceTheLimit(t *testing.T) {
	t.Parallel()
	dead, err := cache.Open(t.Context(), cache.Config{Addrs: []string{"127.0.0.1:1"}, Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	t.Cleanup(dead.Close)
	rapid.Check(t, func(rt *rapid.T) {
		limit := cache.Limit{Count: rapid.IntRange(1, 6).Draw(rt, "count"), Per: time.Minute}
		patient := rapid.Bool().Draw(rt, "only tries what a log passes")
		l := cache.NewLimiter(dead, cache.LimiterConfig{Nodes: 1})
		now := time.Now()
		l.SetNow(func() time.Time { return now })
		var passed []time.Time
		for _, step := range rapid.SliceOfN(rapid.IntRange(0, 40), 1, 60).Draw(rt, "seconds between attempts") {
			now = now.Add(time.Duration(step) * time.Second)
			recent := 0
			for _, at := range passed {
				if now.Sub(at) < limit.Per {
					recent++
				}
			}
			if patient && recent >= limit.Count {
				continue
			}
			ok, _ := l.Allow(t.Context(), "k", limit)
			if patient && !ok {
				rt.Fatalf("refused with %d of %d in the period", recent, limit.Count)
			}
			if ok {
				passed = append(passed, now)
				recent++
			}
			if recent > 2*limit.Count {
				rt.Fatalf("%d in one period of %d", recent, limit.Count)
			}
		}
	})
}

func allowed(t *testing.T, l *cache.Limiter, key string, limit cache.Limit, tries int) int {
	t.Helper()
	n := 0
	for range tries {
		if ok, _ := l.Allow(t.Context(), key, limit); ok {
			n++
		}
	}
	return n
}
