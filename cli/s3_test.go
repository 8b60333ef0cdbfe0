package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"rootstream/backup/archive"
	"rootstream/backup/archive/ledger"
	"rootstream/backup/storage/storagetest"
	"rootstream/internal/proc"
	"rootstream/pgserver"
	"rootstream/tests/faultproxy"
	"rootstream/tests/harness"
)

// bucketSite is a server whose backups go to a bucket.
type bucketSite struct {
	program
	*pgserver.Server
	t   *testing.T
	dir string // everybody may enter it
	env []string
}

func newBucketSite(t *testing.T, address string, settings ...string) *bucketSite {
	t.Helper()
	s := &bucketSite{program: newProgram(t, nil), Server: throwaway(t), t: t}
	s.dir = filepath.Dir(s.path)
	key := filepath.Join(s.dir, "backup.key")
	if err := os.WriteFile(key, []byte(strings.Repeat("a key of 32 bytes or more ", 2)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(key, int(s.Account().UID), int(s.Account().GID)); err != nil {
		t.Fatal(err)
	}
	s.env = append([]string{
		"ROOTSTREAM_BACKUP_REPO=s3://" + storagetest.Bucket + "/main", "ROOTSTREAM_BACKUP_KEY_FILE=" + key,
		"ROOTSTREAM_BACKUP_S3_ENDPOINT=http://" + address, "ROOTSTREAM_BACKUP_S3_PATH_STYLE=true",
		"ROOTSTREAM_BACKUP_S3_ACCESS_KEY=" + storagetest.AccessKey, "ROOTSTREAM_BACKUP_S3_SECRET_KEY=" + storagetest.SecretKey,
		"ROOTSTREAM_BACKUP_DSN=" + s.DSN("postgres"), "ROOTSTREAM_BACKUP_PGDATA=" + s.DataDir(),
	}, settings...)
	return s
}

// rootstream runs the program on the bucket.
func (s *bucketSite) rootstream(args ...string) (code int, stdout, stderr string) {
	s.t.Helper()
	var out, errs bytes.Buffer
	cmd := s.command(s.env, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// ok is rootstream for what has to succeed.
func (s *bucketSite) ok(args ...string) string {
	s.t.Helper()
	code, stdout, stderr := s.rootstream(args...)
	if code != 0 {
		s.t.Fatalf("rootstream %s: exit code %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return strings.TrimSpace(stdout)
}

func (s *bucketSite) sql(sql string) string { s.t.Helper(); return ask(s.t, s.DSN("postgres"), sql) }

func ask(t *testing.T, dsn, sql string) (text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := conn.QueryRow(ctx, sql).Scan(&text); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return text
}

// add writes a row.
func (s *bucketSite) add(word string) {
	s.t.Helper()
	s.sql("with made as (insert into words values ('" + word + "') returning word) select word from made")
}

// finished is the name of the segment that is written, which ends with this.
func (s *bucketSite) finished() string {
	s.t.Helper()
	name := s.sql("select pg_walfile_name(pg_current_wal_lsn())")
	s.sql("select pg_switch_wal()::text")
	return name
}

// TestAWholeCycleOverS3 is what people do from the first backup to the disaster, also over a line that breaks again and again.
func TestAWholeCycleOverS3(t *testing.T) {
	t.Parallel()
	for name, share := range map[string]float64{"a sound line": 0, "a line with errors, resets and cut bodies": 0.1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, _ := storagetest.S3(t)
			if share > 0 {
				address = storagetest.Unreliable(t, address, share, harness.Seed(t))
			}
			cycleOverS3(t, newBucketSite(t, address))
		})
	}
}

func cycleOverS3(t *testing.T, s *bucketSite) {
	t.Helper()
	place := serverFolder(t)
	for _, sql := range []string{"listen_addresses = ''", "unix_socket_directories = '" + place + "'", "port = 5432"} {
		s.exec("alter system set " + sql) // what the restored server goes by; this one was told otherwise on its command line
	}
	s.exec("create table words (word text)")
	s.add("before")
	full := s.ok("backup", "create", "--type", "full")
	receiver := s.background("wal", "receive", "--spool", filepath.Join(s.dir, "spool"))
	within(t, "the receiver has its slot", func() bool {
		return s.sql("select count(*)::text from pg_replication_slots where slot_name = 'rootstream_wal' and active") == "1"
	})
	s.add("between")
	first := s.finished()
	s.ok("wal", "push", filepath.Join(s.DataDir(), "pg_wal", first))
	s.ok("wal", "push", filepath.Join(s.DataDir(), "pg_wal", first)) // both may bring it, again and again

	incremental := s.ok("backup", "create", "--type", "incremental")
	s.add("after")
	target := s.sql("select pg_current_wal_insert_lsn()::text")
	s.add("too late")
	end := s.sql("select pg_current_wal_insert_lsn()::text")
	within(t, "all log is in the bucket", func() bool {
		code, out, _ := s.rootstream("wal", "status", "-o", "json")
		var status []ledger.Status
		return code == 0 && json.Unmarshal([]byte(out), &status) == nil && len(status) == 1 &&
			s.sql("select ('"+status[0].Archived.String()+"'::pg_lsn >= '"+end+"'::pg_lsn)::text") == "true"
	})
	stop(t, receiver, syscall.SIGTERM)

	listed := s.ok("backup", "list")
	if !strings.Contains(listed, full) || !strings.Contains(listed, incremental) || strings.Count(listed, "\n") != 2 {
		t.Errorf("listed are\n%s", listed)
	}
	s.ok("backup", "verify")
	s.ok("wal", "gaps")
	if err := s.Stop(t.Context(), pgserver.Immediate); err != nil { // the disaster
		t.Fatal(err)
	}
	s.restored(place, "between,before,after", "latest", "--target-lsn", target)
	s.ok("backup", "delete", full, "--yes")
	s.restored(place, "too late,between,before,after", "latest")
	if out := s.ok("backup", "prune", "--yes"); strings.Contains(out, "deleted") {
		t.Errorf("something was deleted that is kept: %s", out)
	}
	s.ok("backup", "verify")
}

// exec runs what returns nothing.
func (s *bucketSite) exec(sql string) {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.DSN("postgres"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = conn.Close(s.t.Context()) }()
	if _, err := conn.Exec(s.t.Context(), sql); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// background runs the program until it is stopped.
func (s *bucketSite) background(args ...string) *process {
	s.t.Helper()
	p := &process{Stdout: &output{}, Stderr: &output{}, cmd: s.command(s.env, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.Stdout, p.Stderr
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait()
	}()
	s.t.Cleanup(func() {
		p.Kill()
		if s.t.Failed() {
			s.t.Logf("%s said:\n%s", strings.Join(args, " "), p.Stderr)
		}
	})
	return p
}

// restored restores the cluster, starts it, and wants these words in it.
func (s *bucketSite) restored(place, words string, args ...string) {
	s.t.Helper()
	dir := filepath.Join(place, "restored")
	s.ok(append([]string{"backup", "restore", "--to", dir, "--start", "--yes"}, args...)...)
	status, err := pgserver.ReadStatus(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	id, err := proc.Of(status.PID)
	if err != nil {
		s.t.Fatal(err)
	}
	if got := ask(s.t, "host="+place+" port=5432 user=postgres dbname=postgres", "select string_agg(word, ',' order by word desc) from words"); got != words {
		s.t.Errorf("restored with %v it has %s, not %s", args, got, words)
	}
	if err := id.Signal(syscall.SIGQUIT); err != nil || !id.Gone(s.t.Context(), patience) {
		s.t.Fatalf("the restored server does not end: %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		s.t.Fatal(err)
	}
}

// TestARecoveryStopsWhenTheBucketDoesNotAnswer: what PostgreSQL takes for the end of the log, it promotes on.
func TestARecoveryStopsWhenTheBucketDoesNotAnswer(t *testing.T) {
	t.Parallel()
	address, _ := storagetest.S3(t)
	proxy := faultproxy.New(t, address)
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "<Error><Code>SlowDown</Code></Error>", http.StatusServiceUnavailable)
	}))
	t.Cleanup(busy.Close)
	s := newBucketSite(t, proxy.Addr(), "ROOTSTREAM_BACKUP_S3_STALL=1s", "ROOTSTREAM_BACKUP_S3_PATIENCE=2s")
	s.exec("create table words (word text)")
	s.ok("wal", "push", filepath.Join(s.DataDir(), "pg_wal", s.finished()))
	if err := s.Stop(t.Context(), pgserver.Fast); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what     string
		fault    func()
		setting  []string
		promotes bool
	}{
		{"it accepts and never answers", func() { proxy.BlackHole(faultproxy.ToClient) }, nil, false},
		{"nothing of what is sent arrives", func() { proxy.BlackHole(faultproxy.Both) }, nil, false},
		{"connections are reset", proxy.Cut, nil, false},
		{"nobody listens", proxy.Refuse, nil, false},
		{"it is overloaded", func() {}, []string{"ROOTSTREAM_BACKUP_S3_ENDPOINT=" + busy.URL}, false},
		{"it does not know us", func() {}, []string{"ROOTSTREAM_BACKUP_S3_SECRET_KEY=wrong"}, false},
		{"it has no such bucket", func() {}, []string{"ROOTSTREAM_BACKUP_REPO=s3://nowhere/main"}, false},
		{"there is no repository", func() {}, []string{"ROOTSTREAM_BACKUP_REPO=s3://" + storagetest.Bucket + "/nothing"}, false},
		{"the file is proven absent", func() {}, nil, true},
	} {
		tt.fault()
		argv := slices.Concat([]string{"env"}, s.env, tt.setting, []string{s.path, "wal", "fetch", "--ahead", "0"})
		config := "restore_command = '" + strings.ReplaceAll(archive.RestoreCommand(argv...), "'", "''") + "'\n"
		for name, text := range map[string]string{"postgresql.auto.conf": config, "recovery.signal": ""} {
			if err := s.Account().WriteFile(filepath.Join(s.DataDir(), name), text, false); err != nil {
				t.Fatal(err)
			}
		}
		err := s.Start(t.Context())
		proxy.Heal()
		history, _ := filepath.Glob(filepath.Join(s.DataDir(), "pg_wal", "*.history"))
		switch {
		case tt.promotes && err != nil:
			t.Errorf("%s: %v", tt.what, err)
		case tt.promotes:
			within(t, "it is promoted", func() bool { return s.sql("select pg_is_in_recovery()::text") == "false" })
		case err == nil || len(history) > 0:
			t.Fatalf("%s: PostgreSQL went on: %v, %v", tt.what, err, history)
		case !strings.Contains(err.Error()+s.Said(), "could not restore file"):
			t.Errorf("%s: it stopped for another reason: %v", tt.what, err)
		}
	}
}

// TestTheServerHearsThatLogIsSafeWhenItIsWhereTheConfigurationSays looks at what runs in rootstream node and in backup schedule run.
func TestTheServerHearsThatLogIsSafeWhenItIsWhereTheConfigurationSays(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"repository", "spool"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			address, _ := storagetest.S3(t)
			proxy := faultproxy.New(t, address)
			s := newBucketSite(t, proxy.Addr(), "ROOTSTREAM_BACKUP_ACKNOWLEDGE="+where)
			s.exec("create table words (word text)")
			node := s.background("backup", "schedule", "run")
			said := func(what string) bool {
				return s.sql("select coalesce(bool_or("+what+"), false)::text from pg_stat_replication where application_name = 'rootstream_wal'") == "true"
			}
			s.add("safe")
			s.exec("checkpoint")
			safe := s.sql("select pg_current_wal_flush_lsn()::text")
			within(t, "what was written is safe", func() bool { return said("flush_lsn >= '" + safe + "'") })
			proxy.BlackHole(faultproxy.Both)
			s.add("in doubt")
			s.exec("checkpoint") // everything is flushed, and so sent
			doubt := s.sql("select pg_current_wal_flush_lsn()::text")
			within(t, "it is received", func() bool { return said("write_lsn >= '" + doubt + "'") })
			if where == "spool" {
				within(t, "it is safe in the spool", func() bool { return said("flush_lsn >= '" + doubt + "'") })
			} else {
				at := s.sql("select max(reply_time)::text from pg_stat_replication where application_name = 'rootstream_wal'")
				within(t, "the server has heard since", func() bool { return said("reply_time > '" + at + "' and write_lsn >= '" + doubt + "'") })
				if said("flush_lsn >= '" + doubt + "'") {
					t.Error("what no repository has is said to be safe")
				}
			}
			proxy.Heal()
			within(t, "it is safe once the bucket answers", func() bool { return said("flush_lsn >= '" + doubt + "'") })
			stop(t, node, syscall.SIGTERM)
		})
	}
}
