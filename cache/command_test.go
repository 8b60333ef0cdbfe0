package cache_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/errs"
)

func TestCollections(t *testing.T) {
	t.Parallel()
	c := cachetest.New(t)
	ctx := t.Context()
	must(t, c.HSet(ctx, "h", map[string]string{"a": "1", "b": "2"}))
	must(t, c.HSet(ctx, "h", nil))
	if v, ok, e := c.HGet(ctx, "h", "b"); v != "2" || !ok || e != nil {
		t.Errorf("HGet = %q, %v, %v", v, ok, e)
	}
	if _, ok, e := c.HGet(ctx, "h", "c"); ok || e != nil {
		t.Errorf("HGet of a missing field = %v, %v", ok, e)
	}
	all, err := c.HGetAll(ctx, "h")
	if diff := cmp.Diff(map[string]string{"a": "1", "b": "2"}, all); diff != "" || err != nil {
		t.Errorf("HGetAll: %v (-want +got):\n%s", err, diff)
	}
	if n, e := c.HDel(ctx, "h", "a", "c"); n != 1 || e != nil {
		t.Errorf("HDel = %d, %v", n, e)
	}
	if n, e := c.LPush(ctx, "l", "x", "y"); n != 2 || e != nil {
		t.Errorf("LPush = %d, %v", n, e)
	}
	if v, ok, e := c.RPop(ctx, "l"); v != "x" || !ok || e != nil {
		t.Errorf("RPop = %q, %v, %v", v, ok, e)
	}
	if n, e := c.LPush(ctx, "l"); n != 1 || e != nil {
		t.Errorf("LPush of nothing = %d, %v", n, e)
	}
	if _, ok, e := c.RPop(ctx, "none"); ok || e != nil {
		t.Errorf("RPop of an empty list = %v, %v", ok, e)
	}
	for i, m := range []string{"a", "b", "c"} {
		if isNew, e := c.ZAdd(ctx, "z", m, float64(i)+.5); !isNew || e != nil {
			t.Errorf("ZAdd = %v, %v", isNew, e)
		}
	}
	if n, e := c.ZCount(ctx, "z", 1, math.Inf(1)); n != 2 || e != nil {
		t.Errorf("ZCount = %d, %v", n, e)
	}
	if n, e := c.ZRemRange(ctx, "z", math.Inf(-1), 1); n != 1 || e != nil {
		t.Errorf("ZRemRange = %d, %v", n, e)
	}
	members, err := c.ZRange(ctx, "z", 0, 9)
	if diff := cmp.Diff([]string{"b", "c"}, members); diff != "" || err != nil {
		t.Errorf("ZRange: %v (-want +got):\n%s", err, diff)
	}
	if n, e := c.ZRem(ctx, "z", "b", "x"); n != 1 || e != nil {
		t.Errorf("ZRem = %d, %v", n, e)
	}
}

func TestRepliesReadAllShapes(t *testing.T) {
	t.Parallel()
	c := cachetest.New(t)
	script := cache.NewScript(`return {1, 'two', false, {'a', 'b'}, ARGV[1]}`)
	r, err := script.Exec(t.Context(), c, []string{"k"}, "2.5")
	must(t, err)
	list, err := r.List()
	if err != nil || len(list) != 5 {
		t.Fatalf("List = %v, %v", list, err)
	}
	if n, err := list[0].Int(); n != 1 || err != nil {
		t.Errorf("Int = %d, %v", n, err)
	}
	if s, err := list[1].Text(); s != "two" || err != nil {
		t.Errorf("Text = %q, %v", s, err)
	}
	null := list[2]
	text, err1 := null.Text()
	bytes, err2 := null.Bytes()
	inner, err3 := null.List()
	names, err4 := null.Strings()
	m, err5 := null.Map()
	if !null.IsNil() || text != "" || bytes != nil || inner != nil || names != nil || m != nil || errors.Join(err1, err2, err3, err4, err5) != nil {
		t.Error("a null reply does not read as nothing")
	}
	if ss, err := list[3].Strings(); len(ss) != 2 || err != nil {
		t.Errorf("Strings = %v, %v", ss, err)
	}
	if mm, err := list[3].Map(); mm["a"] != "b" || err != nil {
		t.Errorf("Map = %v, %v", mm, err)
	}
	if f, err := list[4].Float(); f != 2.5 || err != nil {
		t.Errorf("Float = %v, %v", f, err)
	}
	if b, err := list[4].Bytes(); string(b) != "2.5" || err != nil {
		t.Errorf("Bytes = %q, %v", b, err)
	}
}

