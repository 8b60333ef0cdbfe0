package cache_test

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"rootstream/cache"
	"rootstream/cache/cachetest"
)

// follower collects what Tail hands on.
type follower struct {
	mu    sync.Mutex
	ids   map[string][]string
	vals  map[string][]string
	ready chan struct{}
}

// follow runs Tail until the test ends, or until the returned function is called.
func follow(t *testing.T, c *cache.Client, positions map[string]string) (*follower, func()) {
	t.Helper()
	f := &follower{ids: map[string][]string{}, vals: map[string][]string{}, ready: make(chan struct{}, 100)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- c.Tail(ctx, cache.TailConfig{
			Positions: positions, Block: 50 * time.Millisecond, Count: 3,
			OnEntries: func(stream string, entries []cache.Entry) {
				f.mu.Lock()
				defer f.mu.Unlock()
				for _, e := range entries {
					f.ids[stream] = append(f.ids[stream], e.ID)
					f.vals[stream] = append(f.vals[stream], string(e.Get("v")))
				}
			},
			OnReady: func([]string) { f.ready <- struct{}{} },
		})
	}()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Tail: %v", err)
		}
	})
	t.Cleanup(stop)
	return f, stop
}

func (f *follower) values(stream string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.vals[stream])
}

func (f *follower) await(t *testing.T, stream string, want ...string) {
	t.Helper()
	eventually(t, 20*time.Second, "entries of "+stream, func() bool { return slices.Equal(f.values(stream), want) })
}

func add(t *testing.T, c *cache.Client, stream, id, v string) {
	t.Helper()
	eventually(t, 20*time.Second, "an entry is added", func() bool {
		_, err := c.Do(t.Context(), cache.Cmd{Name: "XADD", Key: stream, Args: []string{id, "x", "y", "v", v}})
		return err == nil
	})
}

func TestTailHandsOnEverythingAfterAPositionInOrder(t *testing.T) {
	t.Parallel()
	c := cachetest.New(t)
	for i := 1; i <= 10; i++ {
		add(t, c, "a", strconv.Itoa(i)+"-0", strconv.Itoa(i))
	}
	add(t, c, "b", "5-0", "old")
	f, stop := follow(t, c, map[string]string{"a": "2-0", "b": "$"})
	f.await(t, "a", "3", "4", "5", "6", "7", "8", "9", "10")
	<-f.ready
	add(t, c, "b", "6-0", "new")
	add(t, c, "a", "11-0", "11")
	f.await(t, "b", "new")
	f.await(t, "a", "3", "4", "5", "6", "7", "8", "9", "10", "11")
	stop()
	add(t, c, "a", "12-0", "12")
	if got := f.values("a"); got[len(got)-1] != "11" {
		t.Errorf("after its end: %v", got)
	}
}

func TestTailComesBackAfterEveryLoss(t *testing.T) {
	t.Parallel()
	s := cachetest.Server(t)
	c := s.Client(t, cache.Config{CommandTimeout: 200 * time.Millisecond, LinkTimeout: 300 * time.Millisecond, ProbeInterval: 100 * time.Millisecond})
	f, _ := follow(t, c, map[string]string{"a": "0-0", "b": "$"})
	<-f.ready
	add(t, c, "a", "1-0", "1")
	f.await(t, "a", "1")
	s.Restart() // empty
	add(t, c, "a", "2-0", "2")
	f.await(t, "a", "1", "2")
	s.Pause()
	eventually(t, 20*time.Second, "the silence is noticed", func() bool { return !c.Healthy() })
	s.Resume()
	add(t, c, "a", "3-0", "3")
	f.await(t, "a", "1", "2", "3")
	s.FlushAll()
	add(t, c, "a", "4-0", "4")
	f.await(t, "a", "1", "2", "3", "4")
	s.Do("SET", "b", "not a stream") // spoils the question for all
	add(t, c, "a", "5-0", "5")
	s.Do("DEL", "b")
	f.await(t, "a", "1", "2", "3", "4", "5")
}

func TestTailFollowsTheMasterOfSentinels(t *testing.T) {
	t.Parallel()
	set := cachetest.Sentinel(t)
	c := set.Client(t, cache.Config{})
	f, _ := follow(t, c, map[string]string{"a": "0-0"})
	<-f.ready
	add(t, c, "a", "1-0", "1")
	f.await(t, "a", "1")
	set.KillMaster()
	add(t, c, "a", "9-0", "9")
	eventually(t, 20*time.Second, "the new master is followed", func() bool { return slices.Contains(f.values("a"), "9") })
}

func TestTailOfManySlotsInACluster(t *testing.T) {
	t.Parallel()
	set := cachetest.Cluster(t)
	c := set.Client(t, cache.Config{})
	positions := map[string]string{cache.Sync: "$"}
	owners := map[*cachetest.Redis]bool{}
	for i := range 16 {
		stream := "log:{" + strconv.Itoa(i) + "}"
		positions[stream] = "0-0"
		owners[set.Owner(stream)] = true
	}
	if len(owners) < 2 {
		t.Fatal("all streams are in one place")
	}
	f, _ := follow(t, c, positions)
	for range positions {
		<-f.ready
	}
	for stream := range positions {
		add(t, c, stream, "*", stream)
		f.await(t, stream, stream)
	}
}

func TestTailNeedsStreamsAndAHandler(t *testing.T) {
	t.Parallel()
	c := cachetest.New(t)
	if c.Tail(t.Context(), cache.TailConfig{OnEntries: func(string, []cache.Entry) {}}) == nil {
		t.Error("without streams it began")
	}
	if c.Tail(t.Context(), cache.TailConfig{Positions: map[string]string{"a": "$"}}) == nil {
		t.Error("without a handler it began")
	}
	var none cache.Entry
	if none.Get("v") != nil {
		t.Error("an entry without fields has a value")
	}
}
