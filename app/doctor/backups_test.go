package doctor_test

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rootstream/app/apptest"
	"rootstream/app/backups"
	"rootstream/app/config"
	"rootstream/app/doctor"
	"rootstream/backup/storage/storagetest"
	"rootstream/pgserver"
)

// backedUp is a system with a repository to be, and a server of its own that is backed up.
func backedUp(t *testing.T) (flags apptest.Settings, key, folder string) {
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
	key, folder = apptest.File(t, "backup.key", strings.Repeat("b", 40)), filepath.Join(t.TempDir(), "repo")
	return apptest.With(apptest.System(t), apptest.Settings{
		"backup.repo": "file://" + folder, "backup.key_file": key, "backup.dsn": s.DSN("postgres"), "backup.pgdata": s.DataDir(),
	}), key, folder
}

func backUp(t *testing.T, flags apptest.Settings) {
	t.Helper()
	cfg, err := config.Load(config.Source{Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	b, err := backups.Open(t.Context(), cfg, backups.Options{Create: true, Stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Create(t.Context(), backups.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// later is what the doctor says after a while.
func later(t *testing.T, flags apptest.Settings, after time.Duration) diagnosis {
	t.Helper()
	found := diagnosis{}
	for _, f := range doctor.ExamineAt(t.Context(), doctor.Options{Source: config.Source{Flags: flags}}, time.Now().Add(after)) {
		found[f.Name] = f
	}
	return found
}

func backupsOf(t *testing.T, flags apptest.Settings) doctor.PartStatus {
	t.Helper()
	cfg, err := config.Load(config.Source{Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	parts, err := doctor.Status(t.Context(), config.Target{Config: cfg})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		if p.Name == "backups" {
			return p
		}
	}
	t.Fatal("status has no part backups")
	return doctor.PartStatus{}
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

	other := apptest.With(flags, apptest.Settings{"backup.key_file": apptest.File(t, "other.key", strings.Repeat("c", 40))})
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

// The doctor tries without leaving anything: a bucket may be one that nothing can be deleted from.
func TestDoctorTellsOfABucketThatCannotBeWrittenTo(t *testing.T) {
	t.Parallel()
	address, folder := storagetest.S3(t)
	flags, _, _ := backedUp(t)
	in := func(address string) apptest.Settings {
		return apptest.With(flags, apptest.Settings{
			"backup.repo": "s3://" + storagetest.Bucket + "/main", "backup.s3.endpoint": "http://" + address, "backup.s3.path_style": "true",
			"backup.s3.access_key": storagetest.AccessKey, "backup.s3.secret_key": storagetest.SecretKey,
		})
	}
	backUp(t, in(address))
	before := files(t, folder)
	if d := diagnose(t, in(address)); d.failed() != "" || !strings.Contains(d["backup_repository_writes"].Detail, "lets us write") {
		t.Errorf("%q, %+v", d.failed(), d["backup_repository_writes"])
	}
	diagnose(t, in(storagetest.ReadOnly(t, address))).expect(t, "backup_repository_writes", "does not let us", "PutObject")
	if diff := cmp.Diff(before, files(t, folder)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

// files are those in a folder, with their times.
func files(t *testing.T, dir string) map[string]time.Time {
	t.Helper()
	all := map[string]time.Time{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = e.Info(); err == nil {
				all[path] = info.ModTime()
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
