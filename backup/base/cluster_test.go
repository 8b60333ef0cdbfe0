package base_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"rootstream/backup/base"
	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/backup/storage/file"
	"rootstream/backup/wal"
	"rootstream/internal/proc"
	"rootstream/internal/wait"
	"rootstream/pgserver"
	"rootstream/secret"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(takeAsChild())
	}
	goleak.VerifyTestMain(m)
}

// childEnv makes this program take a backup, to be killed at it.
const childEnv = "BASE_TEST_TAKE"

type childRun struct{ Repo, DSN, PGData, Archive string }

func takeAsChild() int {
	var run childRun
	if err := json.Unmarshal([]byte(os.Getenv(childEnv)), &run); err != nil {
		return 2
	}
	st, err := file.Open(run.Repo, false)
	if err != nil {
		return 3
	}
	r, err := repo.Open(context.Background(), st, keys(), repo.Config{LeaseTTL: childTTL, PackSize: 1 << 20, Logger: quiet()})
	if err != nil {
		return 4
	}
	c := &cluster{archive: run.Archive}
	cfg := base.Config{DSN: run.DSN, PGData: run.PGData, Workers: 2, Rate: 20 << 20, Logger: quiet(), Progress: func(p base.Progress) {
		_, _ = fmt.Fprintln(os.Stdout, p.Phase, p.Stored)
	}}
	if _, err = base.Take(context.Background(), cfg, r, c.archived); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

const childTTL = 2 * time.Second // a killed run is dead after so long

// cluster is a server that archives into a folder, and a repository.
type cluster struct {
	t       *testing.T
	server  *pgserver.Server
	archive string
	storage *file.Storage
	repo    *repo.Repo
}

// overTCP among the parameters says that the server listens on a port too.
const overTCP = "over tcp"

func newCluster(t *testing.T, params map[string]string) *cluster {
	t.Helper()
	c := &cluster{t: t}
	account, err := proc.Unprivileged("postgres", "nobody")
	if os.Geteuid() != 0 {
		account, err = proc.Current()
	}
	if err != nil {
		t.Fatal(err)
	}
	c.archive = filepath.Join(shared(t), "archive")
	if err = account.MkdirAll(c.archive); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{
		"archive_mode": "on", "archive_command": "cp %p " + c.archive + "/.%f && mv " + c.archive + "/.%f " + c.archive + "/%f",
		"wal_level": "replica", "max_wal_senders": "4", "autovacuum": "off", "full_page_writes": "on",
	}
	maps.Copy(all, params)
	delete(all, overTCP)
	_, tcp := params[overTCP]
	c.server, err = pgserver.Throwaway(t.Context(), pgserver.ThrowawayConfig{SocketOnly: !tcp, Params: all})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if failed := c.server.Discard(context.WithoutCancel(t.Context())); failed != nil {
			t.Error(failed)
		}
	})
	c.storage, c.repo = newRepo(t)
	return c
}