func TestTransactionIsAllOrNothing(t *testing.T) {
	t.Parallel()
	c := cachetest.New(t)
	ctx := t.Context()
	replies, err := c.Tx(ctx, cache.Cmd{Name: "SET", Key: "{t}a"}.With("1"), cache.Cmd{Name: "INCR", Key: "{t}b"})
	if err != nil || len(replies) != 2 {
		t.Fatalf("Tx = %v, %v", replies, err)
	}
	if n, e := replies[1].Int(); n != 1 || e != nil {
		t.Errorf("reply of INCR = %d, %v", n, e)
	}
	_, err = c.Tx(ctx, cache.Cmd{Name: "SET", Key: "{t}a"}.With("2"), cache.Cmd{Name: "NOSUCH", Key: "{t}b"})
	if err == nil || errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("Tx with an unknown command = %v", err)
	}
	if v, _, _ := c.Get(ctx, "{t}a"); v != "1" {
		t.Errorf("a = %q after a discarded transaction", v)
	}
	if _, err = c.Tx(ctx, cache.Cmd{Name: "SET", Key: "a"}.With("2"), cache.Cmd{Name: "SET", Key: "b"}.With("2")); errs.KindOf(err) != errs.Internal || err == nil {
		t.Errorf("Tx over two slots = %v, want a fault even on a single server", err)
	}
	if _, err := c.Tx(ctx, cache.Cmd{Name: "LPUSH", Key: "{t}a"}.With("2")); err == nil {
		t.Error("Tx hides the error of a command")
	}
	if r, err := c.Tx(ctx); r != nil || err != nil {
		t.Errorf("empty Tx = %v, %v", r, err)
	}
}

func TestWatchCountsEveryIncrementOfParallelWriters(t *testing.T) {
	t.Parallel()
	c := cachetest.New(t)
	const writers, each = 4, 25
	done := make(chan error, writers)
	var conflicts atomic.Int64
	for range writers {
		go func() {
			for range each {
				for {
					err := increment(t.Context(), c)
					if errors.Is(err, cache.ErrTxConflict) {
						conflicts.Add(1)
						continue
					}
					if err != nil {
						done <- err
						return
					}
					break
				}
			}
			done <- nil
		}()
	}
	for range writers {
		must(t, <-done)
	}
	if v, _, err := c.Get(t.Context(), "n"); v != strconv.Itoa(writers*each) || err != nil {
		t.Errorf("n = %s, %v; want %d (%d conflicts)", v, err, writers*each, conflicts.Load())
	}
	boom := errors.New("boom")
	if _, err := c.Watch(t.Context(), []string{"n"}, func(*cache.Watched) ([]cache.Cmd, error) { return nil, boom }); !errors.Is(err, boom) {
		t.Errorf("Watch = %v, want what decide returned", err)
	}
	if _, err := c.Watch(t.Context(), []string{"n", "m"}, nil); err == nil {
		t.Error("Watch over two slots is accepted")
	}
}

func increment(ctx context.Context, c *cache.Client) error {
	_, err := c.Watch(ctx, []string{"n"}, func(w *cache.Watched) ([]cache.Cmd, error) {
		r, err := w.Do(cache.Cmd{Name: "GET", Key: "n"})
		if err != nil {
			return nil, err
		}
		n := int64(0)
		if !r.IsNil() {
			if n, err = r.Int(); err != nil {
				return nil, err
			}
		}
		return []cache.Cmd{{"SET", "n", []string{strconv.FormatInt(n+1, 10)}}}, nil
	})
	return err
}

