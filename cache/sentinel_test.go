package cache_test

import (
	"errors"
	"testing"
	"time"

	"rootstream/cache"
	"rootstream/cache/cachetest"
)

func TestTheNewestFailoverIsBelievedWhateverOneSentinelSays(t *testing.T) {
	t.Parallel()
	set, elsewhere := cachetest.Sentinel(t), cachetest.Server(t)
	master := set.Replica()
	set.Failover()
	set.Mislead(set.Sentinels[0], elsewhere)
	c := set.Client(t, cache.Config{})
	eventually(t, 20*time.Second, "it is connected", func() bool { return c.Set(t.Context(), "k", "v", time.Minute) == nil })
	if got := master.Do("GET", "k"); got != "v" {
		t.Errorf("the master has %v", got)
	}
	info, err := c.Info(t.Context())
	if must(t, err); info.Mode != "sentinel" || info.Addr != master.Addr() || info.Role != "master" {
		t.Errorf("%+v", info)
	}
}

func TestOneSentinelThatDiffersLeadsNobodyAway(t *testing.T) {
	t.Parallel()
	set, elsewhere := cachetest.Sentinel(t), cachetest.Server(t)
	set.Mislead(set.Sentinels[0], elsewhere) // as far as it knows there was no failover, as far as the others know neither
	for range 20 {
		c := set.Client(t, cache.Config{})
		eventually(t, 20*time.Second, "it is connected", func() bool { return c.Set(t.Context(), "k", "v", time.Minute) == nil })
		c.Close()
		if got := elsewhere.Do("GET", "k"); got != nil {
			t.Fatalf("a client went where one sentinel of three led it, which has %v", got)
		}
	}
	set.Sentinels[1].Kill()
	addrs := map[string]bool{}
	for range 10 {
		c := set.Client(t, cache.Config{})
		eventually(t, 20*time.Second, "it is connected", func() bool { return c.Set(t.Context(), "k", "v", time.Minute) == nil })
		info, err := c.Info(t.Context())
		must(t, err)
		addrs[info.Addr] = true
		c.Close()
	}
	if len(addrs) != 1 {
		t.Errorf("where one says this and one that, clients are at %v", addrs)
	}
}

func TestAMasterIsLeftThatWasReplacedAndStillAnswers(t *testing.T) {
	t.Parallel()
	set, next := cachetest.Sentinel(t), cachetest.Server(t)
	c := set.Client(t, cache.Config{})
	old := set.Master()
	eventually(t, 20*time.Second, "it is connected", func() bool { return c.Set(t.Context(), "k", "before", time.Minute) == nil })
	for _, s := range set.Sentinels {
		set.Mislead(s, next)
	}
	eventually(t, 20*time.Second, "writes reach the new master", func() bool {
		return c.Set(t.Context(), "k", "after", time.Minute) == nil && next.Do("GET", "k") == "after"
	})
	if got := old.Do("GET", "k"); got == nil {
		t.Error("the old master has nothing: it was not there to be left")
	}
}

func TestAMasterThatWasDeposedIsAnOutage(t *testing.T) {
	t.Parallel()
	set := cachetest.Sentinel(t)
	c := set.Client(t, cache.Config{})
	master := set.Master()
	eventually(t, 20*time.Second, "it is connected", func() bool { return c.Set(t.Context(), "k", "v", time.Minute) == nil })
	master.Do("REPLICAOF", "127.0.0.1", "1")
	eventually(t, 10*time.Second, "it is noticed", func() bool {
		_, _, err := c.Get(t.Context(), "k")
		return !c.Healthy() && errors.Is(err, cache.ErrUnavailable)
	})
	master.Do("REPLICAOF", "NO", "ONE")
	eventually(t, 20*time.Second, "it is the master again, or another one is", func() bool {
		return c.Set(t.Context(), "k", "again", time.Minute) == nil
	})
}

func TestSilentAndMissingSentinelsAreDoneWithout(t *testing.T) {
	t.Parallel()
	set := cachetest.Sentinel(t)
	set.Sentinels[0].Pause()
	set.Sentinels[1].Kill()
	c := set.Client(t, cache.Config{})
	eventually(t, 20*time.Second, "it is connected", func() bool { return c.Set(t.Context(), "k", "v", time.Minute) == nil })
	set.Sentinels[2].Kill()
	eventually(t, 10*time.Second, "it goes on without any", func() bool { return c.Set(t.Context(), "k", "w", time.Minute) == nil && c.Healthy() })
	strangers := set.Config()
	strangers.Sentinel.Addrs = []string{set.Sentinels[2].Addr()}
	if err := open(t, strangers).Ping(t.Context()); !errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("Ping without anybody who knows the master = %v", err)
	}
	unknown := set.Config()
	unknown.Sentinel.Master = "another"
	set.Sentinels[1].Restart()
	if err := open(t, unknown).Ping(t.Context()); !errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("Ping of a set that nobody watches = %v", err)
	}
}
