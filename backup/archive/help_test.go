package archive_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"rootstream/backup/archive"
	"rootstream/backup/archive/ledger"
	"rootstream/backup/archive/receive"
	"rootstream/backup/repo"
	"rootstream/backup/storage/file"
	"rootstream/backup/wal"
	"rootstream/internal/wait"
	"rootstream/pgserver"
	"rootstream/secret"
	"rootstream/tests/harness"
)

const (
	patience  = 60 * time.Second
	runAs     = "ARCHIVE_TEST_RUN_AS" // what the test binary does instead of tests
	settings  = "ARCHIVE_TEST_SETTINGS"
	segmentMB = 1
	size      = segmentMB << 20
)

func TestMain(m *testing.M) {
	if program := programs()[os.Getenv(runAs)]; program != nil {
		var s child
		if err := json.Unmarshal([]byte(os.Getenv(settings)), &s); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		os.Exit(program(s))
	}
	goleak.VerifyTestMain(m)
}

// child says what a process of the test binary works with.
type child struct {
	Repo, Spool, DSN string
	Remote           bool
	System           uint64
	Ahead            string
}

func programs() map[string]func(child) int {
	return map[string]func(child) int{"receive": receiveProgram, "fetch": fetchProgram, "push": pushProgram, "panic": panicProgram}
}

// panicProgram fetches from a repository that it forgot to open.
func panicProgram(s child) int {
	_ = archive.Source{System: s.System}.Fetch(context.Background(), os.Args[1], os.Args[2])
	return 0
}

func receiveProgram(s child) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	r, err := receive.New(config(s))
	if err == nil {
		err = r.Run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func fetchProgram(s child) int {
	r, err := openRepo(context.Background(), s.Repo)
	if err == nil {
		err = archive.Source{Repo: r, System: s.System, Dir: s.Ahead}.Fetch(context.Background(), os.Args[1], os.Args[2])
	}
	if errors.Is(err, archive.ErrAbsent) {
		return archive.ExitAbsent
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func pushProgram(s child) int {
	r, err := openRepo(context.Background(), s.Repo)
	if err == nil {
		err = archive.Push(context.Background(), r, 0, os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// command is the test binary as a program.
func command(t *testing.T, program string, s child) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(self(t))
	cmd.Env = append(os.Environ(), environ(t, program, s)...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func environ(t *testing.T, program string, s child) []string {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return []string{runAs + "=" + program, settings + "=" + string(text)}
}

// self is the test binary, in a place where every user may run it.
func self(t *testing.T) string {
	t.Helper()
	public := filepath.Join(folder(t), "program")
	harness.Publish(t, public)
	return public
}

// folder is one that every user can enter, gone after the test.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rs-archive-*") //nolint:usetesting // only root can enter the folders of t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func openRepo(ctx context.Context, dir string) (*repo.Repo, error) {
	st, err := file.Open(dir, true)
	if err != nil {
		return nil, err
	}
	key := repo.Key{Secret: secret.FromString(strings.Repeat("archive test key", 3)), Kind: repo.KeyFile}
	return repo.Open(ctx, st, []repo.Key{key}, repo.Config{Create: true, Logger: slog.New(slog.DiscardHandler)})
}

func newRepo(t *testing.T) (*repo.Repo, string) {
	t.Helper()
	dir := filepath.Join(folder(t), "repo")
	r, err := openRepo(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return r, dir
}

// cluster is a server with small segments that keeps all of its log, so that what was archived can be compared.
type cluster struct {
	*pgserver.Server
	t    *testing.T
	dir  string
	idle chan *pgx.Conn // between two statements
}

func newCluster(t *testing.T, params map[string]string) *cluster {
	t.Helper()
	in, err := pgserver.Find(0)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, dir: folder(t), idle: make(chan *pgx.Conn, 1)}
	t.Cleanup(c.hangUp)
	c.Server = c.server("data", params)
	if err := c.Account().Own(c.dir); err != nil {
		t.Fatal(err)
	}
	c.run(in.Bin("initdb"), "-D", c.DataDir(), "-U", "postgres", "--no-sync", "--auth=trust", "--wal-segsize", fmt.Sprint(segmentMB))
	c.start()
	return c
}

func (c *cluster) server(name string, params map[string]string) *pgserver.Server {
	c.t.Helper()
	in, err := pgserver.Find(0)
	if err != nil {
		c.t.Fatal(err)
	}
	all := map[string]string{
		"fsync": "off", "shared_buffers": "16MB", "wal_keep_size": "4GB", "max_wal_size": "256MB", "min_wal_size": "2MB",
		"autovacuum": "off", "checkpoint_timeout": "1h",
	}
	maps.Copy(all, params)
	s, err := pgserver.New(pgserver.Config{
		Installation: in, DataDir: filepath.Join(c.dir, name), SocketDir: filepath.Join(c.dir, "s"), Params: all,
		NoSync: true, DieWithParent: true, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), patience)
		defer cancel()
		_ = s.Stop(ctx, pgserver.Immediate)
	})
	return s
}

// run runs a program as the server's user.
func (c *cluster) run(program string, args ...string) {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), program, args...)
	cmd.Dir = c.dir
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.Account().UID, Gid: c.Account().GID}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("%s: %v: %s", program, err, out)
	}
}

