package cache_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/errs"
)

func TestKeyValue(t *testing.T) {
	t.Parallel()
	c := cachetest.New(t)
	ctx := t.Context()
	if _, ok, err := c.Get(ctx, "k"); ok || err != nil {
		t.Fatalf("Get of a missing key = %v, %v", ok, err)
	}
	must(t, c.Set(ctx, "k", "v", time.Minute))
	if v, ok, err := c.GetBytes(ctx, "k"); string(v) != "v" || !ok || err != nil {
		t.Fatalf("GetBytes = %q, %v, %v", v, ok, err)
	}
	if ttl, ok, err := c.TTL(ctx, "k"); ttl <= 58*time.Second || ttl > time.Minute || !ok || err != nil {
		t.Errorf("TTL = %v, %v, %v", ttl, ok, err)
	}
	if _, ok, err := c.TTL(ctx, "missing"); ok || err != nil {
		t.Errorf("TTL of a missing key = %v, %v", ok, err)
	}
	must(t, c.Set(ctx, "forever", "", 0))
	if ttl, ok, err := c.TTL(ctx, "forever"); ttl != 0 || !ok || err != nil {
		t.Errorf("TTL of a lasting key = %v, %v, %v", ttl, ok, err)
	}
	if ok, err := c.Expire(ctx, "forever", time.Second); !ok || err != nil {
		t.Errorf("Expire = %v, %v", ok, err)
	}
	if ok, err := c.SetNew(ctx, "k", "other", time.Second); ok || err != nil {
		t.Errorf("SetNew on a key that is there = %v, %v", ok, err)
	}
	if ok, err := c.SetNew(ctx, "new", "v", time.Second); !ok || err != nil {
		t.Errorf("SetNew = %v, %v", ok, err)
	}
	got, err := c.GetMany(ctx, []string{"missing", "k", "forever"})
	must(t, err)
	if diff := cmp.Diff([][]byte{nil, []byte("v"), {}}, got); diff != "" {
		t.Errorf("GetMany (-want +got):\n%s", diff)
	}
	if n, err := c.Exists(ctx, "k", "missing", "new"); n != 2 || err != nil {
		t.Errorf("Exists = %d, %v", n, err)
	}
	if n, err := c.Del(ctx, "k", "missing", "new"); n != 2 || err != nil {
		t.Errorf("Del = %d, %v", n, err)
	}
	for want := range int64(2) {
		if n, err := c.Incr(ctx, "n", 5); n != 5*(want+1) || err != nil {
			t.Errorf("Incr = %d, %v", n, err)
		}
	}
	if _, err := c.Incr(ctx, "forever", 1); err == nil || errs.KindOf(err) != errs.Internal {
		t.Errorf("Incr of text = %v, want a fault of the caller", err)
	}
}

func TestOpenSucceedsAndCommandsFailFastWhileRedisIsDown(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	srv.Kill()
	c := srv.Client(t, cache.Config{})
	if c.Healthy() {
		t.Error("healthy without a Redis")
	}
	start := time.Now()
	_, _, err := c.Get(t.Context(), "k")
	if !errors.Is(err, cache.ErrUnavailable) || errs.KindOf(err) != errs.Unavailable || errs.CodeOf(err) != "cache_unavailable" {
		t.Errorf("Get = %v, want ErrUnavailable", err)
	}
	if d := time.Since(start); d > 100*time.Millisecond {
		t.Errorf("took %v to say so", d)
	}
	srv.Restart()
	eventually(t, 3*time.Second, "healthy again", c.Healthy)
	must(t, c.Set(t.Context(), "k", "v", time.Minute))
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func eventually(tb testing.TB, within time.Duration, what string, cond func() bool) {
	tb.Helper()
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if cond() {
			return
		}
	}
	tb.Fatalf("%s: not within %v", what, within)
}
