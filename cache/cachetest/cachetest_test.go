package cachetest_test

import (
	"testing"
	"time"

	"rootstream/cache"
	"rootstream/cache/cachetest"
)

func TestServerSurvivesItsFaults(t *testing.T) {
	t.Parallel()
	s := cachetest.Server(t)
	s.Do("SET", "k", "v")
	if v := s.Do("GET", "k"); v != "v" {
		t.Errorf("GET = %v", v)
	}
	s.Pause()
	s.Resume()
	if v := s.Do("GET", "k"); v != "v" {
		t.Errorf("GET after a pause = %v", v)
	}
	s.FlushAll()
	if v := s.Do("GET", "k"); v != nil {
		t.Errorf("GET after FLUSHALL = %v", v)
	}
	s.Do("SET", "k", "v")
	s.Restart()
	if v := s.Do("GET", "k"); v != nil {
		t.Errorf("GET after a restart = %v, want an empty server", v)
	}
	s.Kill()
	s.Kill() // again does no harm
	s.Restart()
	s.Do("PING")
}

func TestSentinelPromotesTheReplica(t *testing.T) {
	t.Parallel()
	set := cachetest.Sentinel(t)
	c := set.Client(t, cache.Config{})
	if err := c.Set(t.Context(), "k", "v", time.Minute); err != nil {
		t.Fatal(err)
	}
	old := set.Master()
	start := time.Now()
	set.Failover()
	t.Logf("failover after %v", time.Since(start))
	if set.Master() == old {
		t.Error("the old master is still named")
	}
}

func TestClusterServesAllSlots(t *testing.T) {
	t.Parallel()
	set := cachetest.Cluster(t)
	c := set.Client(t, cache.Config{})
	owners := map[*cachetest.Redis]bool{}
	for _, k := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		if err := c.Set(t.Context(), k, k, time.Minute); err != nil {
			t.Fatal(err)
		}
		owner := set.Owner(k)
		owners[owner] = true
		if v := owner.Do("GET", k); v != k {
			t.Errorf("owner of %q has %v", k, v)
		}
	}
	if len(owners) != 3 {
		t.Errorf("keys live on %d nodes, want 3", len(owners))
	}
}
