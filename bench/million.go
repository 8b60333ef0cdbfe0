package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"rootstream/session"
)

const millionNote = `
Activity is on: the sessions were last heard of at random over the last 66 minutes, and what is an hour old is written down
anew when it is used, so a tenth is due at once and 278 a second become due all the time. Over HTTP, all tokens are validated in batches of 1000 on 4 connections, pass after pass: the first
reads PostgreSQL, the later ones Redis and the process's own cache of 262,144. Memory is what /proc says of serve after
the passes. In this process, single validations of random tokens arrive on a clock, 1,000 a second, at a manager with
default settings; a fifth of them fall to 1,000 busy clients, the rest to all others.`

func measureMillion(ctx context.Context, s *stack) ([]row, error) {
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	rows, err := s.overHTTP(ctx)
	if err != nil {
		return nil, err
	}
	more, err := s.inProcess(ctx)
	if err != nil {
		return nil, err
	}
	return append(rows, more...), nil
}

// overHTTP validates all tokens through serve and looks at its memory.
func (s *stack) overHTTP(ctx context.Context) ([]row, error) {
	srv, err := s.serve(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := s.passes(ctx, srv)
	return rows, errors.Join(err, srv.kill())
}

func (s *stack) passes(ctx context.Context, srv *server) ([]row, error) {
	bodies := batches(s.data.tokens)
	var rates []float64
	for i := range 3 {
		begun := time.Now()
		if i == 0 {
			s.data.warm = begun // serve fills Redis
		}
		if err := s.pass(ctx, srv, bodies); err != nil {
			return nil, err
		}
		rates = append(rates, float64(len(s.data.tokens))/time.Since(begun).Seconds())
		s.say("a pass over all tokens took %.1f s", time.Since(begun).Seconds())
	}
	u, err := usageOf(srv.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	const mb = 1e6
	return []row{
		atMost("serve, resident memory after three passes", "MB", []float64{float64(u.rss) / mb}, 300).with("at most %s MB at any time", number(float64(u.hwm)/mb)),
		about("validate-batch, first pass, from PostgreSQL", "tokens/s", rates[0]),
		about("validate-batch, later passes", "tokens/s", rates[1:]...),
	}, nil
}

func (s *stack) pass(ctx context.Context, srv *server, bodies [][]byte) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	for range batchConns {
		c, err := dial(ctx, srv.addr)
		if err != nil {
			return err
		}
		wg.Go(func() {
			defer c.close()
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(bodies) {
					return
				}
				if err := sendBatch(c, bodies[i]); err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	if e := failed.Load(); e != nil {
		return *e
	}
	return nil
}

// inProcess validates single tokens on a clock.
func (s *stack) inProcess(ctx context.Context) ([]row, error) {
	in, err := s.instance(ctx, nil)
	if err != nil {
		return nil, err
	}
	const perSecond = 1000
	span := time.Duration(s.scale.openFor / 2 * float64(time.Second))
	hot := min(1000, len(s.data.tokens)/2)
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same choice in each run
	order := make([]int, int(perSecond*span.Seconds())+1)
	for i := range order {
		order[i] = hot + r.IntN(len(s.data.tokens)-hot)
		if i%5 == 0 {
			order[i] = r.IntN(hot)
		}
	}
	loads, found := in.counter("rootstream_session_database_loads_total"), in.counter("rootstream_session_redis_hits_total")
	took, err := open(ctx, perSecond, span, func(ctx context.Context, i int) error {
		_, failure := in.Validate(ctx, s.data.tokens[order[i]], session.ClientHint{})
		return failure
	})
	loads, found = in.counter("rootstream_session_database_loads_total")-loads, in.counter("rootstream_session_redis_hits_total")-found
	if err = errors.Join(err, in.stop()); err != nil {
		return nil, err
	}
	all := sorted(took)
	return []row{
		atMost("validate in process, p99", "ms", []float64{millis(quantile(all, .99))}, 1).
			with("p50 %.3f ms, p99.9 %.2f ms of %s calls: %.0f read Redis, %.0f PostgreSQL", millis(quantile(all, .5)),
				millis(quantile(all, .999)), number(float64(len(all))), found, loads),
	}, nil
}

func millis(d time.Duration) float64 { return d.Seconds() * 1000 }
