package backup_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/backup"
	"rootstream/backup/repo"
	"rootstream/cli"
	"rootstream/internal/proc"
	"rootstream/pgserver"
	"rootstream/secret"
	"rootstream/tests/harness"
)

func TestMain(m *testing.M) {
	if os.Getenv(harness.RunAsProgram) != "" {
		os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

const (
	keyText    = "a key for tests, of which nobody needs to be afraid"
	keptAtMost = 2 // backups, by prune
	garbageAge = time.Second
)

// world is a server that people write to, and a repository of its backups.
type world struct {
	t      *testing.T
	home   string // everything is in it; PostgreSQL's user can enter
	repo   string // folder
	lease  time.Duration
	owner  proc.Account
	server *pgserver.Server
	env    []string
	ledger *ledger
	mu     sync.Mutex
	told   map[string]span // of backups whose end was told
	counts map[string]int
}

// newWorld starts a server and writers. Whoever is silent for lease is dead.
func newWorld(t *testing.T, lease time.Duration) *world {
	t.Helper()
	w := &world{t: t, lease: lease, told: map[string]span{}, counts: map[string]int{}}
	var err error
	w.home, err = os.MkdirTemp("", "rs-faults-*") //nolint:usetesting // only root can enter the folders of t.TempDir
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(w.home) })
	must(t, os.Chmod(w.home, 0o755))
	w.owner, err = proc.Unprivileged("postgres")
	must(t, err)
	must(t, w.owner.Own(w.home))
	w.repo = filepath.Join(w.home, "repository")
	w.server, err = pgserver.Throwaway(t.Context(), pgserver.ThrowawayConfig{Dir: w.home, SocketOnly: true, Params: map[string]string{
		"wal_level": "replica", "full_page_writes": "on", "synchronous_commit": "on", "max_connections": "50", "shared_buffers": "16MB",
	}})
	must(t, err)
	t.Cleanup(func() { w.stop(w.server) })
	key := filepath.Join(t.TempDir(), "backup.key")
	must(t, os.WriteFile(key, []byte(keyText), 0o600))
	age := "1ms"
	w.env = []string{
		"ROOTSTREAM_BACKUP_REPO=file://" + w.repo, "ROOTSTREAM_BACKUP_KEY_FILE=" + key, "ROOTSTREAM_BACKUP_DSN=" + w.server.DSN("postgres"),
		"ROOTSTREAM_BACKUP_PGDATA=" + w.server.DataDir(), "ROOTSTREAM_BACKUP_SPOOL=" + filepath.Join(w.home, "spool"), "ROOTSTREAM_BACKUP_WORKERS=3", "ROOTSTREAM_BACKUP_COMPRESSION=s2",
		"ROOTSTREAM_BACKUP_LEASE=" + lease.String(), "ROOTSTREAM_BACKUP_RETENTION_FULL=" + age, "ROOTSTREAM_BACKUP_RETENTION_INCREMENTAL=" + age,
		"ROOTSTREAM_BACKUP_RETENTION_DIFFERENTIAL=" + age, fmt.Sprintf("ROOTSTREAM_BACKUP_RETENTION_MINIMUM=%d", keptAtMost),
		"ROOTSTREAM_BACKUP_RETENTION_UNFINISHED=" + garbageAge.String(),
	}
	w.secluded()
	w.ledger = newLedger(t, w.server)
	return w
}

// secluded lets what is restored listen nowhere but in a folder of its own: other tests restore, too.
func (w *world) secluded() {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.server.DSN("postgres"))
	must(w.t, err)
	defer func() { _ = conn.Close(context.WithoutCancel(w.t.Context())) }()
	for name, value := range map[string]string{"listen_addresses": "", "unix_socket_directories": w.home} {
		_, err = conn.Exec(w.t.Context(), "alter system set "+name+" = '"+value+"'")
		must(w.t, err)
	}
}

// manager is the same repository in this process.
func (w *world) manager() *backup.Manager {
	w.t.Helper()
	m, err := backup.Open(w.t.Context(), backup.Config{
		Repo: "file://" + w.repo, Keys: []repo.Key{{Secret: secret.FromString(keyText), Kind: repo.KeyFile}}, Create: true,
		DSN: secret.FromString(w.server.DSN("postgres")), PGData: w.server.DataDir(), Workers: 2, Lease: w.lease, Compression: repo.Compression{Name: "s2"},
		Logger: slog.New(slog.DiscardHandler),
	})
	must(w.t, err)
	return m
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) stop(s *pgserver.Server) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	if err := s.Stop(ctx, pgserver.Immediate); err != nil {
		w.t.Error(err)
	}
}

// count notes that something has happened n times.
func (w *world) count(what string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[what] += n
}

// missing are the things that have not happened yet.
func (w *world) missing(of []string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(of), func(what string) bool { return w.counts[what] > 0 })
}

// span says which entries of the ledger a backup has: at least those that were acknowledged before it, at most those begun before it ended.
type span struct{ least, most int64 }

// remember notes a backup that was reported as made, and what it has.
func (w *world) remember(id string, s span) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told[id] = s
}

func (w *world) forget(ids ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		delete(w.told, id)
	}
}

func (w *world) known() map[string]span {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.told)
}

// list asks the program which backups there are; it has to know, and none may be damaged.
func (w *world) list() []backup.Backup {
	w.t.Helper()
	var all []backup.Backup
	r := w.run("backup", "list", "-o", "json")
	if r.code != 0 || json.Unmarshal([]byte(r.stdout), &all) != nil {
		w.t.Errorf("list: %v", r)
	}
	for _, b := range all {
		if b.Status != backup.StatusCompleted {
			w.t.Errorf("%s is %s: %s", b.ID, b.Status, b.Fault)
		}
	}
	return all
}

