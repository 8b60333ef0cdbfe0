// Package cachetest runs real Redis servers for tests.
//
// [New] gives a connected client on a server of its own. [Server], [Sentinel]
// and [Cluster] give the processes themselves, to be killed, paused, wiped and
// restarted. Each server listens on a free port of 127.0.0.1, keeps its files
// in a temporary folder, takes its password from a private config file, writes
// nothing to disk, and ends with the test (or with the test process).
// A machine without redis-server fails the test.
package cachetest

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rootstream/cache"
)

const patience = 20 * time.Second

// NoPassword is a line for Server's config: clients need no password.
const NoPassword = `requirepass ""`

// New returns a connected client on a Redis server of its own, closed and ended with the test.
func New(tb testing.TB) *cache.Client {
	tb.Helper()
	return Server(tb).Client(tb, cache.Config{})
}

// Redis is one redis-server process.
type Redis struct {
	tb       testing.TB
	dir      string
	port     int
	password string
	args     []string

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended
}

// Server starts an empty Redis server with a password; conf are further lines of its config file.
func Server(tb testing.TB, conf ...string) *Redis {
	tb.Helper()
	s := &Redis{tb: tb, dir: tb.TempDir(), password: "redis-test-password"}
	tb.Cleanup(s.Kill)
	if slices.Contains(conf, NoPassword) {
		s.password = ""
	}
	base := []string{
		"requirepass " + strconv.Quote(s.password), "masterauth " + strconv.Quote(s.password), "save \"\"", "appendonly no",
		"repl-diskless-sync-delay 0", "repl-ping-replica-period 1",
	}
	for try := 0; ; try++ {
		s.port = FreePort(tb)
		err := s.launch(append(base, conf...))
		if err == nil {
			return s
		}
		if try == 4 {
			tb.Fatalf("start redis-server: %v", err)
		}
	}
}

// launch writes the config file, starts the process and waits until it answers.
func (s *Redis) launch(conf []string) error {
	lines := append([]string{
		"bind 127.0.0.1", "protected-mode no", "daemonize no", "port " + strconv.Itoa(s.port),
		"dir " + s.dir, "logfile " + filepath.Join(s.dir, "redis.log"),
	}, conf...)
	file := filepath.Join(s.dir, "redis.conf")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	return s.run(file)
}

func (s *Redis) run(file string) error {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		s.tb.Fatalf("redis-server is not installed (apt-get install redis-server): %v", err)
	}
	cmd := exec.Command(bin, append([]string{file}, s.args...)...) //nolint:noctx // ended by Kill
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started, exited := make(chan error, 1), make(chan struct{})
	go func() {
		// The kernel sends Pdeathsig when the starting thread ends, so this one is kept until the child has ended.
		runtime.LockOSThread()
		defer close(exited)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // killed on purpose
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	s.mu.Lock()
	s.cmd, s.exited = cmd, exited
	s.mu.Unlock()
	return s.ready(exited)
}

func (s *Redis) ready(exited chan struct{}) error {
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); wait(5 * time.Millisecond) {
		select {
		case <-exited:
			log, _ := os.ReadFile(filepath.Join(s.dir, "redis.log"))
			return fmt.Errorf("redis-server ended: %s", log)
		default:
		}
		if _, err = s.Try("PING"); err == nil {
			return nil
		}
	}
	s.Kill()
	return err
}

// Client opens a client of the server, closed with the test; URL is filled in.
func (s *Redis) Client(tb testing.TB, cfg cache.Config) *cache.Client {
	tb.Helper()
	cfg.URL = s.URL()
	return open(tb, cfg)
}

func open(tb testing.TB, cfg cache.Config) *cache.Client {
	tb.Helper()
	c, err := cache.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatalf("open cache: %v", err)
	}
	tb.Cleanup(c.Close)
	return c
}

// URL is the address with the password, as configuration takes it.
func (s *Redis) URL() string {
	u := url.URL{Scheme: "redis", Host: s.Addr()}
	if s.password != "" {
		u.User = url.UserPassword("", s.password)
	}
	return u.String()
}

// Addr is host:port.
func (s *Redis) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Password is what clients authenticate with.
func (s *Redis) Password() string { return s.password }

// Dir is the folder with redis.conf and redis.log.
func (s *Redis) Dir() string { return s.dir }

// Kill ends the process at once, as kill -9 does. Its data is gone.
func (s *Redis) Kill() {
	s.mu.Lock()
	cmd, exited := s.cmd, s.exited
	s.cmd = nil
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Kill() // it may have ended by itself
	<-exited
}

// Pause stops the process (SIGSTOP): connections stay open, nothing is answered.
func (s *Redis) Pause() { s.signal(syscall.SIGSTOP) }

// Resume continues a paused process.
func (s *Redis) Resume() { s.signal(syscall.SIGCONT) }

func (s *Redis) signal(sig syscall.Signal) {
	s.tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		s.tb.Fatalf("signal %v: redis-server is not running", sig)
	}
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.tb.Fatalf("signal %v: %v", sig, err)
	}
}

// Restart ends the process if it runs and starts it again, empty, on the same port.
func (s *Redis) Restart() {
	s.tb.Helper()
	s.Kill()
	if err := s.run(filepath.Join(s.dir, "redis.conf")); err != nil {
		s.tb.Fatalf("restart redis-server: %v", err)
	}
}

// FlushAll removes all keys.
func (s *Redis) FlushAll() {
	s.tb.Helper()
	s.Do("FLUSHALL")
}

// Do runs one command on a connection of its own: strings, int64, nil or []any come back; an error fails the test.
func (s *Redis) Do(args ...string) any {
	s.tb.Helper()
	v, err := s.Try(args...)
	if err != nil {
		s.tb.Fatalf("redis %s: %v", args[0], err)
	}
	return v
}

// Try is Do for what the server may refuse.
func (s *Redis) Try(args ...string) (any, error) {
	c, err := dial(s.Addr(), s.password, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }() // nothing left to say
	return c.do(args...)
}

// FreePort returns a TCP port of 127.0.0.1 that nobody listened on a moment ago.
func FreePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed two lines below
	if err != nil {
		tb.Fatalf("find a free port: %v", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		tb.Fatalf("find a free port: %v", err)
	}
	return port
}

// eventually waits until cond holds.
func eventually(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	within(tb, patience, what, cond)
}

func within(tb testing.TB, patience time.Duration, what string, cond func() bool) {
	tb.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); wait(20 * time.Millisecond) {
		if cond() {
			return
		}
	}
	tb.Fatalf("%s: not within %v", what, patience)
}

func wait(d time.Duration) { <-time.After(d) }
