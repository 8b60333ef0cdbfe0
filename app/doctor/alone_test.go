package doctor_test

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rootstream/app/apptest"
	"rootstream/app/config"
	"rootstream/app/doctor"
	"rootstream/pgserver"
)

// backupsOnly is a machine where nothing is set up but backups of a server.
func backupsOnly(t *testing.T, params map[string]string) (*pgserver.Server, apptest.Settings) {
	t.Helper()
	all := map[string]string{"wal_level": "replica"}
	maps.Copy(all, params)
	s, err := pgserver.Throwaway(t.Context(), pgserver.ThrowawayConfig{SocketOnly: true, Params: all})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Discard(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s, apptest.Settings{
		"backup.repo": "file://" + filepath.Join(t.TempDir(), "repo"), "backup.key_file": apptest.File(t, "backup.key", strings.Repeat("b", 40)),
		"backup.dsn": s.DSN("postgres"), "backup.pgdata": s.DataDir(),
	}
}

func TestDoctorKnowsAMachineThatOnlyTakesBackups(t *testing.T) {
	t.Parallel()
	server, flags := backupsOnly(t, nil)
	if d := diagnose(t, flags); d.failed() != "" || !strings.Contains(d["backup_repository"].Detail, "none yet") {
		t.Errorf("before the first backup wrong is %q: %+v", d.failed(), d)
	}
	backUp(t, flags)
	d := diagnose(t, flags)
	if d.failed() != "" || !strings.Contains(d["stack"].Detail, "only backups") {
		t.Errorf("wrong is %q: %+v", d.failed(), d)
	}
	for _, name := range []string{
		"configuration", "stack", "backup_server", "backup_pgdata", "backup_repository", "backup_newest", "backup_proof", "backup_log",
		"backup_archiving", "backup_repository_folder", "backup_spool",
	} {
		if _, ok := d[name]; !ok {
			t.Errorf("nothing was said about %s", name)
		}
	}
	for _, name := range []string{"postgresql", "schema", "redis", "master_key", "api", "http_port", "data_folder"} {
		if f, ok := d[name]; ok {
			t.Errorf("it looked at what is not set up: %+v", f)
		}
	}
	if got := later(t, flags, 9*24*time.Hour).failed(); !strings.Contains(got, "backup_newest") || !strings.Contains(got, "backup_proof") {
		t.Errorf("nine days later wrong is %q", got)
	}
	diagnose(t, apptest.With(flags, apptest.Settings{"backup.key_file": apptest.File(t, "other.key", strings.Repeat("c", 40))})).
		expect(t, "backup_repository", "none of the keys given opens the repository", "key")
	diagnose(t, apptest.With(flags, apptest.Settings{"backup.pgdata": t.TempDir()})).expect(t, "backup_pgdata", "no such file", "backup.pgdata")

	if err := server.Stop(t.Context(), pgserver.Immediate); err != nil {
		t.Fatal(err)
	}
	diagnose(t, flags).expect(t, "backup_server", "failed to connect", "to restore, no server is needed")
	parts := statusOf(t, flags)
	if len(parts) != 1 || parts["backups"].State != "up" {
		t.Errorf("status says %+v", parts)
	}
	for _, name := range []string{"backup.dsn", "backup.pgdata"} {
		delete(flags, name)
	}
	if d := diagnose(t, flags); d.failed() != "" || !strings.Contains(d["backup_server"].Detail, "none is configured") {
		t.Errorf("where there is only the repository, wrong is %q: %+v", d.failed(), d)
	}
}

func TestDoctorFindsLogThatNobodyBrings(t *testing.T) {
	t.Parallel()
	server, flags := backupsOnly(t, map[string]string{"archive_mode": "on", "archive_command": "false"})
	apptest.Exec(t, server.DSN("postgres"), "create table t ()", "select pg_switch_wal()")
	backUp(t, flags)
	deadline := time.Now().Add(time.Minute)
	for d := diagnose(t, flags); d["backup_archiving"].OK; d = diagnose(t, flags) { // until the server has tried
		if time.Now().After(deadline) {
			t.Fatalf("it says %+v", d["backup_archiving"])
		}
	}
	diagnose(t, flags).expect(t, "backup_archiving", "could not archive 0000000100000000000000", "rootstream wal push")

	apptest.Exec(t, server.DSN("postgres"), "alter system set archive_command = 'true'", "select pg_reload_conf()",
		"select pg_create_physical_replication_slot('rootstream_wal', true)")
	for d := diagnose(t, flags); !strings.Contains(d["backup_archiving"].Detail, "nobody streams from slot rootstream_wal"); d = diagnose(t, flags) {
		if time.Now().After(deadline) {
			t.Fatalf("it says %+v", d["backup_archiving"])
		}
	}
}

func TestDoctorNamesAFolderThatIsAnotherServers(t *testing.T) {
	t.Parallel()
	_, flags := backupsOnly(t, nil)
	other, _ := backupsOnly(t, nil)
	diagnose(t, apptest.With(flags, apptest.Settings{"backup.pgdata": other.DataDir()})).
		expect(t, "backup_pgdata", "and the server of", "name the same server")
}

func TestAStackThatIsAskedForIsLookedForBesideBackups(t *testing.T) {
	t.Parallel()
	flags := apptest.Settings{"backup.repo": "file://" + t.TempDir(), "http.listen": apptest.FreeAddress(t)}
	dir := filepath.Join(t.TempDir(), "nothing")
	for _, f := range doctor.Examine(t.Context(), doctor.Options{Source: config.Source{Flags: flags}, DataDir: dir}) {
		if f.Name == "stack" && (f.OK || !strings.Contains(f.Detail, dir)) {
			t.Errorf("%+v", f)
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("a look made the folder: %v", err)
	}
}
