package restore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"rootstream/backup/archive"
	"rootstream/backup/archive/ledger"
	"rootstream/backup/base"
	"rootstream/backup/repo"
	"rootstream/backup/restore"
	"rootstream/backup/storage/file"
	"rootstream/backup/wal"
	"rootstream/internal/proc"
	"rootstream/internal/wait"
	"rootstream/pgserver"
	"rootstream/secret"
	"rootstream/tests/harness"
)

// This binary is also the program that PostgreSQL runs to archive and to fetch its log, and the restore that is killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "push", "fetch":
			os.Exit(logCommand(os.Args[1:]))
		case "rollback":
			os.Exit(ended(restore.Rollback(os.Args[2])))
		case "confirm":
			os.Exit(ended(restore.Confirm(os.Args[2])))
		case "restore":
			os.Exit(restoreCommand(os.Args[2:]))
		}
	}
	goleak.VerifyTestMain(m)
}

func ended(err error) int {
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

const keyText = "a key for tests, of which nobody needs to be afraid"

func openRepo(ctx context.Context, dir string) (*repo.Repo, error) {
	st, err := file.Open(dir, true)
	if err != nil {
		return nil, err
	}
	key := repo.Key{Secret: secret.FromString(keyText), Kind: repo.KeyFile}
	return repo.Open(ctx, st, []repo.Key{key}, repo.Config{Create: true, PackSize: 4 << 20, Logger: quietly()})
}

// logCommand is push DIR SYSTEM FILE, or fetch DIR SYSTEM NAME DEST.
func logCommand(args []string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r, err := openRepo(ctx, args[1])
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 2
	}
	var system uint64
	if _, err = fmt.Sscan(args[2], &system); err != nil {
		return 2
	}
	if args[0] == "push" {
		err = archive.Push(ctx, r, system, args[3])
	} else {
		err = archive.Source{Repo: r, System: system}.Fetch(ctx, args[3], args[4])
	}
	switch {
	case errors.Is(err, archive.ErrAbsent):
		return archive.ExitAbsent
	case err != nil:
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 2
	}
	return 0
}

// world is a cluster with an archive, and what is made from it.
type world struct {
	t      *testing.T
	home   string // everything is in it; PostgreSQL's user can enter
	self   string // this binary, where PostgreSQL's user can run it
	dir    string // of the repository
	repo   *repo.Repo
	in     pgserver.Installation
	owner  proc.Account
	server *pgserver.Server // the living one
	system uint64
	data   string // its data folder
	sends  bool   // the server sends its files, as if its folder were elsewhere
}

// of returns the world as a part of its test has it.
func (w world) of(t *testing.T) *world { //nolint:thelper // it only keeps it
	w.t = t
	return &w
}

// newWorld starts a cluster whose log goes to a new repository.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, home: home(t)}
	var err error
	if bin := os.Getenv("ROOTSTREAM_TEST_POSTGRES"); bin != "" {
		w.in, err = pgserver.At(bin)
	} else {
		w.in, err = pgserver.Find(0)
	}
	must(t, err)
	w.owner, err = proc.Unprivileged("postgres")
	must(t, err)
	must(t, w.owner.Own(w.home))
	w.self = filepath.Join(w.home, "program")
	harness.Publish(t, w.self)
	w.dir = filepath.Join(w.home, "repository")
	must(t, w.owner.MkdirAll(w.dir))
	w.repo, err = openRepo(t.Context(), w.dir)
	must(t, err)
	params := map[string]string{
		"full_page_writes": "on", "archive_mode": "on", "archive_command": "/bin/false", "track_commit_timestamp": "on",
		"max_connections": "50", "max_prepared_transactions": "5", "autovacuum_naptime": "1s", "shared_buffers": "16MB",
	}
	w.server, err = pgserver.Throwaway(t.Context(), pgserver.ThrowawayConfig{Installation: w.in, Dir: w.home, SocketOnly: true, Params: params})
	must(t, err)
	t.Cleanup(func() { w.stop(w.server) })
	w.data = w.server.DataDir()
	conn := w.connect(w.server)
	must(t, conn.QueryRow(t.Context(), "select system_identifier::text::numeric::text from pg_control_system()").Scan(&textTo{&w.system}))
	w.alter(conn, "archive_command", archive.PushCommand(w.self, "push", w.dir, fmt.Sprint(w.system)))
	w.share()
	return w
}

// textTo scans a number that does not fit into PostgreSQL's.
type textTo struct{ n *uint64 }

func (t *textTo) Scan(src any) error {
	_, err := fmt.Sscan(fmt.Sprint(src), t.n)
	return err
}