func TestPipelineAnswersEachCommand(t *testing.T) {
	t.Parallel()
	c := cachetest.New(t)
	rs, err := c.Pipeline(t.Context(), cache.Cmd{Name: "SET", Key: "a"}.With("x"), cache.Cmd{Name: "INCR", Key: "a"}, cache.Cmd{Name: "GET", Key: "a"})
	must(t, err)
	if v, err := rs[2].Reply.Text(); v != "x" || err != nil || rs[0].Err != nil || rs[1].Err == nil {
		t.Errorf("Pipeline = %v", rs)
	}
	if rs, err := c.Pipeline(t.Context()); rs != nil || err != nil {
		t.Errorf("empty Pipeline = %v, %v", rs, err)
	}
}

func TestScriptsRunAfterRedisForgotThem(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	c := srv.Client(t, cache.Config{})
	script := cache.NewScript(`return redis.call('INCRBY', KEYS[1], ARGV[1])`)
	for want := int64(1); want <= 3; want++ {
		r, err := script.Exec(t.Context(), c, []string{"n"}, "1")
		must(t, err)
		if n, err := r.Int(); n != want || err != nil {
			t.Errorf("Exec = %d, %v, want %d", n, err, want)
		}
		srv.Do("SCRIPT", "FLUSH")
	}
	for range 2 {
		var runs []cache.Run
		for i := range 5 {
			runs = append(runs, cache.Run{Keys: []string{fmt.Sprint("m", i)}, Args: []string{"2"}})
		}
		rs, err := script.ExecMany(t.Context(), c, runs)
		must(t, err)
		for i, r := range rs {
			if n, err := r.Reply.Int(); n%2 != 0 || r.Err != nil || err != nil {
				t.Errorf("run %d = %d, %v, %v", i, n, r.Err, err)
			}
		}
		srv.Do("SCRIPT", "FLUSH")
	}
	if v, _, _ := c.Get(t.Context(), "m4"); v != "4" {
		t.Errorf("m4 = %q, want every run once", v)
	}
	if _, err := script.Exec(t.Context(), c, []string{"a", "b"}, "1"); err == nil {
		t.Error("keys of two slots are accepted")
	}
	if _, err := script.ExecMany(t.Context(), c, []cache.Run{{Keys: []string{"a", "b"}}}); err == nil {
		t.Error("keys of two slots are accepted")
	}
	if _, err := script.Exec(t.Context(), c, []string{"n"}, "x"); err == nil || errs.KindOf(err) != errs.Internal {
		t.Errorf("script error = %v", err)
	}
}

func TestSubscriptionSurvivesARestart(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	c := srv.Client(t, cache.Config{})
	ready, got := make(chan struct{}, 9), make(chan cache.Message, 9)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- c.Listen(ctx, cache.Subscription{
			Channels: []string{"news"}, OnReady: func() { ready <- struct{}{} }, OnMessage: func(m cache.Message) { got <- m },
		})
	}()
	for _, want := range []string{"one", "two"} {
		receive(t, ready)
		must(t, c.Publish(t.Context(), "news", want))
		if m := receive(t, got); m.Payload != want || m.Channel != "news" {
			t.Errorf("got %+v, want %q", m, want)
		}
		srv.Restart()
		eventually(t, 5*time.Second, "healthy", func() bool { return c.Ping(t.Context()) == nil })
	}
	cancel()
	if err := receive(t, done); err != nil {
		t.Errorf("Listen = %v after a wanted stop", err)
	}
}

func TestSubscriptionToPatterns(t *testing.T) {
	t.Parallel()
	c := cachetest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	ready, got, done := make(chan struct{}, 9), make(chan cache.Message, 9), make(chan error, 1)
	go func() {
		done <- c.Listen(ctx, cache.Subscription{
			Patterns: []string{"news.*"}, OnReady: func() { ready <- struct{}{} }, OnMessage: func(m cache.Message) { got <- m },
		})
	}()
	receive(t, ready)
	must(t, c.Publish(t.Context(), "news.x", "one"))
	if diff := cmp.Diff(cache.Message{"news.x", "news.*", "one"}, receive(t, got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	cancel()
	must(t, receive(t, done))
	if err := c.Subscribe(t.Context(), nil, func(cache.Message) {}); err == nil {
		t.Error("a subscription to nothing is accepted")
	}
}

func receive[T any](tb testing.TB, ch <-chan T) T {
	tb.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(10 * time.Second):
		tb.Fatal("nothing came in 10s")
		panic("unreachable")
	}
}
