package app_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rootstream/app"
	"rootstream/pgserver"
)

// backedUp is a system with a repository to be, and a server of its own that is backed up.
func backedUp(t *testing.T) (flags settings, key, folder string) {
	t.Helper()
	s, err := pgserver.Throwaway(t.Context(), pgserver.ThrowawayConfig{Params: map[string]string{"wal_level": "replica"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Discard(context.Background()); err != nil {
			t.Error(err)
		}
	})
	key, folder = write(t, "backup.key", strings.Repeat("b", 40)), filepath.Join(t.TempDir(), "repo")
	return with(system(t), settings{
		"backup.repo": "file://" + folder, "backup.key_file": key, "backup.dsn": s.DSN("postgres"), "backup.pgdata": s.DataDir(),
	}), key, folder
}

func backUp(t *testing.T, flags settings) {
	t.Helper()
	cfg, err := app.Load(app.Source{Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	b, err := app.OpenBackups(t.Context(), cfg, app.BackupOptions{Create: true, Stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Create(t.Context(), app.CreateBackup{}); err != nil {
		t.Fatal(err)
	}
}

// later is what the doctor says after a while.
func later(t *testing.T, flags settings, after time.Duration) diagnosis {
	t.Helper()
	found := diagnosis{}
	for _, f := range app.DoctorAt(t.Context(), app.DoctorOptions{Source: app.Source{Flags: flags}}, time.Now().Add(after)) {
		found[f.Name] = f
	}
	return found
}

func backupsOf(t *testing.T, flags settings) app.PartStatus {
	t.Helper()
	cfg, err := app.Load(app.Source{Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	parts, err := app.Status(t.Context(), app.Target{Config: cfg})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		if p.Name == "backups" {
			return p
		}
	}
	t.Fatal("status has no part backups")
	return app.PartStatus{}
}

func TestDoctorAndStatusTellOfBackups(t *testing.T) {
	t.Parallel()
	flags, key, folder := backedUp(t)
	if d := diagnose(t, flags); d.failed() != "" || !strings.Contains(d["backup_repository"].Detail, "none yet") {
		t.Errorf("backups were only just set up: %q %+v", d.failed(), d["backup_repository"])
	}
	later(t, flags, 2*time.Hour).expect(t, "backup_repository", "is no repository", "the first backup makes it")
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("a look made the repository: %v", err)
	}

	backUp(t, flags)
	d := diagnose(t, flags)
	if d.failed() != "" {
		t.Errorf("wrong is %s: %+v", d.failed(), d)
	}
	for _, name := range []string{"backup_repository", "backup_newest", "backup_proof", "backup_log", "backup_slot"} {
		if _, ok := d[name]; !ok {
			t.Errorf("nothing was said about %s", name)
		}
	}
	if s := backupsOf(t, flags); s.State != "up" || !strings.HasPrefix(s.Detail, "1, the newest 0 min old, never test-restored; log up to ") {
		t.Errorf("status says %+v", s)
	}
	if got := later(t, flags, 9*24*time.Hour).failed(); !strings.Contains(got, "backup_newest") || !strings.Contains(got, "backup_proof") {
		t.Errorf("nine days later wrong is %q", got)
	}

	other := with(flags, settings{"backup.key_file": write(t, "other.key", strings.Repeat("c", 40))})
	diagnose(t, other).expect(t, "backup_repository", "none of the keys given opens the repository", "key")
	if s := backupsOf(t, other); !s.Down() {
		t.Errorf("status with another key: %+v", s)
	}
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	diagnose(t, flags).expect(t, "backup_repository", "backup.key_file", "put the key file back")
}

func TestDoctorFindsLogThatTheNewestBackupLacks(t *testing.T) {
	t.Parallel()
	flags, _, folder := backedUp(t)
	backUp(t, flags)
	logs, err := filepath.Glob(folder + "/clusters/*/wal")
	if err != nil || len(logs) != 1 {
		t.Fatalf("the repository's log: %v %v", logs, err)
	}
	if err := os.RemoveAll(logs[0]); err != nil {
		t.Fatal(err)
	}
	diagnose(t, flags).expect(t, "backup_log", "after the newest backup", "rootstream wal gaps")
	if s := backupsOf(t, flags); !s.Down() {
		t.Errorf("status: %+v", s)
	}
}
