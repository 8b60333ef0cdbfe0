package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/redis/rueidis"

	"rootstream/cache"
	"rootstream/session"
)

const redisNote = `
A session.Manager whose own cache holds nothing, so every call reads Redis, checks the code over the view and decodes it;
64 goroutines over all distinct tokens. The floors read the same keys at the same concurrency and do nothing with what
they get: the client of package cache, and the bare client under it (rueidis, same buffers, no package of ours between).`

const redisWorkers = 64

func flushAll() cache.Cmd { return cache.Cmd{Name: "FLUSHALL", Args: []string{"ASYNC"}} }

func measureRedis(ctx context.Context, s *stack) ([]row, error) {
	if err := s.warm(ctx); err != nil {
		return nil, err
	}
	in, err := s.instance(ctx, func(c *session.Config) { c.NearCapacity = 1 })
	if err != nil {
		return nil, err
	}
	rows, err := s.redisRows(ctx, in)
	return rows, errors.Join(err, in.stop())
}

// bareClient is rueidis with the settings the cache room gives it for one server, without its guards.
func bareClient(at string) (rueidis.Client, error) {
	return rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{at}, Password: redisPass, DisableCache: true, ForceSingleClient: true,
		ReadBufferEachConn: 64 << 10, WriteBufferEachConn: 64 << 10,
	})
}

func (s *stack) redisRows(ctx context.Context, in *instance) ([]row, error) {
	plain, err := cache.Open(ctx, cache.Config{URL: s.redisURL, Logger: quiet()})
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	bare, err := bareClient(s.redisAt)
	if err != nil {
		return nil, err
	}
	defer bare.Close()
	keys := make([]string, len(s.data.tokens))
	for i, token := range s.data.tokens {
		keys[i] = cache.SessionView(sha256.Sum256([]byte(token)))
	}
	loads := in.counter("rootstream_session_database_loads_total")
	over := func(f func(ctx context.Context, i int) error) func(context.Context, time.Duration) (float64, error) {
		at := make([]stride, redisWorkers)
		for i := range at {
			at[i] = newStride(len(keys), i*len(keys)/redisWorkers)
		}
		return func(ctx context.Context, d time.Duration) (float64, error) {
			return closed(ctx, redisWorkers, d, func(ctx context.Context, worker int) error { return f(ctx, at[worker].next()) })
		}
	}
	rates, err := alternate(
		ctx, s,
		side{rate: over(func(ctx context.Context, i int) error {
			_, failure := in.Validate(ctx, s.data.tokens[i], session.ClientHint{})
			return failure
		})},
		side{rate: over(func(ctx context.Context, i int) error {
			_, found, failure := plain.GetBytes(ctx, keys[i])
			return errors.Join(failure, mustFind(found))
		})},
		side{rate: over(func(ctx context.Context, i int) error {
			return bare.Do(ctx, bare.B().Get().Key(keys[i]).Build()).Error()
		})},
	)
	if err != nil {
		return nil, err
	}
	loads = in.counter("rootstream_session_database_loads_total") - loads
	return []row{
		compared("validate from Redis, to GETs of package cache", rates[0], rates[1], 0.7).
			with("%.0f of all calls had to read PostgreSQL", loads),
		compared("validate from Redis, to GETs of the bare client", rates[0], rates[2], 0.7),
	}, nil
}

var errNotThere = errors.New("a view is not in Redis")

func mustFind(found bool) error {
	if !found {
		return errNotThere
	}
	return nil
}
