package cache_test

import (
	"sync"
	"testing"
	"time"

	"rootstream/cache"
	"rootstream/cache/cachetest"
)

// heard collects what OnInvalidate is told.
type heard struct {
	mu      sync.Mutex
	keys    map[string]int
	flushes int
}

func newHeard() *heard { return &heard{keys: map[string]int{}} }

func (h *heard) on(keys []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if keys == nil {
		h.flushes++
	}
	for _, k := range keys {
		h.keys[k]++
	}
}

func (h *heard) key(k string) func() bool {
	return func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.keys[k] > 0 }
}

func (h *heard) flushed(n int) func() bool {
	return func() bool { return h.count() >= n }
}

func (h *heard) count() int { h.mu.Lock(); defer h.mu.Unlock(); return h.flushes }

func TestChangesByOthersAreHeardWithoutAnyReadBefore(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	h := newHeard()
	c := srv.Client(t, cache.Config{OnInvalidate: h.on})
	if !c.Tracking() {
		t.Fatal("not tracking after Open")
	}
	srv.Do("SET", "rss:{a}", "1")
	srv.Do("SET", "rss:{b}", "1", "PX", "50")
	srv.Do("SET", "rsl:{a}", "1")
	srv.Do("EVAL", "return redis.call('SET', KEYS[1], '1')", "1", "rss:{c}")
	must(t, c.Set(t.Context(), "rss:{own}", "1", time.Minute))
	for _, k := range []string{"rss:{a}", "rss:{b}", "rss:{c}", "rss:{own}"} {
		eventually(t, 2*time.Second, k+" is heard", h.key(k))
	}
	for _, del := range []struct{ key, how string }{{"rss:{a}", "DEL"}, {"rss:{c}", "UNLINK"}} {
		h.mu.Lock()
		delete(h.keys, del.key)
		h.mu.Unlock()
		srv.Do(del.how, del.key)
		eventually(t, 2*time.Second, del.how+" is heard", h.key(del.key))
	}
	if h.key("rsl:{a}")() {
		t.Error("keys of other prefixes are broadcast too")
	}
	h.mu.Lock()
	first := h.keys["rss:{b}"]
	h.mu.Unlock()
	eventually(t, 5*time.Second, "expiry is heard", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return first > 1 || h.keys["rss:{b}"] > first
	})
	before := h.count()
	srv.FlushAll()
	eventually(t, 2*time.Second, "FLUSHALL is heard", h.flushed(before+1))
}

func TestALostTrackingLinkFlushesAtOnceAndAgainWhenItIsBack(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	h := newHeard()
	c := srv.Client(t, cache.Config{OnInvalidate: h.on})
	before := h.count()
	srv.Kill()
	eventually(t, time.Second, "flush after kill", h.flushed(before+1))
	eventually(t, time.Second, "not tracking", func() bool { return !c.Tracking() })
	eventually(t, 2*time.Second, "unhealthy", func() bool { return !c.Healthy() })
	before = h.count()
	srv.Restart()
	eventually(t, 3*time.Second, "tracking again", c.Tracking)
	if h.count() == before {
		t.Error("no flush after the link came back")
	}
	srv.Do("SET", "rss:{x}", "1")
	eventually(t, time.Second, "changes are heard again", h.key("rss:{x}"))
}

func TestTrackingIsReopenedWhenOnlyItsLinkIsCut(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	h := newHeard()
	c := srv.Client(t, cache.Config{OnInvalidate: h.on})
	before := h.count()
	srv.Do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	eventually(t, 2*time.Second, "two flushes", h.flushed(before+2))
	eventually(t, 2*time.Second, "tracking", c.Tracking)
	srv.Do("SET", "rss:{x}", "1")
	eventually(t, time.Second, "changes are heard again", h.key("rss:{x}"))
	eventually(t, time.Second, "commands work", func() bool { return c.Ping(t.Context()) == nil })
}

func TestAPausedRedisIsFoundWithinThreeSeconds(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	h := newHeard()
	c := srv.Client(t, cache.Config{OnInvalidate: h.on})
	before := h.count()
	srv.Pause()
	eventually(t, 3*time.Second, "flush after pause", h.flushed(before+1))
	eventually(t, 3*time.Second, "unhealthy", func() bool { return !c.Healthy() })
	srv.Resume()
	eventually(t, 4*time.Second, "tracking again", c.Tracking)
	eventually(t, 4*time.Second, "healthy again", c.Healthy)
	srv.Do("SET", "rss:{x}", "1")
	eventually(t, time.Second, "changes are heard again", h.key("rss:{x}"))
}

