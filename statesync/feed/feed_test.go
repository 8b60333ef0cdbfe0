package feed_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/event"
	"rootstream/postgres/postgrestest"
	"rootstream/statesync/feed"
)

func TestEveryInstanceSeesEveryEventInOrder(t *testing.T) {
	t.Parallel()
	db, redis := postgrestest.New(t), cachetest.Server(t)
	commit(t, db, refs(20)...) // history before anybody listens
	var nodes []*instance
	for i := range 3 {
		nodes = append(nodes, start(t, label(i), db, redis.Client(t, cache.Config{})))
	}
	var wg sync.WaitGroup
	for _, n := range nodes {
		for range 2 {
			wg.Go(func() { n.write(refs(150)...) })
		}
	}
	wg.Wait()
	for _, n := range nodes {
		n.awaitHeads()
		if !same(n.all(), nodes[0].all()) || len(n.all()) != 900 {
			t.Errorf("%s has seen %d events, and not the same as %s", n.name, len(n.all()), nodes[0].name)
		}
	}
	eventually(t, "they know each other", func() bool { return len(nodes[0].Status().Peers) == 2 })
	for _, p := range nodes[0].Status().Peers {
		if len(p.Diverged) > 0 || p.Epoch != 1 || p.Address == "" {
			t.Errorf("peer %+v", p)
		}
	}
	eventually(t, "it hears itself", func() bool { return nodes[1].Status().Redis == "ok" })
	if nodes[1].Status().Redis != "ok" || nodes[1].Suspect() || nodes[1].Alone() {
		t.Errorf("status %+v", nodes[1].Status())
	}
	if err := nodes[0].WaitAll(t.Context(), nodes[0].Applied()); err != nil {
		t.Error(err)
	}
}

func TestWithoutRedisPostgresDelivers(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	a, b := start(t, "a", db, nil), start(t, "b", db, nil)
	a.write(refs(100)...)
	a.awaitHeads()
	b.awaitHeads()
	if !same(a.all(), b.all()) || b.Status().Redis != "off" || b.Suspect() {
		t.Errorf("status %+v", b.Status())
	}
	if err := b.Broadcast(t.Context(), nil); !errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("a broadcast without Redis: %v", err)
	}
}

func TestAPublisherThatStopsAfterItsCommitLosesNothing(t *testing.T) {
	t.Parallel()
	db, redis := postgrestest.New(t), cachetest.Server(t)
	a, b := start(t, "a", db, redis.Client(t, cache.Config{})), start(t, "b", db, redis.Client(t, cache.Config{}))
	eventually(t, "both hear themselves", func() bool { return !a.Alone() && !b.Alone() })
	ref := inShard(3)
	a.write(ref)
	commit(t, db, ref, ref) // nobody is told
	a.write(ref)            // waits for the two
	a.awaitHeads()
	b.awaitHeads()
	for _, n := range []*instance{a, b} {
		if n := count(n, "events_postgres"); n < 2 {
			t.Errorf("%d events were read from PostgreSQL, though nobody published two", n)
		}
	}
	if !same(a.all(), b.all()) {
		t.Error("they have seen different events")
	}
}

func TestRepeatedLostAndReorderedOffers(t *testing.T) {
	t.Parallel()
	db, redis := postgrestest.New(t), cachetest.Server(t)
	a, b := start(t, "a", db, redis.Client(t, cache.Config{})), start(t, "b", db, redis.Client(t, cache.Config{}))
	events := commit(t, db, slices.Concat(refs(100), slices.Repeat([]event.Ref{inShard(1)}, 200))...)
	r := rand.New(rand.NewPCG(1, 2))
	r.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	for i, e := range events {
		switch r.IntN(4) {
		case 0: // lost
		case 1:
			a.Offer(events[i : i+1])
			b.Offer([]event.Event{e, e})
		default:
			a.Offer(events[i:min(len(events), i+3)])
		}
	}
	a.awaitHeads()
	b.awaitHeads()
	if !same(a.all(), b.all()) {
		t.Error("they have seen different events")
	}
}