func (c *cluster) start() {
	c.t.Helper()
	if err := c.Start(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) stop() {
	c.t.Helper()
	if err := c.Stop(c.t.Context(), pgserver.Fast); err != nil {
		c.t.Fatal(err)
	}
}

// kill ends the server with SIGKILL and waits until all of it is gone.
func (c *cluster) kill() {
	c.t.Helper()
	st, err := pgserver.ReadStatus(c.DataDir())
	if err != nil {
		c.t.Fatal(err)
	}
	if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	<-c.Done()
}

// recover lets the server recover to the end of its log, and go on on a new timeline.
func (c *cluster) recoverAndPromote() {
	c.t.Helper()
	if err := c.Account().WriteFile(filepath.Join(c.DataDir(), "recovery.signal"), "", false); err != nil {
		c.t.Fatal(err)
	}
	c.start()
	c.eventually("it is promoted", func() bool { return c.query("select pg_is_in_recovery()::text") == "false" })
}

func (c *cluster) dsn() string { return c.DSN("postgres") }

func (c *cluster) try(sql string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), patience)
	defer cancel()
	conn, err := c.connection(ctx)
	if err != nil {
		return "", err
	}
	defer c.giveBack(ctx, conn)
	var text *string
	err = conn.QueryRow(ctx, sql, pgx.QueryExecModeSimpleProtocol).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if text == nil {
		return "", err
	}
	return *text, err
}

// connection is the idle one, as long as the server has not ended it.
func (c *cluster) connection(ctx context.Context) (*pgx.Conn, error) {
	select {
	case conn := <-c.idle:
		if conn.Ping(ctx) == nil {
			return conn, nil
		}
		_ = conn.Close(ctx)
	default:
	}
	return pgx.Connect(ctx, c.dsn())
}

func (c *cluster) giveBack(ctx context.Context, conn *pgx.Conn) {
	select {
	case c.idle <- conn:
	default:
		_ = conn.Close(ctx)
	}
}

// hangUp ends the idle session, if there is one.
func (c *cluster) hangUp() {
	select {
	case conn := <-c.idle:
		_ = conn.Close(context.WithoutCancel(c.t.Context()))
	default:
	}
}

func (c *cluster) query(sql string) string {
	c.t.Helper()
	text, err := c.try(sql)
	if err != nil {
		c.t.Fatalf("%s: %v", sql, err)
	}
	return text
}

func (c *cluster) lsn() wal.LSN {
	c.t.Helper()
	lsn, err := wal.ParseLSN(c.query("select pg_current_wal_flush_lsn()::text"))
	if err != nil {
		c.t.Fatal(err)
	}
	return lsn
}

// write makes about so many MiB of log.
func (c *cluster) write(mib int) {
	c.t.Helper()
	c.query("create table if not exists filler (b bytea)")
	for range mib {
		c.query("insert into filler select decode(repeat(md5(random()::text), 60), 'hex') from generate_series(1, 1000)")
	}
}

func (c *cluster) switchSegment() {
	c.t.Helper()
	c.query("select pg_switch_wal()::text")
}

func (c *cluster) eventually(what string, ok func() bool) { c.t.Helper(); eventually(c.t, what, ok) }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func config(s child) receive.Config {
	return receive.Config{
		DSN: s.DSN, Spool: s.Spool, Remote: s.Remote, Logger: slog.New(slog.DiscardHandler), Patience: 5 * time.Second,
		Open: func(ctx context.Context) (*repo.Repo, error) { return openRepo(ctx, s.Repo) },
	}
}

// receiving is a receiver of this process.
type receiving struct {
	*receive.Receiver
	t    *testing.T
	end  context.CancelFunc
	done chan error
}

