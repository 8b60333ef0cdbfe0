package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rootstream/cache/cachetest"
	"rootstream/postgres/postgrestest"
	"rootstream/tests/harness"
)

// deeds are writes that were acknowledged, and how to see whether they are still there.
type deeds struct {
	mu   sync.Mutex
	list []deed
	seen map[string]int
}

type deed struct {
	what  string
	check func(ctx context.Context, c caller) error
}

func (d *deeds) note(what string, check func(ctx context.Context, c caller) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.seen == nil {
		d.seen = map[string]int{}
	}
	d.list, d.seen[what] = append(d.list, deed{what, check}), d.seen[what]+1
}

// check is whether everything that was acknowledged is there.
func (d *deeds) check(t *testing.T, c caller) {
	t.Helper()
	t.Logf("acknowledged so far: %v", d.seen)
	for _, one := range d.list {
		if err := one.check(t.Context(), c); err != nil {
			t.Errorf("%s was acknowledged and lost: %v", one.what, err)
		}
	}
}

func is(status int) func(answer) error {
	return func(a answer) error {
		if a.status != status {
			return fmt.Errorf("%v, want %d", a, status)
		}
		return nil
	}
}

// work does, and notes, what it can until the server goes away.
func (d *deeds) work(ctx context.Context, c caller, who string) {
	for n := 0; ctx.Err() == nil; n++ {
		name := fmt.Sprintf("%s-%d", who, n)
		if !c.register(ctx, name, password).ok() {
			continue
		}
		d.note("a registration", func(ctx context.Context, c caller) error {
			return is(http.StatusConflict)(c.register(ctx, strings.ToUpper(name), password))
		})
		first, second := c.login(ctx, name, password), c.login(ctx, name, password)
		for _, a := range []answer{first, second} {
			if a.ok() && a.body.str("token") != first.body.str("token") {
				d.note("a sign-in", func(ctx context.Context, c caller) error { return c.isValid(ctx, a.body.str("token"), true) })
			}
		}
		if first.ok() && c.as(first.body.str("token")).do(ctx, "POST", "/v1/auth/logout", nil).ok() {
			d.note("a revocation", func(ctx context.Context, c caller) error { return c.isValid(ctx, first.body.str("token"), false) })
		}
		if second.ok() {
			d.stream(ctx, c.as(second.body.str("token")))
		}
	}
}

// stream makes one and goes live.
func (d *deeds) stream(ctx context.Context, c caller) {
	made := c.do(ctx, "POST", "/v1/streams", object{"name": "acknowledged"})
	if !made.ok() {
		return
	}
	path, token := "/v1/streams/"+made.body.str("id"), c.token
	d.note("a stream", func(ctx context.Context, c caller) error {
		return is(http.StatusOK)(c.as(token).do(ctx, "GET", path, nil))
	})
	if !c.do(ctx, "POST", path+"/start", nil).ok() {
		return
	}
	d.note("the start of a stream", func(ctx context.Context, c caller) error {
		a := c.as(token).do(ctx, "GET", path, nil)
		if live, _ := a.body["is_live"].(bool); !live {
			return fmt.Errorf("%v, want it live", a)
		}
		return nil
	})
}

// during keeps clients at work while fn breaks something.
func (d *deeds) during(c caller, who string, fn func()) {
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() { d.work(ctx, c, fmt.Sprintf("%s%d", who, i)) })
	}
	fn()
	stop()
	wg.Wait()
}

// busy waits until enough was acknowledged since the last time.
func (d *deeds) busy(t *testing.T, more int) {
	t.Helper()
	count := func() int {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.list)
	}
	from := count()
	harness.Eventually(t, patience, "clients get something done", func() error {
		if n := count() - from; n < more {
			return fmt.Errorf("%d of %d", n, more)
		}
		return nil
	})
}

func TestAKilledServeLosesNothingThatWasAcknowledged(t *testing.T) {
	t.Parallel()
	s := stack{dsn: postgrestest.DSN(t), redis: cachetest.Server(t).URL(), key: masterKey(t), more: generous()}
	d := &deeds{}
	for i := range 2 {
		serve := s.serve(t, "serve")
		d.during(newCaller(serve.url), fmt.Sprintf("round%d-", i), func() {
			d.busy(t, 12)
			serve.Kill()
		})
	}
	d.check(t, newCaller(s.serve(t, "serve").url))
}

