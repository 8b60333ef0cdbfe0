package feed_test

import (
	"os/exec"
	"testing"
	"time"

	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

func TestInAClusterOfRedis(t *testing.T) {
	t.Parallel()
	db, set := postgrestest.New(t), cachetest.Cluster(t)
	a, b := start(t, "a", db, set.Client(t, cache.Config{})), start(t, "b", db, set.Client(t, cache.Config{}))
	eventually(t, "both hear themselves", func() bool { return !a.Alone() && !b.Alone() })
	a.write(refs(100)...)
	b.write(refs(100)...)
	a.awaitHeads()
	b.awaitHeads()
	if !same(a.all(), b.all()) || count(b, "events_redis") == 0 {
		t.Errorf("counts %v", b.Status().Counts)
	}
}

func TestSentinelPromotesAReplicaThatLacksFrames(t *testing.T) {
	t.Parallel()
	db, set := postgrestest.New(t), cachetest.Sentinel(t)
	a, b := start(t, "a", db, set.Client(t, cache.Config{})), start(t, "b", db, set.Client(t, cache.Config{}))
	eventually(t, "both hear themselves", func() bool { return !a.Alone() && !b.Alone() })
	a.write(refs(50)...)
	set.PauseMaster() // it keeps its connections, and is deposed
	b.write(refs(50)...)
	a.awaitHeads()
	b.awaitHeads()
	eventually(t, "the new master is followed", func() bool { return !a.Alone() && !b.Alone() })
	before := count(b, "events_redis")
	eventually(t, "events come through Redis again", func() bool {
		a.write(refs(1)...)
		return count(b, "events_redis") > before
	})
	a.awaitHeads()
	b.awaitHeads()
	if !same(a.all(), b.all()) {
		t.Error("they have seen different events")
	}
}

func TestPostgresRestarts(t *testing.T) {
	t.Parallel()
	pg, redis := postgrestest.Server(t), cachetest.Server(t)
	db := postgrestest.Open(t, postgres.Config{DSN: pg.DSN()})
	a, b := start(t, "a", db, redis.Client(t, cache.Config{})), start(t, "b", db, redis.Client(t, cache.Config{}))
	a.write(refs(30)...)
	pg.Restart()
	eventually(t, "PostgreSQL takes writes", func() bool { return db.Ping(t.Context()) == nil })
	b.write(refs(30)...)
	a.awaitHeads()
	b.awaitHeads()
	if !same(a.all(), b.all()) || a.Epoch() != 1 {
		t.Errorf("epoch %d after a restart that lost nothing", a.Epoch())
	}
	pg.Kill()
	eventually(t, "its absence is noticed", func() bool { return !a.Status().Postgres })
	if a.Suspect() {
		t.Error("Redis still confirms what was handed on")
	}
	redis.Kill()
	eventually(t, "nothing is confirmed any more", func() bool { return a.Suspect() })
	pg.Restart()
	eventually(t, "PostgreSQL alone is enough", func() bool { return !a.Suspect() })
}

// TestPostgresThatLostCommitsBeginsANewEpoch puts an older copy of the data folder in place, as a failover to a replica
// that lags, or a restored backup, would. Once nobody has written since, once new commits have the lost ones' numbers.
func TestPostgresThatLostCommitsBeginsANewEpoch(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]int{"the head is lower": 0, "the numbers are taken again": 5} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pg, redis := postgrestest.Server(t), cachetest.Server(t)
			db := postgrestest.Open(t, postgres.Config{DSN: pg.DSN()})
			a, b := start(t, "a", db, redis.Client(t, cache.Config{})), start(t, "b", db, redis.Client(t, cache.Config{}))
			ref := inShard(7)
			a.write(ref, ref)
			a.awaitHeads()
			pg.Kill()
			dir := pg.Dir()
			run(t, "cp", "-a", dir, dir+".old")
			pg.Restart()
			eventually(t, "PostgreSQL takes writes", func() bool { return db.Ping(t.Context()) == nil })
			lost := a.write(ref, ref, ref)
			a.awaitHeads()
			b.awaitHeads()
			pg.Kill()
			run(t, "rm", "-rf", dir)
			run(t, "mv", dir+".old", dir)
			pg.Restart()
			other := postgrestest.Open(t, postgres.Config{DSN: pg.DSN()})
			for range after { // by somebody who saw none of what was lost
				commit(t, other, ref)
			}
			for _, n := range []*instance{a, b} {
				eventually(t, n.name+" begins a new epoch", func() bool { return n.Epoch() == 2 })
				eventually(t, n.name+" reports what was lost", func() bool {
					n.mu.Lock()
					defer n.mu.Unlock()
					return same(n.orphans, lost)
				})
			}
			a.write(refs(10)...)
			a.awaitHeads()
			b.awaitHeads()
			before := count(b, "events_redis")
			eventually(t, "the new epoch's events come through Redis", func() bool {
				a.write(ref)
				return count(b, "events_redis") > before
			})
			a.awaitHeads()
			if a.Epoch() != 2 || b.Epoch() != 2 {
				t.Errorf("epochs %d and %d, want one new one", a.Epoch(), b.Epoch())
			}
		})
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v %s", name, err, out)
	}
}

func TestAFeedWaitsForPostgres(t *testing.T) {
	t.Parallel()
	pg := postgrestest.Server(t)
	db := postgrestest.Open(t, postgres.Config{DSN: pg.DSN(), ConnectTimeout: time.Second, AcquireTimeout: time.Second})
	pg.Kill()
	go func() {
		<-time.After(300 * time.Millisecond)
		pg.Restart()
	}()
	n := start(t, "a", db, nil)
	n.write(inShard(1))
	n.awaitHeads()
}
