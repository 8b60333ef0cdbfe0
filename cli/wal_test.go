package cli_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/backup/archive"
	"rootstream/backup/archive/ledger"
	"rootstream/pgserver"
)

// walSite is a server that archives with the program, and the repository it archives into.
type walSite struct {
	program
	*pgserver.Server
	dir, repo, key string
}

func newWALSite(t *testing.T) *walSite {
	t.Helper()
	s := &walSite{program: newProgram(t, nil)}
	s.dir = filepath.Dir(s.path)
	s.repo, s.key = "file://"+filepath.Join(s.dir, "repository", "wal"), filepath.Join(s.dir, "backup.key")
	server, err := pgserver.Throwaway(t.Context(), pgserver.ThrowawayConfig{SocketOnly: true, Params: map[string]string{
		"archive_mode": "on", "archive_command": archive.PushCommand(s.argv("push")...), "wal_keep_size": "1GB",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := server.Discard(ctx); err != nil {
			t.Error(err)
		}
	})
	s.Server = server
	if err := os.WriteFile(s.key, []byte(strings.Repeat("a key of 32 bytes or more ", 2)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(s.dir, "repository"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{s.key, filepath.Join(s.dir, "repository")} {
		if err := os.Chown(path, int(server.Account().UID), int(server.Account().GID)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// argv is how PostgreSQL calls a command for files.
func (s *walSite) argv(name string, more ...string) []string {
	return append([]string{s.path, "wal", name, "--repo", s.repo, "--key-file", s.key}, more...)
}

func (s *walSite) exec(t *testing.T, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	var text string
	if err := conn.QueryRow(t.Context(), sql).Scan(&text); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return text
}

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func TestWriteAheadLogIsPushedLookedAtAndFetched(t *testing.T) {
	t.Parallel()
	s := newWALSite(t)
	s.exec(t, "select pg_create_restore_point('something to archive')::text")
	for range 4 {
		s.exec(t, "select pg_switch_wal()::text")
		s.exec(t, "select pg_create_restore_point('something to archive')::text")
	}
	within(t, "four segments are archived", func() bool { return s.exec(t, "select archived_count::text from pg_stat_archiver") >= "4" })
	if failed := s.exec(t, "select failed_count::text from pg_stat_archiver"); failed != "0" {
		t.Errorf("%s failures", failed)
	}
	flags := []string{"--repo", s.repo, "--key-file", s.key}
	code, out, _ := s.run("", append([]string{"wal", "gaps", "-o", "json"}, flags...)...)
	var entries []ledger.Entry
	if err := json.Unmarshal([]byte(out), &entries); err != nil || code != 0 || len(entries) != 1 || entries[0].Status != ledger.Found {
		t.Fatalf("exit code %d, %v: %s", code, err, out)
	}
	code, out, stderr := s.run("", append([]string{"wal", "status", "-o", "json", "--dsn", s.DSN("postgres")}, flags...)...)
	var status []ledger.Status
	if err := json.Unmarshal([]byte(out), &status); err != nil || code != 0 || len(status) != 1 || status[0].Archived != entries[0].To || status[0].Server == nil {
		t.Fatalf("exit code %d, %v: %s%s", code, err, out, stderr)
	}
	ahead := filepath.Join(s.dir, "ahead")
	segments, err := filepath.Glob(filepath.Join(s.DataDir(), "pg_wal", "0000*"))
	if err != nil || len(segments) < 4 {
		t.Fatalf("%v, %v", segments, err)
	}
	slices.Sort(segments)
	dest := filepath.Join(s.dir, "RECOVERYXLOG")
	code, _, stderr = s.run("", append([]string{"wal", "fetch", "--ahead-dir", ahead, "--ahead", "2", filepath.Base(segments[0]), dest}, flags...)...)
	want, _ := os.ReadFile(segments[0])
	have, _ := os.ReadFile(dest)
	if code != 0 || len(have) == 0 || string(have) != string(want) {
		t.Errorf("exit code %d, %d bytes: %s", code, len(have), stderr)
	}
	for _, next := range segments[1:3] {
		within(t, "what follows is fetched ahead", func() bool {
			_, missing := os.Stat(filepath.Join(ahead, filepath.Base(next)))
			return missing == nil
		})
	}
	if err = os.Remove(dest); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]int{
		"wal fetch 00000009.history DEST":                                 42,
		"wal fetch 0000000100000000000000FF DEST":                         42,
		"wal fetch --no-such-flag 00000009.history DEST":                  2,
		"wal fetch --system-id many 00000009.history DEST":                2,
		"wal fetch 00000009.history DEST --key-file /nowhere":             4,
		"wal fetch 00000009.history DEST --repo file:///proc/self/nobody": 3,
		"wal push /nowhere/000000010000000000000001":                      2,
		"wal push /etc/hostname":                                          2,
	} {
		words := strings.Fields(strings.ReplaceAll(args, "DEST", dest))
		if code, _, stderr := s.run("", append(append(words[:2:2], flags...), words[2:]...)...); code != want {
			t.Errorf("%s: exit code %d, not %d: %s", args, code, want, stderr)
		}
		if _, missing := os.Stat(dest); missing == nil {
			t.Errorf("%s: something is delivered", args)
		}
	}
	lost, err := filepath.Glob(filepath.Join(s.dir, "repository", "wal", "clusters", "*", "wal", "00000001", filepath.Base(segments[2])+"-*"))
	if err != nil || len(lost) != 1 || os.Remove(lost[0]) != nil {
		t.Fatalf("%v, %v", lost, err)
	}
	if code, out, _ := s.run("", append([]string{"wal", "gaps"}, flags...)...); code != 8 || !strings.Contains(out, ledger.Missing) {
		t.Errorf("exit code %d: %s", code, out)
	}
	if code, _, _ := s.run("", append([]string{"wal", "status"}, flags...)...); code != 8 {
		t.Errorf("status with a gap: exit code %d", code)
	}
}

// TestARecoveryStopsWhereTheProgramCannotTell: PostgreSQL promotes on most exit codes.
func TestARecoveryStopsWhereTheProgramCannotTell(t *testing.T) {
	t.Parallel()
	s := newWALSite(t)
	s.exec(t, "select pg_switch_wal()::text")
	within(t, "a segment is archived", func() bool { return s.exec(t, "select archived_count::text from pg_stat_archiver") >= "1" })
	if err := s.Stop(t.Context(), pgserver.Fast); err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(s.dir, "wrong.key")
	if err := os.WriteFile(wrong, []byte(strings.Repeat("another key, which opens nothing", 2)), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what     string
		argv     []string
		promotes bool
	}{
		{"a missing key", s.argv("fetch", "--key-file", "/nowhere/backup.key"), false},
		{"a wrong key", s.argv("fetch", "--key-file", wrong), false},
		{"a bad flag", s.argv("fetch", "--no-such-flag"), false},
		{"a repository that is not there", s.argv("fetch", "--repo", "file://"+s.dir+"/nothing"), false},
		{"a repository that nobody may read", s.argv("fetch", "--repo", "file:///root/repository"), false},
		{"proven absence", s.argv("fetch", "--ahead", "0"), true},
	} {
		config := "restore_command = '" + strings.ReplaceAll(archive.RestoreCommand(tt.argv...), "'", "''") + "'\n"
		for name, text := range map[string]string{"postgresql.auto.conf": config, "recovery.signal": ""} {
			if err := s.Account().WriteFile(filepath.Join(s.DataDir(), name), text, false); err != nil {
				t.Fatal(err)
			}
		}
		err := s.Start(t.Context())
		if tt.promotes {
			if err != nil {
				t.Fatal(err)
			}
			within(t, "it is promoted", func() bool { return s.exec(t, "select pg_is_in_recovery()::text") == "false" })
			continue
		}
		if history, _ := filepath.Glob(filepath.Join(s.DataDir(), "pg_wal", "*.history")); err == nil || len(history) > 0 {
			t.Fatalf("%s: PostgreSQL went on: %v, %v", tt.what, err, history)
		}
	}
}
