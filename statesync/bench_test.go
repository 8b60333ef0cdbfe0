package statesync_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/statesync"
	"rootstream/statesync/feed/feedtest"
	"rootstream/statesync/merge"
)

// benched is an instance without what costs tests time.
func benched(b *testing.B, db *postgres.DB, c *cache.Client) *statesync.Manager {
	b.Helper()
	var m *statesync.Manager
	log, err := event.NewLog(event.LogConfig{DB: db, Logger: slog.New(slog.DiscardHandler), OnCommit: func(e []event.Event) { m.Offer(e) }})
	if err != nil {
		b.Fatal(err)
	}
	m, err = statesync.New(statesync.Config{DB: db, Log: log, Cache: c, Auth: feedtest.Key("secret"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	for _, t := range []statesync.Type{{Name: "thing"}, {Name: "viewers", Class: statesync.Volatile, Join: merge.Sum()}} {
		if err := m.Register(t); err != nil {
			b.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{log.Run, m.Run} {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				b.Error(err)
			}
		})
	}
	b.Cleanup(func() { cancel(); wg.Wait() })
	<-m.Ready()
	return m
}

// BenchmarkDurable is updates of many entities by many callers on one instance, with another that listens.
func BenchmarkDurable(b *testing.B) {
	pg := postgrestest.Server(b, "shared_buffers=256MB", "max_wal_size=2GB")
	redis := cachetest.Server(b)
	db := postgrestest.Open(b, postgres.Config{DSN: pg.DSN()})
	m := benched(b, db, redis.Client(b, cache.Config{}))
	other := benched(b, db, redis.Client(b, cache.Config{}))
	var n atomic.Int64
	b.SetParallelism(256)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		r := event.Ref{Type: "thing", ID: uuid.New()}
		for p.Next() {
			_, err := m.Update(b.Context(), r, func(d *statesync.Doc) error {
				d.Data["n"], d.Data["title"] = n.Add(1), "a stream with a title"
				return nil
			}, statesync.UpdateOptions{})
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
	b.Logf("%v", other.Status().Counts)
}

// BenchmarkPropagation sends 5,000 updates a second, whatever comes back, and measures from the call to the callback on
// another instance.
func BenchmarkPropagation(b *testing.B) {
	for name, withRedis := range map[string]bool{"redis": true, "alone": false} {
		b.Run(name, func(b *testing.B) { propagate(b, withRedis) })
	}
}

func propagate(b *testing.B, withRedis bool) {
	b.Helper()
	pg := postgrestest.Server(b, "shared_buffers=256MB", "max_wal_size=2GB")
	db, db2 := postgrestest.Open(b, postgres.Config{DSN: pg.DSN()}), postgrestest.Open(b, postgres.Config{DSN: pg.DSN()})
	var c1, c2 *cache.Client
	if withRedis {
		redis := cachetest.Server(b)
		c1, c2 = redis.Client(b, cache.Config{}), redis.Client(b, cache.Config{})
	}
	m, other := benched(b, db, c1), benched(b, db2, c2)
	const rate, seconds = 5000, 10
	sent := make([]time.Time, rate*seconds)
	var took []time.Duration // of the subscriber, until done
	var began time.Time
	worst := make([]time.Duration, seconds)
	ctx, cancel := context.WithCancel(b.Context())
	ready, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_ = other.Subscribe(ctx, []string{"thing.*"}, statesync.SubOptions{Buffer: 1 << 16, OnReady: func(statesync.Token) { close(ready) }},
			func(c statesync.Change) error {
				var data struct {
					Patch struct{ N int }
					Doc   struct{ N int }
				}
				now := time.Now()
				if err := json.Unmarshal(c.Data, &data); err != nil {
					return err
				}
				at := sent[max(data.Patch.N, data.Doc.N)]
				second := int(at.Sub(began).Seconds())
				worst[second] = max(worst[second], now.Sub(at))
				took = append(took, now.Sub(at))
				return nil
			})
	}()
	<-ready
	<-time.After(time.Second)
	refs := make([]event.Ref, 1000)
	for i := range refs {
		refs[i] = event.Ref{Type: "thing", ID: uuid.New()}
	}
	var wg sync.WaitGroup
	began = time.Now()
	for i := 0; i < len(sent); {
		due := min(len(sent), int(time.Since(began).Seconds()*rate))
		for ; i < due; i++ {
			sent[i] = began.Add(time.Duration(i) * time.Second / rate) // when it was due: nothing is omitted
			n := i
			wg.Go(func() {
				_, err := m.Update(ctx, refs[n%len(refs)], func(d *statesync.Doc) error { d.Data["n"] = n; return nil }, statesync.UpdateOptions{})
				if err != nil {
					b.Error(err)
				}
			})
		}
		<-time.After(500 * time.Microsecond)
	}
	wg.Wait()
	<-time.After(time.Second)
	cancel()
	<-done
	slices.Sort(took)
	if len(took) < len(sent)*99/100 {
		b.Errorf("%d of %d came", len(took), len(sent))
	}
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(took[len(took)*999/1000].Microseconds())/1000, "p999-ms")
	b.Logf("worst of each second: %v; %v", worst, other.Status().Counts)
}

// BenchmarkVolatile is contributions to 1,000 entities that another instance hears of.
func BenchmarkVolatile(b *testing.B) {
	redis := cachetest.Server(b)
	db := postgrestest.New(b)
	m := benched(b, db, redis.Client(b, cache.Config{}))
	benched(b, db, redis.Client(b, cache.Config{}))
	refs := make([]event.Ref, 1000)
	for i := range refs {
		refs[i] = event.Ref{Type: "viewers", ID: uuid.New()}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if err := m.SetVolatile(refs[i%len(refs)], map[string]any{"now": i}); err != nil {
			b.Fatal(err)
		}
		i++
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
}