// TestRedisMayFailInEveryWay lets two instances write while Redis is wiped, restarted empty, silent and gone.
func TestRedisMayFailInEveryWay(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*cachetest.Redis){
		"wiped":           func(r *cachetest.Redis) { r.FlushAll() },
		"restarted empty": func(r *cachetest.Redis) { r.Restart() },
		"silent": func(r *cachetest.Redis) {
			r.Pause()
			<-time.After(4 * time.Second)
			r.Resume()
		},
		"gone": func(r *cachetest.Redis) {
			r.Kill()
			<-time.After(4 * time.Second)
			r.Restart()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, redis := postgrestest.New(t), cachetest.Server(t)
			a, b := start(t, "a", db, redis.Client(t, cache.Config{})), start(t, "b", db, redis.Client(t, cache.Config{}))
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for _, n := range []*instance{a, b} {
				wg.Go(func() {
					for ctx.Err() == nil {
						n.write(refs(5)...)
					}
				})
			}
			<-time.After(200 * time.Millisecond)
			fault(redis)
			<-time.After(200 * time.Millisecond)
			cancel()
			wg.Wait()
			a.awaitHeads()
			b.awaitHeads()
			if !same(a.all(), b.all()) {
				t.Error("they have seen different events")
			}
			eventually(t, "Redis is relied on again", func() bool { return !a.Alone() && !b.Alone() })
			before := count(b, "events_redis")
			eventually(t, "events come through Redis again", func() bool {
				a.write(refs(1)...)
				return count(b, "events_redis") > before
			})
		})
	}
}

func TestWhoeverWritesToRedisChangesNothing(t *testing.T) {
	t.Parallel()
	forged := strings.Repeat("x", 32) + "e" + strings.Repeat("\x01", 60)
	for name, attack := range map[string]func(t *testing.T, r *cachetest.Redis){
		"an entry far ahead": func(_ *testing.T, r *cachetest.Redis) { r.Do("XADD", cache.Sync, "9007199254740992-0", "d", forged) },
		"the highest id there is": func(_ *testing.T, r *cachetest.Redis) {
			r.Do("XADD", cache.Sync, "18446744073709551615-18446744073709551615", "d", forged)
		},
		"the next entry":        func(_ *testing.T, r *cachetest.Redis) { r.Do("XADD", cache.Sync, "*", "d", forged) },
		"an entry without form": func(_ *testing.T, r *cachetest.Redis) { r.Do("XADD", cache.Sync, "*", "x", "y") },
		"another type":          func(_ *testing.T, r *cachetest.Redis) { r.Do("DEL", cache.Sync); r.Do("SET", cache.Sync, "x") },
		"nothing is left":       func(_ *testing.T, r *cachetest.Redis) { r.Do("XTRIM", cache.Sync, "MAXLEN", "0") },
		"a true frame again": func(t *testing.T, r *cachetest.Redis) {
			t.Helper()
			r.Do("XADD", cache.Sync, "*", "d", frameOf(t, r, 'e'))
		},
		"a frame that says it is another thing": func(t *testing.T, r *cachetest.Redis) {
			t.Helper()
			d := []byte(frameOf(t, r, 'b'))
			d[32] = 'e'
			r.Do("XADD", cache.Sync, "*", "d", string(d))
		},
		"a frame with one bit changed": func(t *testing.T, r *cachetest.Redis) {
			t.Helper()
			d := []byte(frameOf(t, r, 'e'))
			d[len(d)-1] ^= 1
			r.Do("DEL", cache.Sync)
			r.Do("XADD", cache.Sync, "*", "d", string(d))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, redis := postgrestest.New(t), cachetest.Server(t)
			a, b := start(t, "a", db, redis.Client(t, cache.Config{})), start(t, "b", db, redis.Client(t, cache.Config{}))
			eventually(t, "both hear themselves", func() bool { return !a.Alone() && !b.Alone() })
			ref := inShard(5)
			a.write(ref, ref, ref)
			b.awaitHeads()
			attack(t, redis)
			a.write(ref, ref, ref)
			a.awaitHeads()
			b.awaitHeads()
			if !same(a.all(), b.all()) || len(b.all()) != 6 {
				t.Errorf("b has seen %v", b.all())
			}
			before := count(b, "events_redis")
			eventually(t, "events come through Redis again", func() bool {
				a.write(ref)
				<-time.After(20 * time.Millisecond)
				return count(b, "events_redis") > before
			})
			a.awaitHeads()
			b.awaitHeads()
		})
	}
}