// create takes a backup that has to succeed.
func (w *world) create(args ...string) string {
	w.t.Helper()
	least := w.ledger.acknowledged()
	r := w.run(append([]string{"backup", "create"}, args...)...)
	if r.code != 0 {
		w.t.Fatalf("create %v: %v", args, r)
	}
	return w.made(r, least)
}

// made notes a backup that was told to be there.
func (w *world) made(r result, least int64) string {
	id := strings.TrimSpace(r.stdout)
	w.remember(id, span{least, w.ledger.begun()})
	return id
}

// verified has every object of the repository read.
func (w *world) verified() {
	w.t.Helper()
	if r := w.run("backup", "verify"); r.code != 0 {
		w.t.Errorf("verify: %v", r)
	}
	w.reachable()
}

// reachable looks, past our own checks, for every pack that a backup needs.
func (w *world) reachable() {
	w.t.Helper()
	there := map[string]bool{}
	must(w.t, filepath.WalkDir(filepath.Join(w.repo, "packs"), func(_ string, e fs.DirEntry, err error) error {
		if err == nil {
			there[e.Name()] = true
		}
		return err
	}))
	m := w.manager()
	for _, b := range w.list() {
		manifest, err := m.Repo().Manifest(w.t.Context(), b.ID)
		must(w.t, err)
		for _, p := range manifest.Packs {
			if !there[p.String()] {
				w.t.Errorf("%s needs pack %s, which is gone", b.ID, p)
			}
		}
	}
}

// disaster stops the server for good, and starts what is restored of some backups and of the newest log in its place.
func (w *world) disaster(rng *rand.Rand, some int) {
	w.t.Helper()
	w.ledger.close()
	w.stop(w.server)
	all := w.list()
	if len(all) == 0 {
		w.t.Fatal("no backup is left")
	}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	known := w.known()
	for _, b := range all[:min(some, len(all))] {
		has, told := known[b.ID]
		if !told {
			has = span{0, w.ledger.begun()} // its maker was killed before it could say so
		}
		w.revive(has, b.ID, "--immediate")
	}
}

// revive restores, starts, and compares with the ledger.
func (w *world) revive(has span, args ...string) {
	w.t.Helper()
	dir, err := os.MkdirTemp(w.home, "revived-*")
	must(w.t, err)
	must(w.t, w.owner.Own(dir))
	data := filepath.Join(dir, "data")
	if r := w.run(append([]string{"backup", "restore", "--to", data, "--start", "--yes"}, args...)...); r.code != 0 {
		said, _ := os.ReadFile(data + ".log")
		w.t.Errorf("restore %v: %v\n%s", args, r, said)
		return
	}
	s, err := pgserver.New(pgserver.Config{Installation: w.server.Installation(), DataDir: data, Foreign: true, RunAs: w.owner.Name, Logger: slog.New(slog.DiscardHandler)})
	must(w.t, err)
	must(w.t, s.Attach(w.t.Context()))
	w.ledger.check(w.t, s, has)
	w.stop(s)
	w.count("backups started and compared with the ledger", 1)
	must(w.t, os.RemoveAll(dir))
}

// ledger is a client that commits one number after the other, each together with a change elsewhere, and knows what it was told.
type ledger struct {
	mu       sync.Mutex
	sent, ok int64
	cancel   context.CancelFunc
	done     chan struct{}
}

const makeLedger = `
create table ledger (id bigint primary key, at timestamptz not null default now());
create table counters (id int primary key, n bigint not null default 0, filler text) with (fillfactor = 60);
insert into counters select g, 0, repeat(md5(g::text), 10) from generate_series(1, 4000) g;`

func newLedger(t *testing.T, s *pgserver.Server) *ledger {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.DSN("postgres"))
	must(t, err)
	_, err = conn.Exec(t.Context(), makeLedger)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	l := &ledger{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		defer func() { _ = conn.Close(context.Background()) }()
		if err := l.write(ctx, conn); err != nil {
			t.Errorf("the client: %v", err)
		}
	}()
	t.Cleanup(l.close)
	return l
}

func (l *ledger) write(ctx context.Context, conn *pgx.Conn) error {
	for pause := time.NewTicker(15 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		l.mu.Lock()
		l.sent++
		id := l.sent
		l.mu.Unlock()
		_, err := conn.Exec(context.WithoutCancel(ctx), `with entry as (insert into ledger (id) values ($1) returning id)
			update counters set n = n + 1 from entry where counters.id = 1 + entry.id * 7919 % 4000`, id)
		if err != nil {
			return err
		}
		l.mu.Lock()
		l.ok = id
		l.mu.Unlock()
	}
}

func (l *ledger) acknowledged() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ok
}

func (l *ledger) begun() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent
}

func (l *ledger) close() {
	l.cancel()
	<-l.done
}

// check compares a server with what the client was told.
func (l *ledger) check(t *testing.T, s *pgserver.Server, has span) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	must(t, err)
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var rows, newest, changes int64
	must(t, conn.QueryRow(ctx, "select count(*), coalesce(max(id), 0), (select sum(n) from counters) from ledger").Scan(&rows, &newest, &changes))
	if rows != newest || rows != changes || rows < has.least || rows > has.most {
		t.Errorf("%d entries up to %d and %d changes are there; %d to %d are right", rows, newest, changes, has.least, has.most)
	}
}

// files are the names in a folder of the repository; it may not be there.
func (w *world) files(folder string) []string {
	entries, err := os.ReadDir(filepath.Join(w.repo, folder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Error(err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
