package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"rootstream/cache"
	"rootstream/cache/cachetest"
)

func TestCallersAreAnsweredSoonWhileRedisHangs(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	c := srv.Client(t, cache.Config{})
	must(t, c.Set(t.Context(), "k", "v", time.Minute))
	srv.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for range 3000 { // more than the connections' queues hold
		wg.Go(func() {
			if _, _, err := c.Get(ctx, "k"); !errors.Is(err, cache.ErrUnavailable) || ctx.Err() != nil {
				t.Errorf("Get = %v, want ErrUnavailable before the caller's patience ends", err)
			}
		})
	}
	wg.Wait()
	for range 1000 { // one after the other: if a known outage were to be found out anew, they would need many minutes
		if err := c.Ping(ctx); !errors.Is(err, cache.ErrUnavailable) || ctx.Err() != nil {
			t.Fatalf("Ping = %v, want ErrUnavailable before the caller's patience ends", err)
		}
	}
	srv.Resume()
	eventually(t, 3*time.Second, "healthy", c.Healthy)
	if v, ok, err := c.Get(t.Context(), "k"); v != "v" || !ok || err != nil {
		t.Errorf("Get after the pause = %q, %v, %v", v, ok, err)
	}
}

func TestPitfall20HalfOpenLinkIsFoundWithinThreeSeconds(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	hole := newProxy(t, srv.Addr())
	h := newHeard()
	c := open(t, cache.Config{Addrs: []string{hole.addr()}, Password: srv.Password(), OnInvalidate: h.on})
	must(t, c.Set(t.Context(), "k", "v", time.Minute))
	before := h.count()
	hole.swallow(true)
	eventually(t, 3*time.Second, "flush", h.flushed(before+1))
	eventually(t, 3*time.Second, "unhealthy", func() bool { return !c.Healthy() })
	hole.swallow(false)
	eventually(t, 4*time.Second, "healthy and tracking", func() bool { return c.Healthy() && c.Tracking() })
	eventually(t, 2*time.Second, "commands work", func() bool {
		v, _, err := c.Get(t.Context(), "k")
		return v == "v" && err == nil
	})
}

func TestAnUnreachableHostDelaysOpenByItsDialTimeoutOnly(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	hole := newProxy(t, srv.Addr())
	hole.swallow(true) // takes connections and says nothing
	start := time.Now()
	c := open(t, cache.Config{Addrs: []string{hole.addr()}, Password: srv.Password(), DialTimeout: 200 * time.Millisecond})
	if d := time.Since(start); d > time.Second {
		t.Errorf("Open took %v", d)
	}
	if err := c.Ping(t.Context()); !errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("Ping = %v", err)
	}
	hole.swallow(false)
	eventually(t, 4*time.Second, "healthy", c.Healthy)
}

func TestWrongPasswordIsUnavailableAndNeverLogged(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	var log bytes.Buffer
	c := open(t, cache.Config{
		Addrs: []string{srv.Addr()}, Password: "canary-wrong-password", Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	_, _, err := c.Get(t.Context(), "k")
	if !errors.Is(err, cache.ErrUnavailable) || !strings.Contains(err.Error(), "WRONGPASS") {
		t.Errorf("Get = %v, want the reason", err)
	}
	if c.LastError() == nil {
		t.Error("LastError is nil")
	}
	c.Close()
	if strings.Contains(log.String()+err.Error(), "canary") {
		t.Errorf("the password shows: %s %v", log.String(), err)
	}
}

func TestServerStatesThatRefuseWritesAreUnavailable(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	c := srv.Client(t, cache.Config{})
	srv.Do("REPLICAOF", "127.0.0.1", "1")
	if err := c.Set(t.Context(), "k", "v", time.Minute); !errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("Set on a replica = %v", err)
	}
	srv.Do("REPLICAOF", "NO", "ONE")
	srv.Do("CONFIG", "SET", "maxmemory", "1")
	if err := c.Set(t.Context(), "k", "v", time.Minute); !errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("Set without memory = %v", err)
	}
	rs, err := c.Pipeline(t.Context(), cache.Cmd{Name: "SET", Key: "k"}.With("v"), cache.Cmd{Name: "GET", Key: "k"})
	if err != nil || !errors.Is(rs[0].Err, cache.ErrUnavailable) || rs[1].Err != nil {
		t.Errorf("Pipeline = %v, %v", rs, err)
	}
}

func TestACallerThatGaveUpSaysNothingAboutRedis(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	c := srv.Client(t, cache.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := c.Get(ctx, "k"); !errors.Is(err, context.Canceled) || !errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("Get = %v", err)
	}
	srv.Pause()
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, _, err := c.Get(short, "k"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Get = %v", err)
	}
	if d := time.Since(start); d > 700*time.Millisecond { // 20ms, unless it has to wait for a connection being made
		t.Errorf("a caller with a deadline of 20ms waited %v", d)
	}
	srv.Resume()
	must(t, c.Ping(t.Context()))
}

