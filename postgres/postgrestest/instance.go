package postgrestest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/postgres"
)

// Instance is a server of one test, which may pause, kill and restart it.
type Instance struct {
	t testing.TB
	p *process
}

// Server starts a server of its own for the test, with a migrated database and
// further settings (name=value). What it acknowledged survives [Instance.Kill].
func Server(tb testing.TB, settings ...string) *Instance {
	tb.Helper()
	p, err := newProcess()
	if err != nil {
		tb.Fatalf("start PostgreSQL for the test (apt-get install postgresql): %v", err)
	}
	s := &Instance{t: tb, p: p}
	tb.Cleanup(s.end)
	if err := p.start(append([]string{"shared_buffers=16MB"}, settings...)...); err != nil {
		tb.Fatalf("start PostgreSQL for the test: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := p.at.exec(ctx, "create database rootstream"); err != nil {
		tb.Fatal(err)
	}
	if _, err := postgres.Migrate(ctx, s.DSN(), postgres.MigrateOptions{Rolling: true, Logger: slog.New(slog.DiscardHandler)}); err != nil {
		tb.Fatal(err)
	}
	return s
}

// DSN returns the address of the migrated database.
func (s *Instance) DSN() string { return s.p.at.dsn("rootstream") }

// Database creates another database, empty, and returns its address.
func (s *Instance) Database(name string) string {
	s.t.Helper()
	s.Exec("create database " + name + " template template0")
	return s.p.at.dsn(name)
}

// Addr returns the server's host:port, for a proxy in front of it.
func (s *Instance) Addr() string { return fmt.Sprintf("%s:%d", s.p.at.host, s.p.at.port) }

// Dir returns the server's data folder.
func (s *Instance) Dir() string { return filepath.Join(s.p.dir, "data") }

// Pause stops every process of the server where it stands (SIGSTOP).
func (s *Instance) Pause() { s.t.Helper(); s.signal(syscall.SIGSTOP) }

// Resume lets the server go on.
func (s *Instance) Resume() { s.t.Helper(); s.signal(syscall.SIGCONT) }

// Kill ends every process of the server at once (SIGKILL).
func (s *Instance) Kill() {
	s.t.Helper()
	s.order("kill")
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(5 * time.Millisecond) {
		s.signal(syscall.SIGKILL)
		if len(s.processes()) == 0 {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatal("the server's processes did not end")
		}
	}
}

// Restart starts the server again, killing it first if it still runs.
func (s *Instance) Restart() {
	s.t.Helper()
	if len(s.processes()) > 0 {
		s.Kill()
	}
	s.order("start")
	if err := waitReady(s.p.at, s.p.dir); err != nil {
		s.t.Fatalf("restart PostgreSQL: %v", err)
	}
}

func (s *Instance) order(word string) {
	s.t.Helper()
	if _, err := io.WriteString(s.p.stdin, word+"\n"); err != nil {
		s.t.Fatalf("the server's shell: %v", err)
	}
}

// ReadOnly makes new transactions read-only, as on a standby, or writable again.
func (s *Instance) ReadOnly(on bool) {
	s.t.Helper()
	s.Exec(fmt.Sprintf("alter system set default_transaction_read_only = %v", on))
	s.Exec("select pg_reload_conf()")
	want := map[bool]string{true: "on", false: "off"}[on]
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(5 * time.Millisecond) {
		if have, err := s.readOnly(); err == nil && have == want {
			return
		}
	}
	s.t.Fatal("the server did not take the setting")
}

// readOnly asks what a new connection gets.
func (s *Instance) readOnly() (setting string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, s.DSN())
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close(ctx) }()
	err = c.QueryRow(ctx, "show default_transaction_read_only").Scan(&setting)
	return setting, err
}

// Exec runs one statement as superuser in the maintenance database.
func (s *Instance) Exec(sql string) {
	s.t.Helper()
	if err := s.p.at.exec(context.Background(), sql); err != nil {
		s.t.Fatal(err)
	}
}

func (s *Instance) end() {
	s.signal(syscall.SIGCONT)
	if s.p.stdin == nil {
		return
	}
	_ = s.p.stdin.Close()
	select {
	case <-s.p.ended:
	case <-time.After(10 * time.Second):
		s.t.Error("PostgreSQL did not stop")
	}
	for _, pid := range s.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = os.RemoveAll(s.p.dir)
}

func (s *Instance) signal(sig syscall.Signal) {
	for _, pid := range s.processes() { // the postmaster comes first, so it starts no other meanwhile
		_ = syscall.Kill(pid, sig)
	}
}

// processes returns the postmaster and its children, as long as they run.
func (s *Instance) processes() []int {
	content, err := os.ReadFile(filepath.Join(s.p.dir, "data", "postmaster.pid"))
	if err != nil {
		return nil
	}
	first, _, _ := strings.Cut(string(content), "\n")
	postmaster, err := strconv.Atoi(first)
	if err != nil {
		return nil
	}
	var pids []int
	if s.ours(postmaster) {
		pids = append(pids, postmaster)
	}
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, e := range entries {
		pid, _ := strconv.Atoi(filepath.Base(e))
		if pid != postmaster && s.ours(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// ours reports whether pid is a live process whose working folder is the data folder.
func (s *Instance) ours(pid int) bool {
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil || cwd != filepath.Join(s.p.dir, "data") {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}
