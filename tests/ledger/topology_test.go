package ledger_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/tests/harness"
)

// topology is how Redis stands.
type topology struct {
	single *cachetest.Redis // if there is one, every instance has a line of its own to it
	at     redisAt
	fault  harness.Track
}

// env is how an instance reaches Redis.
func (p topology) env(t *testing.T, n *node) string {
	t.Helper()
	at := p.at
	if p.single != nil {
		at.URL = harness.Through(t, p.single.URL(), n.ToRedis)
	}
	b, err := json.Marshal(at)
	if err != nil {
		t.Fatal(err)
	}
	return envRedis + "=" + string(b)
}

func one(t *testing.T) topology {
	t.Helper()
	redis := cachetest.Server(t)
	return topology{single: redis, fault: losesAKey(t, redis)}
}

func locate(cfg cache.Config) redisAt {
	return redisAt{Password: cfg.Password, Addrs: cfg.Addrs, Cluster: cfg.Cluster, Sentinel: cfg.Sentinel}
}

// losesAKey waits for a cluster that still recovers from the fault before, and takes no commands meanwhile.
func losesAKey(t *testing.T, servers ...*cachetest.Redis) harness.Track {
	t.Helper()
	return func(r *rand.Rand) harness.Fault {
		redis := servers[r.IntN(len(servers))]
		return harness.Fault{What: "Redis loses a key", Do: func() {
			harness.Eventually(t, harness.Patience, "a key is deleted", func() error {
				name, err := redis.Try("RANDOMKEY")
				if key, ok := name.(string); ok {
					_, err = redis.Try("DEL", key)
				}
				return err
			})
		}}
	}
}

// sentinel is a master and its replica, which takes over without the newest frames.
func sentinel(t *testing.T) topology {
	t.Helper()
	set := cachetest.Sentinel(t)
	failover := func(what string, fail func(), back func(old *cachetest.Redis)) harness.Track {
		return func(r *rand.Rand) harness.Fault {
			var old *cachetest.Redis
			return harness.Fault{What: what, Do: func() {
				set.Settle()
				old = set.Master()
				set.LoseTail(harness.Between(r, 200, 1500))
				fail()
				set.Rejoin()
			}, Undo: func() { back(old) }}
		}
	}
	return topology{at: locate(set.Config()), fault: deck(
		failover("the master is killed, and what its replica lacks is lost", set.KillMaster, (*cachetest.Redis).Restart),
		failover("the master is paused, and what its replica lacks is lost", set.PauseMaster, (*cachetest.Redis).Resume),
	)}
}

// clustered is three masters; each is lost for a while with what it has.
func clustered(t *testing.T) topology {
	t.Helper()
	set := cachetest.Cluster(t)
	each := func(fn func(name string, n *cachetest.Redis) harness.Fault) harness.Track {
		return func(r *rand.Rand) harness.Fault {
			i := r.IntN(len(set.Nodes))
			return fn(fmt.Sprintf("master %d ", i), set.Nodes[i])
		}
	}
	return topology{at: locate(set.Config()), fault: deck(
		each(func(name string, n *cachetest.Redis) harness.Fault {
			return harness.Fault{What: name + "killed", Do: n.Kill, Undo: n.Restart}
		}),
		each(func(name string, n *cachetest.Redis) harness.Fault {
			return harness.Fault{What: name + "paused", Do: n.Pause, Undo: n.Resume}
		}),
		each(func(name string, n *cachetest.Redis) harness.Fault {
			return harness.Fault{What: name + "wiped", Do: n.FlushAll}
		}),
		losesAKey(t, set.Nodes...),
	)}
}