func TestEveryOperationReportsTheOutage(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	c := srv.Client(t, cache.Config{})
	srv.Kill()
	eventually(t, 3*time.Second, "unhealthy", func() bool { return !c.Healthy() })
	ctx := t.Context()
	get := cache.Cmd{Name: "GET", Key: "k"}
	script := cache.NewScript("return 1")
	for name, run := range map[string]func() error{
		"GetMany":  func() error { _, err := c.GetMany(ctx, []string{"k"}); return err },
		"Set":      func() error { return c.Set(ctx, "k", "v", 0) },
		"SetNew":   func() error { _, err := c.SetNew(ctx, "k", "v", time.Second); return err },
		"Del":      func() error { _, err := c.Del(ctx, "k"); return err },
		"Expire":   func() error { _, err := c.Expire(ctx, "k", time.Second); return err },
		"TTL":      func() error { _, _, err := c.TTL(ctx, "k"); return err },
		"Incr":     func() error { _, err := c.Incr(ctx, "k", 1); return err },
		"HGet":     func() error { _, _, err := c.HGet(ctx, "k", "f"); return err },
		"HGetAll":  func() error { _, err := c.HGetAll(ctx, "k"); return err },
		"ZRange":   func() error { _, err := c.ZRange(ctx, "k", 0, 1); return err },
		"LLen":     func() error { _, err := c.LLen(ctx, "k"); return err },
		"Publish":  func() error { return c.Publish(ctx, "k", "v") },
		"Do":       func() error { _, err := c.Do(ctx, get); return err },
		"Pipeline": func() error { _, err := c.Pipeline(ctx, get); return err },
		"Tx":       func() error { _, err := c.Tx(ctx, get); return err },
		"Watch":    func() error { _, err := c.Watch(ctx, []string{"k"}, nil); return err },
		"Exec":     func() error { _, err := script.Exec(ctx, c, nil); return err },
		"ExecMany": func() error { _, err := script.ExecMany(ctx, c, []cache.Run{{}}); return err },
		"Info":     func() error { _, err := c.Info(ctx); return err },
	} {
		if err := run(); !errors.Is(err, cache.ErrUnavailable) {
			t.Errorf("%s = %v, want ErrUnavailable", name, err)
		}
	}
}

func TestCommandsInFlightFailWhenRedisDies(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	c := srv.Client(t, cache.Config{})
	get := cache.Cmd{Name: "GET", Key: "k"}
	for _, run := range []func() error{
		func() error { _, err := c.Pipeline(t.Context(), get, get); return err },
		func() error { _, err := c.Tx(t.Context(), get); return err },
		func() error {
			_, err := c.Watch(t.Context(), []string{"k"}, func(*cache.Watched) ([]cache.Cmd, error) {
				srv.Resume()
				srv.Kill()
				return []cache.Cmd{get}, nil
			})
			return err
		},
	} {
		done := make(chan error, 1)
		go func() { done <- run() }()
		select {
		case err := <-done:
			if err != nil && !errors.Is(err, cache.ErrUnavailable) {
				t.Errorf("err = %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("hangs")
		}
	}
	srv.Restart()
	eventually(t, 5*time.Second, "works", func() bool { return c.Ping(t.Context()) == nil })
}

func open(t *testing.T, cfg cache.Config) *cache.Client {
	t.Helper()
	c, err := cache.Open(t.Context(), cfg)
	must(t, err)
	t.Cleanup(c.Close)
	return c
}

// proxy passes bytes on, until it is told to swallow them: the connections then stay open and silent.
type proxy struct {
	l      net.Listener
	target string
	mu     sync.Mutex
	hole   bool
	conns  []net.Conn
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{l: l, target: target}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				_ = in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			wg.Go(func() { p.pump(in, out) })
			wg.Go(func() { p.pump(out, in) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.l.Addr().String() }

func (p *proxy) swallow(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = on
}

func (p *proxy) pump(from, to net.Conn) {
	defer func() { _ = to.Close() }()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		p.mu.Lock()
		hole := p.hole
		p.mu.Unlock()
		if n > 0 && !hole {
			if _, err = to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func ExampleClient_GetBytes() {
	get := func(ctx context.Context, c *cache.Client, key string) string {
		v, found, err := c.GetBytes(ctx, key)
		switch {
		case errors.Is(err, cache.ErrUnavailable):
			return "ask PostgreSQL"
		case err != nil:
			return err.Error()
		case !found:
			return "ask PostgreSQL, then fill"
		}
		return string(v)
	}
	c, err := cache.Open(context.Background(), cache.Config{
		URL: "redis://127.0.0.1:1", Logger: slog.New(slog.DiscardHandler), // nobody listens there
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	fmt.Println(get(context.Background(), c, "k"))
	// Output: ask PostgreSQL
}