func TestTrackingFollowsASentinelFailover(t *testing.T) {
	t.Parallel()
	for how, lose := range map[string]func(*cachetest.SentinelSet){
		"planned": (*cachetest.SentinelSet).Failover,
		"killed":  (*cachetest.SentinelSet).KillMaster,
		"paused":  (*cachetest.SentinelSet).PauseMaster,
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			set := cachetest.Sentinel(t)
			h := newHeard()
			c := set.Client(t, cache.Config{OnInvalidate: h.on})
			ctx := t.Context()
			must(t, c.Set(ctx, "k", "v", time.Minute))
			if got := set.Master().Do("GET", "k"); got != "v" {
				t.Fatalf("the master has %v", got)
			}
			before := h.count()
			lose(set)
			master := set.Master()
			eventually(t, 10*time.Second, "writes reach the new master", func() bool {
				return c.Set(ctx, "after", how, time.Minute) == nil && master.Do("GET", "after") == how
			})
			eventually(t, 5*time.Second, "a flush for the loss and one for the new link", h.flushed(before+2))
			eventually(t, 5*time.Second, "tracking", c.Tracking)
			eventually(t, 3*time.Second, "changes at the new master are heard", func() bool {
				master.Do("SET", "rss:{x}", "1")
				return h.key("rss:{x}")()
			})
		})
	}
}

func TestClusterKeepsServingAndTrackingWhatIsLeft(t *testing.T) {
	t.Parallel()
	set := cachetest.Cluster(t)
	for _, n := range set.Nodes {
		n.Do("CONFIG", "SET", "cluster-require-full-coverage", "no")
	}
	h := newHeard()
	c := set.Client(t, cache.Config{OnInvalidate: h.on})
	ctx := t.Context()
	keys := []string{"rss:{a}", "rss:{b}", "rss:{c}", "rss:{d}", "rss:{e}", "rss:{f}"}
	byOwner := map[*cachetest.Redis]string{}
	for _, k := range keys {
		must(t, c.Set(ctx, k, k, time.Minute))
		byOwner[set.Owner(k)] = k
		eventually(t, 2*time.Second, k+" is heard", h.key(k))
	}
	if len(byOwner) != 3 {
		t.Fatalf("keys on %d nodes, want 3", len(byOwner))
	}
	got, err := c.GetMany(ctx, keys)
	must(t, err)
	for i, k := range keys {
		if string(got[i]) != k {
			t.Errorf("GetMany[%d] = %q, want %q", i, got[i], k)
		}
	}
	if n, e := c.Exists(ctx, keys...); n != 6 || e != nil {
		t.Errorf("Exists over all nodes = %d, %v", n, e)
	}
	script := cache.NewScript(`return redis.call('GET', KEYS[1])`)
	var runs []cache.Run
	for _, k := range keys {
		runs = append(runs, cache.Run{Keys: []string{k}})
	}
	rs, err := script.ExecMany(ctx, c, runs)
	must(t, err)
	for i, r := range rs {
		if v, _ := r.Reply.Text(); v != keys[i] || r.Err != nil {
			t.Errorf("run %d = %q, %v", i, v, r.Err)
		}
	}
	if _, err := c.Tx(ctx, cache.Cmd{Name: "INCR", Key: "{t}a"}, cache.Cmd{Name: "INCR", Key: "{t}b"}); err != nil {
		t.Errorf("Tx = %v", err)
	}
	dead := set.Nodes[2]
	before := h.count()
	dead.Kill()
	eventually(t, 3*time.Second, "flush for the lost node", h.flushed(before+1))
	eventually(t, 3*time.Second, "unhealthy", func() bool { return !c.Healthy() })
	for owner, k := range byOwner {
		_, ok, err := c.Get(ctx, k)
		if owner == dead && err == nil {
			t.Errorf("Get of a key on the lost node = %v", ok)
		}
		if owner != dead && (err != nil || !ok) {
			t.Errorf("Get of a key on a living node = %v, %v", ok, err)
		}
	}
	dead.Restart() // with nodes.conf kept, it takes its place again
	eventually(t, 10*time.Second, "healthy again", func() bool { return c.Healthy() && c.Tracking() })
	must(t, c.Set(ctx, byOwner[dead], "again", time.Minute))
}