func TestAStoppedServeAnswersWhatItBegan(t *testing.T) {
	t.Parallel()
	s := stack{dsn: postgrestest.DSN(t), redis: cachetest.Server(t).URL(), key: masterKey(t), more: generous()}
	serve := s.serve(t, "serve")
	c := newCaller(serve.url)
	c.must(t, 201, "POST", "/v1/users", object{"username": "ada", "email": "ada@example.org", "password": password})
	c.http.Transport.(*http.Transport).ExpectContinueTimeout = patience
	begun, answers := make(chan struct{}, 5), make(chan answer, 5)
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { begun <- struct{}{} }})
	for range cap(answers) { // one password is hashed after the other, so most of them take a while
		go func() { answers <- c.login(ctx, "ada", password) }()
	}
	for range cap(begun) {
		<-begun // the server asked for the body
	}
	asked := time.Now()
	code := serve.Terminate()
	t.Logf("it stopped within %v", time.Since(asked))
	if code != 0 {
		t.Errorf("exit code %d:\n%s", code, serve.Tail())
	}
	for range cap(answers) {
		if a := <-answers; !a.ok() {
			t.Errorf("begun before the stop: %v", a)
		}
	}
	if a := c.do(t.Context(), "GET", "/healthz", nil); a.err == nil {
		t.Errorf("it still answers: %v", a)
	}
}

// folder is a data folder below which other users may go.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rsup") //nolint:usetesting // the folders around t.TempDir are closed to other users
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		slay(t, dir, func(string) bool { return true })
		_ = os.RemoveAll(dir)
	})
	return filepath.Join(dir, "data")
}

// processes are those at work below a folder, with their command lines.
func processes(dir string) map[int]string {
	found := map[int]string{}
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, e := range entries {
		pid, _ := strconv.Atoi(filepath.Base(e))
		raw, _ := os.ReadFile(filepath.Join(e, "cmdline"))
		args := strings.ReplaceAll(string(raw), "\x00", " ")
		cwd, _ := os.Readlink(filepath.Join(e, "cwd"))
		if pid != os.Getpid() && args != "" && (strings.Contains(args, dir) || strings.HasPrefix(cwd, dir)) {
			found[pid] = args
		}
	}
	return found
}

// slay ends at once (SIGKILL) the processes below a folder that which names, and waits until they are gone.
func slay(t *testing.T, dir string, which func(args string) bool) {
	t.Helper()
	harness.Eventually(t, patience, "the killed processes are gone", func() error {
		left := 0
		for pid, args := range processes(dir) {
			if which(args) {
				left++
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		return want("killed processes left", left, 0)
	})
}

func TestAKilledStackLosesNothingThatWasAcknowledged(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		logs, _ := filepath.Glob(filepath.Join(dir, "logs", "*.log"))
		for _, name := range logs {
			b, _ := os.ReadFile(name)
			t.Logf("%s ends with:\n%s", filepath.Base(name), b[max(0, len(b)-3000):])
		}
	})
	listen := harness.Address(t)
	up := func() *harness.Program {
		p := harness.Start(t, "up", []string{"up", "--data", dir, "--listen", listen}, generous())
		p.Ready()
		return p
	}
	postgres := func(args string) bool { return strings.Contains(args, "postgres") && !strings.Contains(args, "--data") }
	d, c := &deeds{}, newCaller("http://"+listen)
	postmaster := func() string {
		b, err := os.ReadFile(filepath.Join(dir, "postgres", "postmaster.pid"))
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(b), "\n")
		return first
	}

	p := up()
	before := postmaster()
	d.during(c, "attached", func() {
		d.busy(t, 8)
		p.Kill()
		slay(t, dir, func(args string) bool { return !postgres(args) })
	})
	p = up()
	if after := postmaster(); after != before {
		t.Errorf("the postmaster %s was left alive, now there is %s", before, after)
	}
	d.check(t, c)
	d.during(c, "crashed", func() {
		d.busy(t, 8)
		p.Kill()
		slay(t, dir, func(string) bool { return true })
	})
	p = up()
	d.check(t, c)
	if code := p.Terminate(); code != 0 {
		t.Errorf("exit code %d after SIGTERM:\n%s", code, p.Tail())
	}
	if left := processes(dir); len(left) != 0 {
		t.Errorf("a stopped stack left %v", left)
	}
}
