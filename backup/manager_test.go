package backup_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rootstream/backup"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
	"rootstream/errs"
	"rootstream/pgserver"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/secret"
)

// world is a server with a table of letters, and a repository for its backups.
type world struct {
	*backup.Manager
	server  *pgserver.Server
	db      *postgres.DB // of the server
	history *postgres.DB
	metrics *prometheus.Registry
	cfg     backup.Config
	home    string
}

func key(text string) repo.Key {
	return repo.Key{Kind: repo.KeyFile, Secret: secret.FromString(strings.Repeat(text, 40))}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	server, err := pgserver.Throwaway(t.Context(), pgserver.ThrowawayConfig{SocketOnly: true, Params: map[string]string{"wal_level": "replica"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err = server.Discard(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	db, err := postgres.Open(t.Context(), postgres.Config{DSN: server.DSN("postgres"), MaxConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	home := filepath.Join(filepath.Dir(server.DataDir()), "home") // which the server's user can enter
	if err = server.Account().MkdirAll(home); err != nil {
		t.Fatal(err)
	}
	w := &world{server: server, db: db, history: postgrestest.New(t), metrics: prometheus.NewRegistry(), home: home}
	w.cfg = backup.Config{
		Repo: "file://" + filepath.Join(w.home, "repository"), Keys: []repo.Key{key("a")}, Create: true,
		DSN: secret.FromString(server.DSN("postgres")), PGData: server.DataDir(), History: w.history, Registerer: w.metrics,
		Retention: backup.Retention{Full: backup.Keep{Last: 1}, Incremental: backup.Keep{Last: 1}, Minimum: 1}, Logger: slog.New(slog.DiscardHandler),
	}
	if w.Manager, err = backup.Open(t.Context(), w.cfg); err != nil {
		t.Fatal(err)
	}
	w.write(t, "create table letters as select n, md5(n::text) body from generate_series(1, 1000) n")
	return w
}

func (w *world) write(t *testing.T, sql string) {
	t.Helper()
	if _, err := w.db.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func (w *world) take(t *testing.T, kind backup.Type) backup.Backup {
	t.Helper()
	b, err := w.Create(t.Context(), backup.CreateOptions{Type: kind, Annotations: map[string]string{"why": "a test"}})
	if err != nil {
		t.Fatalf("%s backup: %v", kind, err)
	}
	return b
}

// rows says what backup_history has of a status.
func (w *world) rows(t *testing.T, status string) (n int) {
	t.Helper()
	if err := w.history.QueryRow(t.Context(), "select count(*) from backup_history where status = $1", status).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func must[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestBackupsAreTakenLookedAtAndRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	full := w.take(t, backup.Full)
	w.write(t, "insert into letters select n, md5(n::text) from generate_series(1001, 1100) n")
	incremental := w.take(t, backup.Incremental)
	if incremental.Parent != full.ID || incremental.StoredBytes >= full.StoredBytes || w.rows(t, "completed") != 2 {
		t.Errorf("full %+v, incremental %+v, %d rows of backup_history", full, incremental, w.rows(t, "completed"))
	}
	d := must[backup.Details](t)(w.Show(t.Context(), backup.Latest))
	if d.ID != incremental.ID || len(d.Annotations) != 1 || d.Files < 900 || len(d.Settings) == 0 {
		t.Errorf("the latest: %+v", d)
	}
	if _, err := w.Show(t.Context(), "20200101T000000Z-f-0000"); errs.KindOf(err) != errs.NotFound {
		t.Errorf("a backup that is not there: %v", err)
	}
	if found := must[[]backup.Finding](t)(w.Verify(t.Context(), backup.VerifyOptions{})); len(found) != 0 {
		t.Errorf("verify: %+v", found)
	}
	windows := must[[]backup.Window](t)(w.Windows(t.Context()))
	if n := len(windows); n == 0 || windows[n-1].From > incremental.StopLSN { // nobody archives: between the two log may be missing
		t.Errorf("windows: %+v", windows)
	}
	if err := w.Pin(t.Context(), full.ID, true); err != nil {
		t.Fatal(err)
	}
	if done := must[backup.Removal](t)(w.Prune(t.Context(), false)); len(done.Backups) != 0 {
		t.Errorf("pruned although pinned: %+v", done)
	}
	if err := w.Pin(t.Context(), full.ID, false); err != nil {
		t.Fatal(err)
	}
	next := w.take(t, backup.Full)
	if done := must[backup.Removal](t)(w.Prune(t.Context(), false)); len(done.Backups) != 1 || done.Backups[0] != full.ID || w.rows(t, "completed") != 2 {
		t.Errorf("pruned %+v, %d rows of backup_history", done, w.rows(t, "completed"))
	}
	must[backup.Removal](t)(w.Delete(t.Context(), []string{incremental.ID}, false))
	if left := must[[]backup.Backup](t)(w.List(t.Context())); len(left) != 1 || left[0].ID != next.ID {
		t.Errorf("left: %+v", left)
	}
	segment := wal.SegmentName(1, next.StartLSN, wal.DefaultSegmentSize)
	for _, file := range must[[]string](t)(filepath.Glob(filepath.Join(w.home, "repository/clusters/*/wal/00000001", segment+"-*"))) {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	if found := must[[]backup.Finding](t)(w.Verify(t.Context(), backup.VerifyOptions{})); len(found) != 1 || found[0].Backups[0] != next.ID {
		t.Errorf("without the log of %s: %+v", next.ID, found)
	}
}

func TestARestoreIsProvenAndMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.take(t, backup.Full)
	w.write(t, "insert into letters select n, md5(n::text) from generate_series(1001, 1100) n")
	b := w.take(t, backup.Differential)
	recovery := w.Recovery("/nonexistent/fetch") // only where the server runs as our own user
	if w.server.Account().Foreign() {
		if proof := must[backup.Proof](t)(recovery.TestRestore(t.Context(), backup.TestRestoreOptions{Dir: w.home})); !proof.OK || proof.Seconds <= 0 {
			t.Errorf("test restore: %+v", proof)
		}
		if listed := must[[]backup.Backup](t)(w.List(t.Context())); listed[0].Proof == nil || !listed[0].Proof.OK {
			t.Errorf("after the proof: %+v", listed[0])
		}
	}
	past := backup.RestoreOptions{Spec: backup.RestoreSpec{Time: "2020-01-01T00:00:00Z"}, To: filepath.Join(w.home, "past")}
	if _, err := recovery.Restore(t.Context(), past); errs.KindOf(err) != errs.Precondition {
		t.Errorf("a time outside of the window: %v", err)
	}
	to := backup.RestoreOptions{Spec: backup.RestoreSpec{Backup: b.ID, Immediate: true}, To: filepath.Join(w.home, "restored")}
	done := must[backup.Restored](t)(recovery.Restore(t.Context(), to))
	if done.Backup != b.ID || done.Files < 900 || done.Owner != w.server.Account().Name || done.Started {
		t.Errorf("restored: %+v", done)
	}
	again := to
	again.Mode = backup.InPlace
	if done = must[backup.Restored](t)(recovery.Restore(t.Context(), again)); done.Kept == "" {
		t.Errorf("in place: %+v", done)
	}
	if err := recovery.Rollback(to.To); err != nil {
		t.Error(err)
	}
}

func TestKeysOfTheRepositoryAreChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	opens := func(k repo.Key) error {
		cfg := w.cfg
		cfg.Create, cfg.Keys, cfg.Registerer = false, []repo.Key{k}, nil
		_, err := backup.Open(t.Context(), cfg)
		return err
	}
	id := must[string](t)(w.AddKey(t.Context(), key("b")))
	if err := errors.Join(opens(key("a")), opens(key("b"))); err != nil {
		t.Fatal(err)
	}
	if err := w.RemoveKey(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := opens(key("b")); errs.KindOf(err) != errs.Forbidden {
		t.Errorf("with a key that was removed: %v", err)
	}
	must[string](t)(w.RotateKey(t.Context(), key("c")))
	if err := opens(key("a")); errs.KindOf(err) != errs.Forbidden {
		t.Errorf("with the key before: %v", err)
	}
	if keys := must[[]backup.Key](t)(w.Keys(t.Context())); len(keys) != 1 || opens(key("c")) != nil {
		t.Errorf("keys: %+v", keys)
	}
}

func TestAFailedBackupIsOnRecordAndGaugesTellWhatIsThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.cfg
	cfg.PGData, cfg.Registerer = t.TempDir(), nil
	elsewhere := must[*backup.Manager](t)(backup.Open(t.Context(), cfg))
	if _, err := elsewhere.Create(t.Context(), backup.CreateOptions{}); err == nil || w.rows(t, "failed") != 1 {
		t.Errorf("of a folder that is not the server's: %v, %d failed on record", err, w.rows(t, "failed"))
	}
	w.take(t, backup.Full)
	running, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	watch := w.Watch(20 * time.Millisecond)
	go func() { ended <- watch.Run(running) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	for seen := map[string]bool{}; !seen["rootstream_backup_last_success_timestamp_seconds"]; {
		if running.Err() != nil {
			t.Fatal("no gauges")
		}
		for _, family := range gathered(t, w.metrics) {
			seen[family] = true
		}
	}
}

// gathered are the names of the gauges.
func gathered(t *testing.T, from prometheus.Gatherer) (names []string) {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		names = append(names, f.GetName())
	}
	return names
}