func start(t *testing.T, cfg receive.Config) *receiving {
	t.Helper()
	r, err := receive.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.WithoutCancel(t.Context()))
	a := &receiving{Receiver: r, t: t, end: end, done: make(chan error, 1)}
	go func() { a.done <- r.Run(ctx) }()
	t.Cleanup(a.stop)
	return a
}

func (r *receiving) stop() {
	r.end()
	err, running := <-r.done
	if running {
		close(r.done)
	}
	if err != nil {
		r.t.Errorf("the receiver ended with %v", err)
	}
}

// uploaded waits until the repository has everything up to lsn.
func (r *receiving) uploaded(lsn wal.LSN) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); r.State().Uploaded < lsn; <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("%v is not uploaded: %+v", lsn, r.State())
		}
	}
}

// compare proves that the repository has the same segments as the server, from one position to another.
func (c *cluster) compare(r *repo.Repo, system uint64, rng wal.Range) {
	c.t.Helper()
	for name := range rng.Segments(size) {
		want, err := os.ReadFile(filepath.Join(c.DataDir(), "pg_wal", name))
		if err != nil {
			c.t.Fatal(err)
		}
		have, err := r.GetWAL(c.t.Context(), system, name)
		if err != nil {
			c.t.Fatal(err)
		}
		if !bytes.Equal(have, want) {
			c.t.Errorf("%s differs", name)
		}
	}
	if err := contiguous(c.t, r, system, rng); err != nil {
		c.t.Error(err)
	}
}

func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), 500*time.Millisecond)
}

func gapsOf(t *testing.T, r *repo.Repo, system uint64) []ledger.Gap {
	t.Helper()
	l, err := ledger.Load(t.Context(), r, system)
	if err != nil {
		t.Fatal(err)
	}
	return l.Gaps()
}

func contiguous(t *testing.T, r *repo.Repo, system uint64, rng wal.Range) error {
	t.Helper()
	l, err := ledger.Load(t.Context(), r, system)
	if err != nil {
		return err
	}
	return l.Contiguous(rng)
}

func (c *cluster) slot() (ledger.Slot, error) {
	c.t.Helper()
	s, err := receive.LookUp(c.t.Context(), c.dsn(), "rootstream")
	return s.Slot, err
}

func (c *cluster) system() uint64 {
	c.t.Helper()
	id, err := archive.SystemOf(c.DataDir())
	if err != nil {
		c.t.Fatal(err)
	}
	return id
}

// ack is a commit that the server has acknowledged.
type ack struct {
	id int64
	at time.Time
}

// load writes until it is stopped, and knows what was acknowledged.
type load struct {
	mu    sync.Mutex
	acks  []ack
	next  atomic.Int64
	group sync.WaitGroup
	end   context.CancelFunc
}

func (c *cluster) load(workers int) *load {
	c.t.Helper()
	c.query("create table if not exists ledger (id bigint primary key, filler text)")
	ctx, end := context.WithCancel(context.WithoutCancel(c.t.Context()))
	l := &load{end: end}
	for range workers {
		l.group.Go(func() {
			for ctx.Err() == nil {
				l.connection(ctx, c.dsn())
				_ = wait.For(ctx, 10*time.Millisecond)
			}
		})
	}
	c.t.Cleanup(func() { l.stop() })
	return l
}

func (l *load) connection(ctx context.Context, dsn string) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for {
		id := l.next.Add(1)
		if _, err := conn.Exec(ctx, "insert into ledger values ($1, repeat('x', 500))", id); err != nil {
			return
		}
		l.mu.Lock()
		l.acks = append(l.acks, ack{id, time.Now()})
		l.mu.Unlock()
	}
}

func (l *load) stop() []ack {
	l.end()
	l.group.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.acks)
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acks)
}

// handOver gives a folder to the server's user.
func (c *cluster) handOver(dir string) {
	c.t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(c.Account().UID), int(c.Account().GID))
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// breakRepo puts the repository out of reach until it is mended: nothing below clusters can be listed, read or written.
func breakRepo(t *testing.T, dir string) (mend func()) {
	t.Helper()
	path := filepath.Join(dir, "clusters")
	if err := errors.Join(os.Rename(path, path+"-away"), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := errors.Join(os.Remove(path), os.Rename(path+"-away", path)); err != nil {
			t.Fatal(err)
		}
	}
}

// alarms collects what a receiver tells.
type alarms struct {
	mu  sync.Mutex
	all []error
}

func (a *alarms) tell(_ context.Context, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, err)
}

func (a *alarms) told(want error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.all, func(err error) bool { return errors.Is(err, want) })
}