func home(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rs-restore-*") //nolint:usetesting // only root can enter the folders of t.TempDir
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// share lets PostgreSQL's user, who archives and fetches, at what root put into the repository.
func (w *world) share() {
	w.t.Helper()
	must(w.t, filepath.WalkDir(w.dir, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			err = w.owner.Own(path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}))
}

func (w *world) connect(s *pgserver.Server) *pgx.Conn {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), s.DSN("postgres"))
	must(w.t, err)
	w.t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(w.t.Context())) })
	return conn
}

func (w *world) alter(conn *pgx.Conn, name, value string) {
	w.t.Helper()
	run(w.t, conn, "alter system set "+name+" = '"+strings.ReplaceAll(value, "'", "''")+"'")
	run(w.t, conn, "select pg_reload_conf()")
}

func quietly() *slog.Logger { return slog.New(slog.DiscardHandler) }

func run(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// ask returns one value as text.
func ask(t *testing.T, conn *pgx.Conn, sql string, args ...any) string {
	t.Helper()
	var v *string
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if v == nil {
		return ""
	}
	return *v
}

func position(t *testing.T, conn *pgx.Conn) wal.LSN {
	t.Helper()
	lsn, err := wal.ParseLSN(ask(t, conn, "select pg_current_wal_insert_lsn()::text"))
	must(t, err)
	return lsn
}

// backup takes a backup of the living cluster.
func (w *world) backup(typ repo.Type) repo.Manifest {
	w.t.Helper()
	cfg := base.Config{DSN: w.server.DSN("postgres"), PGData: w.server.DataDir(), Type: typ, Logger: quietly(), Compression: repo.Compression{Name: "s2"}}
	if w.sends {
		cfg.PGData = ""
	}
	m, err := base.Take(w.t.Context(), cfg, w.repo, w.arrived)
	must(w.t, err)
	w.share()
	return m
}

// arrived waits until the repository has a piece of the log.
func (w *world) arrived(ctx context.Context, size uint32, r wal.Range) error {
	return ledger.Wait(ctx, w.repo, w.system, size, r)
}

// archived switches the segment and waits until all log so far is in the repository.
func (w *world) archived(s *pgserver.Server) {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), s.DSN("postgres"))
	must(w.t, err)
	defer func() { _ = conn.Close(context.WithoutCancel(w.t.Context())) }()
	run(w.t, conn, "select pg_create_restore_point('a segment without a record is not switched')")
	name := ask(w.t, conn, "select pg_walfile_name(pg_switch_wal())")
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	for {
		_, err := w.repo.GetWAL(ctx, w.system, name)
		if err == nil {
			break
		}
		if !errors.Is(err, repo.ErrWALAbsent) {
			w.t.Fatal(err)
		}
		must(w.t, wait.For(ctx, 20*time.Millisecond))
	}
	w.share()
}

func (w *world) fetchCommand() string {
	return archive.RestoreCommand(w.self, "fetch", w.dir, fmt.Sprint(w.system))
}

// config is that of a restore to a new folder, with which a server can run beside the living one: its socket is in a
// folder of its own, where nobody else can have its number.
func (w *world) config(name string) restore.Config {
	w.t.Helper()
	sockets := filepath.Join(w.home, "sockets", name)
	must(w.t, w.owner.MkdirAll(sockets))
	return restore.Config{
		Dir: filepath.Join(w.home, name), RestoreCommand: w.fetchCommand(), Logger: quietly(), Installation: w.in, NoSync: true,
		Settings: map[string]string{"archive_mode": "off", "listen_addresses": "", "unix_socket_directories": sockets},
	}
}

// restore runs a restore that has to work and starts a server on the result.
func (w *world) restore(cfg restore.Config) (restore.Result, *pgserver.Server) {
	w.t.Helper()
	cfg.Start = true
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute)
	defer cancel()
	res, err := restore.Run(ctx, cfg, w.repo)
	if err != nil {
		said, _ := os.ReadFile(cfg.Dir + ".log")
		w.t.Fatalf("%v\n%s", err, said)
	}
	return res, w.attach(cfg.Dir)
}

// attach takes over a server that a restore left running.
func (w *world) attach(dir string) *pgserver.Server {
	w.t.Helper()
	s, err := pgserver.New(pgserver.Config{Installation: w.in, DataDir: dir, Foreign: true, RunAs: w.owner.Name, Logger: quietly()})
	must(w.t, err)
	must(w.t, s.Attach(w.t.Context()))
	w.t.Cleanup(func() { w.stop(s) })
	return s
}

func (w *world) stop(s *pgserver.Server) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.t.Context()), 20*time.Second)
	defer cancel()
	if err := s.Stop(ctx, pgserver.Immediate); err != nil {
		w.t.Error(err)
	}
}