// shared is a folder for the test that the server's user may enter.
func shared(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "base-test-*") //nolint:usetesting // the server's user cannot enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func newRepo(t *testing.T) (*file.Storage, *repo.Repo) {
	t.Helper()
	st, err := file.Open(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	r, err := repo.Open(t.Context(), st, keys(), repo.Config{Create: true, LeaseTTL: 20 * time.Second, PackSize: 4 << 20, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	return st, r
}

func keys() []repo.Key {
	return []repo.Key{{Secret: secret.FromString(strings.Repeat("k", 32)), Kind: repo.KeyFile}}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (c *cluster) config(kind repo.Type) base.Config {
	return base.Config{DSN: c.server.DSN("postgres"), PGData: c.server.DataDir(), Type: kind, Workers: 2, Logger: quiet(), Tool: "test"}
}

// archived is what waits for the log: each segment is in the archive's folder.
func (c *cluster) archived(ctx context.Context, size uint32, r wal.Range) error {
	for name := range r.Segments(size) {
		for {
			if _, err := os.Stat(filepath.Join(c.archive, name)); err == nil {
				break
			}
			if err := wait.For(ctx, 5*time.Millisecond); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

func (c *cluster) take(kind repo.Type) repo.Manifest {
	c.t.Helper()
	m, err := base.Take(c.t.Context(), c.config(kind), c.repo, c.archived)
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

func (c *cluster) connect() *pgx.Conn {
	c.t.Helper()
	return connect(c.t, c.server.DSN("postgres"))
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func (c *cluster) exec(statements ...string) {
	c.t.Helper()
	conn := c.connect()
	for _, sql := range statements {
		if _, err := conn.Exec(c.t.Context(), sql); err != nil {
			c.t.Fatalf("%s: %v", sql, err)
		}
	}
	_ = conn.Close(c.t.Context())
}

func (c *cluster) pgbench(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, c.server.Installation().Bin("pgbench"), args...)
	cmd.Env = append(os.Environ(), "PGHOST="+c.server.SocketDir(), "PGPORT="+strconv.Itoa(c.server.Port()), "PGUSER="+c.server.Superuser(), "PGDATABASE=postgres")
	if out, err := cmd.CombinedOutput(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("pgbench: %w: %s", err, out)
	}
	return nil
}

// restore puts a backup's files into a new folder and returns it. It is as plain as can be: one file after the other.
func restore(t *testing.T, r *repo.Repo, m repo.Manifest, as proc.Account) string {
	t.Helper()
	dir := filepath.Join(shared(t), "data")
	spaces := 0
	links := map[string]string{}
	for f, err := range r.Files(t.Context(), m) {
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, f.Path)
		switch f.Kind {
		case repo.Dir:
			err = os.MkdirAll(name, 0o700)
		case repo.Symlink:
			spaces++
			links[name] = filepath.Join(filepath.Dir(dir), "space"+strconv.Itoa(spaces))
			if err = os.MkdirAll(links[name], 0o700); err == nil {
				err = errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.Symlink(links[name], name))
			}
		case repo.Regular:
			err = errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, content(t, r, f), 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "backup_label"), m.Label, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("chown", "-R", fmt.Sprintf("%d:%d", as.UID, as.GID), filepath.Dir(dir)).Run(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// content reads a file's content and compares it with its hash.
func content(t *testing.T, r *repo.Repo, f repo.File) []byte {
	t.Helper()
	data := make([]byte, 0, f.Size)
	for _, e := range f.Extents {
		piece := make([]byte, e.Pages*pgdata.PageSize)
		if e.Blob.Raw > 0 {
			plain, err := r.Read(t.Context(), e.Blob, nil)
			if err != nil {
				t.Fatalf("%s: %v", f.Path, err)
			}
			copy(piece, plain[e.At*pgdata.PageSize:])
		}
		data = append(data, piece...)
	}
	data = data[:f.Size]
	h := r.NewHasher()
	var hashes []byte
	for at := 0; at < len(data); at += pgdata.PageSize {
		sum := h.Sum(data[at:min(at+pgdata.PageSize, len(data))])
		hashes = append(hashes, sum[:]...)
	}
	if h.Sum(hashes) != f.Hash {
		t.Errorf("%s: its content is not what its hash says", f.Path)
	}
	var listed []byte
	for some, err := range r.PageHashes(t.Context(), f) {
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range some {
			listed = append(listed, one[:]...)
		}
	}
	if len(listed) > 0 && string(listed) != string(hashes) {
		t.Errorf("%s: its list of page hashes is not that of its pages", f.Path)
	}
	return data
}

// recover starts a server on a restored folder and lets it replay the archive up to the end of the backup.
func (c *cluster) recover(m repo.Manifest) *pgserver.Server {
	t := c.t
	t.Helper()
	dir := restore(t, c.repo, m, c.server.Account())
	settings := "\nrestore_command = 'cp " + c.archive + "/%f %p'\nrecovery_target = 'immediate'\nrecovery_target_action = 'promote'\n" +
		"recovery_target_timeline = 'current'\narchive_mode = off\nlisten_addresses = ''\nport = 5432\n"
	for name, text := range map[string]string{"recovery.signal": "", "postgresql.auto.conf": settings} {
		if err := c.server.Account().WriteFile(filepath.Join(dir, name), text, false); err != nil {
			t.Fatal(err)
		}
	}
	s, err := pgserver.New(pgserver.Config{
		Installation: c.server.Installation(), DataDir: dir, SocketDir: filepath.Join(filepath.Dir(dir), "s"), LogFile: filepath.Join(filepath.Dir(dir), "log"),
		PassFile: filepath.Join(filepath.Dir(dir), "pass"), Params: map[string]string{"fsync": "off", "max_connections": "300"}, TrustLocal: true, NoSync: true, DieWithParent: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err = s.Start(t.Context()); err != nil {
		log, _ := os.ReadFile(s.LogFile())
		t.Fatalf("%v\n%s", err, log)
	}
	t.Cleanup(func() { _ = s.Stop(context.WithoutCancel(t.Context()), pgserver.Immediate) })
	conn := connect(t, s.DSN("postgres"))
	for recovering := true; recovering; {
		if err = conn.QueryRow(t.Context(), "select pg_is_in_recovery()").Scan(&recovering); err != nil {
			t.Fatal(err)
		}
		if err = wait.For(t.Context(), 10*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// requireSound asks the restored server's own tools, and reads every page.
func requireSound(t *testing.T, s *pgserver.Server) {
	t.Helper()
	conn := connect(t, s.DSN("postgres"))
	var branches, tellers, accounts, history int64
	if err := conn.QueryRow(t.Context(), `select (select sum(bbalance) from pgbench_branches), (select sum(tbalance) from pgbench_tellers),
		(select sum(abalance) from pgbench_accounts), (select coalesce(sum(delta), 0) from pgbench_history)`).
		Scan(&branches, &tellers, &accounts, &history); err != nil {
		t.Fatal(err)
	}
	if branches != tellers || tellers != accounts || accounts != history {
		t.Errorf("branches %d, tellers %d, accounts %d, history %d", branches, tellers, accounts, history)
	}
	for _, sql := range []string{
		"create extension if not exists amcheck",
		`select bt_index_check(c.oid, true) from pg_class c join pg_am a on a.oid = c.relam
			where a.amname = 'btree' and c.relkind = 'i' and c.relpersistence = 'p'`,
		"checkpoint",
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	var broken int
	if err := conn.QueryRow(t.Context(), `select count(v) from pg_class c, verify_heapam(c.oid) v where c.relkind in ('r', 't', 'm') and c.relpersistence = 'p'`).
		Scan(&broken); err != nil || broken > 0 {
		t.Errorf("%d faults in tables, %v", broken, err)
	}
	requirePages(t, s.DataDir())
}

func requirePages(t *testing.T, dir string) {
	t.Helper()
	control, _, err := pgdata.ReadControl(dir)
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range pgdata.Walk(t.Context(), dir, 15, control.Catalog) {
		if err != nil {
			t.Fatal(err)
		}
		if !e.Blocks {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, e.Path))
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; n+8192 <= len(raw); n += 8192 {
			if pgdata.CheckPage(raw[n:n+8192], uint32(n/8192)) == pgdata.Torn {
				t.Errorf("%s, page %d: wrong checksum", e.Path, n/8192)
			}
		}
	}
}
