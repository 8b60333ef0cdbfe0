package e2e_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rootstream/cli"
)

// runAsProgram makes the test binary be rootstream.
const runAsProgram = "E2E_RUN_AS_ROOTSTREAM"

func TestMain(m *testing.M) {
	if os.Getenv(runAsProgram) != "" {
		os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// patience is for what happens at once on a machine that is not busy.
const patience = 40 * time.Second

// program is one run of the binary.
type program struct {
	t *testing.T
	name   string
	cmd    *exec.Cmd
	stderr string // file
	stdout *bufio.Reader
	done   chan struct{}
	mayDie bool // it is going to be killed
}

// environ is what every process gets, and env on top.
func environ(env ...string) []string {
	out := []string{runAsProgram + "=1", "GORACE=halt_on_error=0 exitcode=66"}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GOCOVERDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			out = append(out, name+"="+v)
		}
	}
	return append(out, env...)
}

func command(args, env []string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = environ(env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return cmd
}

// start runs the binary until the test ends. Its log must not tell of data races or panics.
func start(t *testing.T, name string, args, env []string) *program {
	t.Helper()
	p := &program{t: t, name: name, cmd: command(args, env), done: make(chan struct{})}
	log, err := os.CreateTemp(t.TempDir(), name+"-*.log")
	if err != nil {
		t.Fatal(err)
	}
	p.stderr = log.Name()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = in, log
	p.stdout = bufio.NewReader(out)
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the kernel sends Pdeathsig when the starting thread ends
		defer close(p.done)
		failed := p.cmd.Start()
		started <- failed
		if failed == nil {
			_ = p.cmd.Wait() // ProcessState has it
		}
	}()
	err = <-started
	_ = in.Close()
	_ = log.Close()
	if err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		p.kill()
		_ = out.Close()
		p.inspect()
		if t.Failed() {
			t.Logf("the last warnings of %s:\n%s", name, p.warnings())
		}
	})
	return p
}

// ready waits for the ready line and returns the URL in it.
func (p *program) ready() string {
	p.t.Helper()
	type line struct {
		text string
		err  error
	}
	got := make(chan line, 1)
	go func() {
		text, err := p.stdout.ReadString('\n')
		got <- line{text, err}
	}()
	select {
	case l := <-got:
		url, ok := strings.CutPrefix(strings.TrimSpace(l.text), "rootstream is ready: ")
		if ok {
			return url
		}
		<-time.After(time.Second) // its last words
		p.t.Fatalf("%s said %q (%v), not that it is ready:\n%s", p.name, l.text, l.err, p.log())
	case <-time.After(2 * patience):
		p.t.Fatalf("%s is not ready:\n%s", p.name, p.log())
	}
	return ""
}

func (p *program) log() string {
	b, _ := os.ReadFile(p.stderr)
	return string(b)
}

// tail is the end of the log.
func (p *program) tail() string {
	log := p.log()
	return log[max(0, len(log)-4000):]
}

// warnings are what the log says above the level info, each with the last request and how often.
func (p *program) warnings() string {
	last, times, order := map[string]string{}, map[string]int{}, []string{}
	for line := range strings.Lines(p.log()) {
		_, what, found := strings.Cut(line, " level=")
		if !found || (!strings.HasPrefix(what, "WARN") && !strings.HasPrefix(what, "ERROR")) {
			continue
		}
		what, _, _ = strings.Cut(what, " request_id=")
		if times[what]++; times[what] == 1 {
			order = append(order, what)
		}
		last[what] = line
	}
	var b strings.Builder
	for _, what := range order {
		fmt.Fprintf(&b, "%4d× %s", times[what], last[what])
	}
	return b.String()
}

func (p *program) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill ends the process at once (SIGKILL).
func (p *program) kill() {
	p.mayDie = true
	if !p.ended() {
		_ = p.cmd.Process.Kill()
	}
	<-p.done
}

