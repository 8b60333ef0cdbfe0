package cache_test

import (
	"context"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/rueidis"

	"rootstream/cache"
	"rootstream/cache/cachetest"
)

const benchKeys = 10_000

// benchmarkGet runs get from 64 goroutines per core.
func benchmarkGet(b *testing.B, get func(ctx context.Context, key string) error) {
	b.Helper()
	keys := make([]string, benchKeys)
	for i := range keys {
		keys[i] = "rss:{" + strconv.Itoa(i) + "}"
	}
	b.ReportAllocs()
	b.SetParallelism(64)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		ctx, cancel := context.WithCancel(context.Background()) // as an HTTP request has
		defer cancel()
		for i := 0; pb.Next(); i++ {
			if err := get(ctx, keys[i*7919%benchKeys]); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "gets/s")
}

func benchServer(b *testing.B) *cachetest.Redis {
	b.Helper()
	srv := cachetest.Server(b)
	srv.Do("EVAL", "for i = 0, ARGV[1] - 1 do redis.call('SET', 'rss:{' .. i .. '}', ARGV[2]) end", "0",
		strconv.Itoa(benchKeys), string(make([]byte, 160)))
	return srv
}

func BenchmarkBareGet(b *testing.B) {
	srv := benchServer(b)
	rc, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{srv.Addr()}, Password: srv.Password(), ForceSingleClient: true, DisableCache: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer rc.Close()
	for _, v := range []struct {
		name string
		get  func(ctx context.Context, key string) error
	}{
		{"background", func(_ context.Context, key string) error {
			_, err := rc.Do(context.Background(), rc.B().Get().Key(key).Build()).AsBytes()
			return err
		}},
		{"cancelable", func(ctx context.Context, key string) error {
			_, err := rc.Do(ctx, rc.B().Get().Key(key).Build()).AsBytes()
			return err
		}},
		{"timeout", func(ctx context.Context, key string) error {
			ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
			defer cancel()
			_, err := rc.Do(ctx, rc.B().Get().Key(key).Build()).AsBytes()
			return err
		}},
	} {
		b.Run(v.name, func(b *testing.B) { benchmarkGet(b, v.get) })
	}
}

func BenchmarkClientGetBytes(b *testing.B) {
	srv := benchServer(b)
	for _, tracked := range []bool{false, true} {
		cfg := cache.Config{Registerer: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler)}
		if tracked {
			cfg.OnInvalidate = func([]string) {}
		}
		c := srv.Client(b, cfg)
		b.Run("tracked="+strconv.FormatBool(tracked), func(b *testing.B) {
			benchmarkGet(b, func(ctx context.Context, key string) error {
				_, _, err := c.GetBytes(ctx, key)
				return err
			})
		})
	}
}

func BenchmarkClientGetMany1000(b *testing.B) {
	c := benchServer(b).Client(b, cache.Config{Logger: slog.New(slog.DiscardHandler)})
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = "rss:{" + strconv.Itoa(i) + "}"
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.GetMany(b.Context(), keys); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(1000*b.N)/b.Elapsed().Seconds(), "keys/s")
}

func BenchmarkLimiterAllow(b *testing.B) {
	c := benchServer(b).Client(b, cache.Config{Logger: slog.New(slog.DiscardHandler)})
	l := cache.NewLimiter(c, cache.LimiterConfig{})
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			l.Allow(b.Context(), strconv.Itoa(i%5000), cache.Limit{Count: 5, Per: time.Second})
		}
	})
}