// frameOf finds the first frame of a kind.
func frameOf(t *testing.T, r *cachetest.Redis, kind byte) string {
	t.Helper()
	var found string
	eventually(t, "there is a frame "+string(kind), func() bool {
		entries, _ := r.Do("XRANGE", cache.Sync, "-", "+").([]any)
		for _, e := range entries {
			entry, _ := e.([]any)
			fields, _ := entry[1].([]any)
			if d, _ := fields[1].(string); len(d) > 32 && d[32] == kind {
				found = d
				return true
			}
		}
		return false
	})
	return found
}

func TestSignsOfLifeThatAreForgedOrRepeatedAreIgnored(t *testing.T) {
	t.Parallel()
	db, redis := postgrestest.New(t), cachetest.Server(t)
	a, b := start(t, "a", db, redis.Client(t, cache.Config{})), start(t, "b", db, redis.Client(t, cache.Config{}))
	eventually(t, "they know each other", func() bool { return len(a.Status().Peers) == 1 && len(b.Status().Peers) == 1 })
	if err := a.Broadcast(t.Context(), []byte("hello")); err != nil {
		t.Fatal(err)
	}
	heard := func() []string {
		b.mu.Lock()
		defer b.mu.Unlock()
		return slices.Clone(b.casts)
	}
	eventually(t, "b hears a", func() bool { return slices.Equal(heard(), []string{"hello"}) })
	for _, kind := range []byte{'b', 'v'} {
		d := frameOf(t, redis, kind)
		redis.Do("XADD", cache.Sync, "*", "d", d)
		redis.Do("XADD", cache.Sync, "*", "d", d[:len(d)-1])
		redis.Do("XADD", cache.Sync, "*", "x", "y")
	}
	eventually(t, "all six are ignored", func() bool { return count(b, "frames_stale") >= 2 && count(b, "frames_forged") >= 4 })
	if len(b.Status().Peers) != 1 || !slices.Equal(heard(), []string{"hello"}) {
		t.Errorf("peers %v, heard %v", b.Status().Peers, heard())
	}
	a.stop()
	eventually(t, "a is forgotten", func() bool { return len(b.Status().Peers) == 0 })
}

func TestWaiting(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	a := start(t, "a", db, nil)
	ref := inShard(2)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := a.Wait(ctx, 2, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for what does not come: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Wait(t.Context(), 2, 2) }()
	a.write(ref, ref)
	if err := <-done; err != nil || a.Applied()[2] < 2 {
		t.Errorf("%v at %d", err, a.Applied()[2])
	}
	if err := a.WaitAll(t.Context(), a.Applied()); err != nil {
		t.Errorf("there is nobody else: %v", err)
	}
	never, stop := context.WithCancel(t.Context())
	stop()
	if err := a.WaitAll(never, [event.Shards]int64{0: 99}); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for all: %v", err)
	}
}

func TestAFeedThatIsFarBehindStartsOver(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	a := start(t, "a", db, nil)
	ref := inShard(0)
	_, err := db.Exec(t.Context(), `insert into events (shard, seq, aggregate_type, aggregate_id, version, name)
		select 0, i, 'thing', $1, i, 'thing.changed' from generate_series(1, 50001) i`, ref.ID)
	if err != nil {
		t.Fatal(err)
	}
	a.awaitHeads()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.resets) != 2 || a.resets[1].Reason != "behind" || a.resets[1].Heads[0] != 50001 || len(a.seen[0]) != 0 {
		t.Errorf("resets %v, %d seen", a.resets, len(a.seen[0]))
	}
	if at := a.reached[1][0]; at != 0 {
		t.Errorf("number %d was said to be handed on before what was made of earlier ones was forgotten", at)
	}
}

func TestAConfigurationThatCannotWorkIsRefused(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	for _, c := range []feed.Config{{}, {DB: db}, {DB: db, OnBatch: func(int, []event.Event) {}, Cache: cachetest.New(t)}} {
		if _, err := feed.New(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	reg := prometheus.NewRegistry()
	if _, err := feed.New(feed.Config{DB: db, OnBatch: func(int, []event.Event) {}, Registerer: reg}); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil || len(families) < 18 {
		t.Errorf("%d metrics, %v", len(families), err)
	}
}