// terminate asks the process to stop and returns its exit code.
func (p *program) terminate() int {
	p.t.Helper()
	p.mayDie = true
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	return p.wait()
}

func (p *program) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT)
		<-time.After(time.Second)
		p.t.Errorf("%s does not stop:\n%s", p.name, p.tail())
		p.kill()
	}
	return p.cmd.ProcessState.ExitCode()
}

// inspect fails the test for what must never be in a log.
func (p *program) inspect() {
	f, err := os.Open(p.stderr)
	if err != nil {
		p.t.Error(err)
		return
	}
	defer func() { _ = f.Close() }()
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadString('\n')
		for _, word := range []string{"DATA RACE", "panic", "fatal error"} {
			if strings.Contains(line, word) {
				rest, _ := io.ReadAll(io.LimitReader(r, 6000))
				p.t.Errorf("the log of %s: %s%s", p.name, line, rest)
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// result is a command that has ended.
type result struct {
	code           int
	stdout, stderr string
}

// run runs one command of the binary to its end.
func run(t *testing.T, stdin string, env []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := command(args, env)
	cmd.SysProcAttr = nil // its parent outlives it
	var out, err strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &err
	if e := cmd.Start(); e != nil {
		t.Fatal(e)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait() // ProcessState has it
	stop()
	return result{cmd.ProcessState.ExitCode(), out.String(), err.String()}
}

// masterKey makes a key file.
func masterKey(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "master.key")
	if err := os.WriteFile(name, []byte("an-end-to-end-master-key-of-the-tests"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// stack says where the parts are that processes work with.
type stack struct {
	dsn, redis, key string
	more            []string // NAME=value
}

// env is the environment of a process on the stack; a DSN and a URL of Redis may be other ways to the same.
func (s stack) env() []string {
	env := []string{"ROOTSTREAM_POSTGRES_DSN=" + s.dsn, "ROOTSTREAM_KEYS_MASTER_KEY_FILE=" + s.key}
	if s.redis != "" {
		env = append(env, "ROOTSTREAM_REDIS_URL="+s.redis)
	}
	return append(env, s.more...)
}

// generous are limits that many clients on one address do not reach.
func generous() []string {
	var env []string
	for _, name := range []string{
		"LOGIN_ACCOUNT", "LOGIN_ANYWHERE", "LOGIN_NETWORK", "REGISTER_NETWORK", "MFA_NETWORK", "REFRESH_NETWORK",
		"TOKEN_NETWORK", "PROOF_ACCOUNT",
	} {
		env = append(env, "ROOTSTREAM_AUTH_RATE_"+name+"=10000")
	}
	return env
}

// instance is one serve process.
type instance struct {
	*program
	url string
}

// serve starts an instance and waits until it is ready.
func (s stack) serve(t *testing.T, name string) *instance {
	t.Helper()
	p := start(t, name, []string{"serve", "--listen", "127.0.0.1:0"}, s.env())
	return &instance{p, p.ready()}
}

// admin makes an administrator by the command line.
func (s stack) admin(t *testing.T, name, password string) {
	t.Helper()
	r := run(t, password+"\n", s.env(), "user", "add", name, "--email", name+"@example.org", "--role", "admin", "--verified")
	if r.code != 0 {
		t.Fatalf("user add: exit %d: %s", r.code, r.stderr)
	}
}

// parallel runs fn n times at once and waits.
func parallel(n int, fn func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { fn(i) })
	}
	wg.Wait()
}

// eventually repeats fn until it returns nil.
func eventually(t *testing.T, within time.Duration, what string, fn func() error) time.Duration {
	t.Helper()
	begun := time.Now()
	for {
		err := fn()
		if err == nil {
			return time.Since(begun)
		}
		if time.Since(begun) > within {
			t.Fatalf("%s: not within %v: %v", what, within, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// want is an error unless the two are the same.
func want[T comparable](what string, have, want T) error {
	if have != want {
		return fmt.Errorf("%s is %v, want %v", what, have, want)
	}
	return nil
}
