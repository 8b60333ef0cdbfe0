package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rootstream/cache"
	"rootstream/internal/wait"
	"rootstream/statesync"
)

// The program runs itself as the floor, so the test binary must be able to.
func TestMain(m *testing.M) {
	if os.Getenv(floorEnv) != "" {
		os.Exit(runFloor(os.Stdout))
	}
	os.Exit(m.Run())
}

func TestASmallRunMeasuresAndWritesItsReport(t *testing.T) {
	file := filepath.Join(t.TempDir(), "docs", "BENCHMARKS.md")
	var stdout, stderr bytes.Buffer
	if err := run(t.Context(), []string{"-scale", "smoke", "-only", "redis,event,clients", "-out", file}, &stdout, &stderr); err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"validate from Redis", "append an event, to pgbench", "ratio ≥ 0.7", "PostgreSQL 1", "Redis 7"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the report does not say %q:\n%s", want, b)
		}
	}
	if !strings.Contains(stdout.String(), "append an event") {
		t.Errorf("standard output has no table:\n%s", stdout.String())
	}
}

func TestUnknownMeasurementsAndScalesAreRefused(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-only", "near,nothing"}, {"-scale", "huge"}} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%v was accepted", args)
		}
	}
}

func TestTheFloorReadsWhatItIsSent(t *testing.T) {
	t.Parallel()
	s := &stack{stderr: io.Discard}
	floor, err := s.floor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = floor.kill() }()
	c, err := dial(t.Context(), floor.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for range 3 {
		if status, body, err := c.post("/v1/sessions/validate", "", bodyStart, bodyEnd); status != 200 || len(body) != 0 || err != nil {
			t.Fatalf("%d %q %v", status, body, err)
		}
	}
	if u, err := usageOf(floor.cmd.Process.Pid); err != nil || u.rss == 0 || u.hwm < u.rss {
		t.Errorf("%+v %v", u, err)
	}
}

func TestTheFloorWithRedisReadsWhatTheTokenIsKeptUnder(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := &stack{stderr: io.Discard, dir: t.TempDir()}
	defer func() { _ = s.close() }()
	if err := s.startRedis(ctx); err != nil {
		t.Fatal(err)
	}
	redis, err := bareClient(s.redisAt)
	if err != nil {
		t.Fatal(err)
	}
	defer redis.Close()
	key := cache.SessionView(sha256.Sum256([]byte(tokenAt(1))))
	if err = redis.Do(ctx, redis.B().Set().Key(key).Value("view").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	floor, err := s.redisFloor(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = floor.kill() }()
	c, err := dial(ctx, floor.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for n := range 3 {
		status, body, failure := c.post("/v1/sessions/validate", "", bodyStart, []byte(tokenAt(n)), bodyEnd)
		if status != 200 || len(body) != 0 || failure != nil {
			t.Fatalf("%d %q %v", status, body, failure)
		}
	}
	info, err := redis.Do(ctx, redis.B().Info().Section("stats").Build()).ToString()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"keyspace_hits:1\r", "keyspace_misses:2\r"} {
		if !strings.Contains(info, want) {
			t.Errorf("Redis does not say %q:\n%s", want, info)
		}
	}
}

func TestTheClientReadsEveryKindOfAnswer(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("0123456789", 30_000)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("Authorization") != "Bearer t" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write(body)
		if len(body) > 5 {
			_, _ = io.WriteString(w, large) // goes out in chunks
		}
	}))
	defer srv.Close()
	c, err := dial(t.Context(), strings.TrimPrefix(srv.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for _, tc := range []struct {
		token, body, want string
		status            int
	}{{"", "a", "", 401}, {"t", "abc", "abc", 200}, {"t", "abcdef", "abcdef" + large, 200}, {"t", "", "", 200}} {
		status, body, err := c.post("/", tc.token, []byte(tc.body))
		if err != nil || status != tc.status || string(body) != tc.want {
			t.Errorf("%q: %d, %d bytes, %v", tc.body, status, len(body), err)
		}
	}
}

func TestAStrideVisitsEachOnce(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 7919, 10_000, 15_838} {
		seen := make([]bool, n)
		at := newStride(n, n/3)
		for range n {
			i := at.next()
			if seen[i] {
				t.Fatalf("%d of %d comes twice in a lap", i, n)
			}
			seen[i] = true
		}
	}
}

func TestAnOpenLoopCountsFromTheMomentACallWasDue(t *testing.T) {
	t.Parallel()
	took, err := open(t.Context(), 1000, 50*time.Millisecond, func(ctx context.Context, i int) error {
		if i == 0 {
			return wait.For(ctx, 30*time.Millisecond)
		}
		return nil
	})
	if err != nil || len(took) != 50 {
		t.Fatalf("%d calls, %v", len(took), err)
	}
	if took[0] < 30*time.Millisecond {
		t.Errorf("the slow call took %v", took[0])
	}
}

func TestNumbersAreWrittenForPeople(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0: "0", 1234567: "1,234,567", 0.004: "0.0040", 3.14159: "3.14", 42.55: "42.5", 999.7: "1,000", 100: "100"} {
		if got := number(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}

func TestStatementsGetExpressionsForTheirParameters(t *testing.T) {
	t.Parallel()
	args := make([]string, 11)
	for i := range args {
		args[i] = string(rune('a' + i))
	}
	if got := filled(" select $1, $11, $2 ", args...); got != "select a, k, b;\n" {
		t.Error(got)
	}
}

func TestAWatcherNotesWhenAChangeWasMade(t *testing.T) {
	t.Parallel()
	d := &delays{}
	for _, data := range []string{`{"patch":{"sent":"1234567890123456789"}}`, `{"doc": {"sent": "1234567890123456789"}}`, `{"sent":"1234567890123456789"}`} {
		if err := d.note(statesync.Change{Data: []byte(data)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, data := range []string{`{}`, `{"patch":{"n":1}}`, `{"sent":"never"}`, `{"sent":`} {
		if err := d.note(statesync.Change{Data: []byte(data)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(d.took) != 3 || d.took[0] < int64(time.Hour) {
		t.Errorf("noted %v", d.took)
	}
}
