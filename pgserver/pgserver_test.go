package pgserver_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"rootstream/internal/proc"
	"rootstream/pgserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// home is a folder that PostgreSQL's user can enter, gone after the test.
func home(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rs-pgserver-*") //nolint:usetesting // only root can enter the folders of t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func config(t *testing.T) pgserver.Config {
	t.Helper()
	in, err := pgserver.Find(0)
	if err != nil {
		t.Fatal(err)
	}
	return pgserver.Config{
		Installation: in, DataDir: filepath.Join(home(t), "data"), NoSync: true, DieWithParent: true,
		Params: map[string]string{"fsync": "off", "shared_buffers": "16MB", "application_name": `it's a \ test`},
	}
}

func server(t *testing.T, cfg pgserver.Config) *pgserver.Server {
	t.Helper()
	s, err := pgserver.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := s.Stop(ctx, pgserver.Immediate); err != nil {
			t.Error(err)
		}
	})
	return s
}

func started(t *testing.T, cfg pgserver.Config) *pgserver.Server {
	t.Helper()
	s := server(t, cfg)
	if err := s.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func query(t *testing.T, dsn, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	var out string
	if err := conn.QueryRow(t.Context(), sql).Scan(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

func execute(t *testing.T, dsn, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func TestAServerStartsWithWhatTheDesignAsksFor(t *testing.T) {
	t.Parallel()
	s := started(t, config(t))
	for sql, want := range map[string]string{
		"show data_checksums":      "on",
		"show server_encoding":     "UTF8",
		"show lc_collate":          "C.UTF-8",
		"show password_encryption": "scram-sha-256",
		"show listen_addresses":    "",
		"select setting from pg_file_settings where name = 'application_name'":   `it's a \ test`,
		"select string_agg(distinct auth_method, ',') from pg_hba_file_rules":    "scram-sha-256",
		"select left(rolpassword, 13) from pg_authid where rolname = 'postgres'": "SCRAM-SHA-256",
	} {
		if got := query(t, s.DSN("postgres"), sql); got != want {
			t.Errorf("%s: %q, want %q", sql, got, want)
		}
	}
}

func TestTheSocketAsksForThePassword(t *testing.T) {
	t.Parallel()
	s := started(t, config(t))
	pass, err := s.Password()
	if err != nil {
		t.Fatal(err)
	}
	dsn := fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres password=%sx", s.SocketDir(), s.Port(), pass)
	if conn, wrong := pgx.Connect(t.Context(), dsn); wrong == nil {
		_ = conn.Close(t.Context())
		t.Error("a wrong password was accepted")
	}
	id, _ := s.Process()
	for _, file := range []string{"cmdline", "environ"} {
		raw, unread := os.ReadFile(fmt.Sprintf("/proc/%d/%s", id.PID, file))
		if unread != nil {
			t.Fatal(unread)
		}
		if strings.Contains(string(raw), pass) {
			t.Errorf("the password is in %s", file)
		}
	}
	log, err := os.ReadFile(s.LogFile())
	if err != nil || strings.Contains(string(log), pass) {
		t.Errorf("log unreadable or with password: %v", err)
	}
}

func TestRootDropsToAnotherUser(t *testing.T) {
	t.Parallel()
	s := started(t, config(t))
	id, _ := s.Process()
	info, err := os.Stat(fmt.Sprintf("/proc/%d", id.PID))
	if err != nil {
		t.Fatal(err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid == 0 || st.Uid != s.Account().UID {
		t.Errorf("postmaster runs as uid %d", st.Uid)
	}
}

func TestASuccessorAttachesToALivePostmaster(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	first := started(t, cfg)
	cfg.Port = 1 // a successor learns where the server really listens
	second := server(t, cfg)
	if err := second.Start(t.Context()); !errors.Is(err, pgserver.ErrRunning) {
		t.Errorf("Start beside a live postmaster: %v", err)
	}
	if err := second.Attach(t.Context()); err != nil {
		t.Fatal(err)
	}
	one, _ := first.Process()
	two, _ := second.Process()
	if one != two {
		t.Errorf("attached to %v, want %v", two, one)
	}
	if got := query(t, second.DSN("postgres"), "select 'here'"); got != "here" {
		t.Error(got)
	}
	done := second.Done()
	if err := one.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the attached server does not learn of the death")
	}
	if second.Err() == nil {
		t.Error("no error after an unwanted end")
	}
	if err := second.Attach(t.Context()); !errors.Is(err, pgserver.ErrNotRunning) {
		t.Errorf("Attach to nothing: %v", err)
	}
}

func TestReleaseLeavesThePostmasterRunning(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	first := started(t, cfg)
	second := server(t, cfg)
	if err := second.Attach(t.Context()); err != nil {
		t.Fatal(err)
	}
	second.Release()
	if _, ok := second.Process(); ok {
		t.Error("still held after Release")
	}
	if id, _ := first.Process(); !id.Alive() {
		t.Error("Release killed the postmaster")
	}
}

func TestAServerKilledWithSIGKILLStartsAgainWithItsData(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.Params["fsync"] = "on"
	s := started(t, cfg)
	execute(t, s.DSN("postgres"), "create table kept as select 'row'::text as v")
	id, _ := s.Process()
	if err := id.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	if s.Err() == nil {
		t.Error("Err is nil after SIGKILL")
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := query(t, s.DSN("postgres"), "select v from kept"); got != "row" {
		t.Errorf("lost the row: %q", got)
	}
}

func TestStopModes(t *testing.T) {
	t.Parallel()
	s := started(t, config(t))
	conn, err := pgx.Connect(t.Context(), s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	// A smart stop would wait for the client for ever: it turns into a fast one.
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx, pgserver.Smart); err != nil {
		t.Fatal(err)
	}
	if _, err := pgserver.ReadStatus(s.DataDir()); !errors.Is(err, pgserver.ErrNotRunning) {
		t.Errorf("after Stop: %v", err)
	}
	if err := s.Stop(t.Context(), pgserver.Fast); err != nil {
		t.Errorf("second Stop: %v", err)
	}
	for _, mode := range []pgserver.Mode{pgserver.Smart, pgserver.Fast, pgserver.Immediate} {
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Stop(t.Context(), mode); err != nil {
			t.Errorf("mode %d: %v", mode, err)
		}
	}
}

func TestReloadBringsNewParams(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	s := started(t, cfg)
	cfg.Params["work_mem"] = "7MB" // the map is shared with the server
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(5 * time.Second); ; {
		if query(t, s.DSN("postgres"), "show work_mem") == "7MB" {
			return
		}
		if time.Now().After(until) {
			t.Fatal("the new value never came")
		}
	}
}

func TestStartWithABrokenSettingSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	s := started(t, cfg)
	if err := s.Stop(t.Context(), pgserver.Fast); err != nil {
		t.Fatal(err)
	}
	cfg.Params["shared_buffers"] = "lots"
	err := s.Start(t.Context())
	if !errors.Is(err, pgserver.ErrStart) || !strings.Contains(err.Error(), "shared_buffers") {
		t.Errorf("Start = %v", err)
	}
}

func TestATakenPortIsNamed(t *testing.T) {
	t.Parallel()
	s, err := pgserver.Throwaway(t.Context(), pgserver.ThrowawayConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Discard(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	if got := query(t, s.TCPDSN("postgres"), "show fsync"); got != "off" {
		t.Errorf("fsync = %s", got)
	}
	cfg := config(t)
	cfg.Port = s.Port()
	other := server(t, cfg)
	if err := other.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := other.Start(t.Context()); !errors.Is(err, pgserver.ErrPortTaken) {
		t.Errorf("Start = %v, want ErrPortTaken", err)
	}
}

func TestThrowawaySweepsWhatADeadProcessLeft(t *testing.T) {
	t.Parallel()
	parent := home(t)
	if err := os.Chmod(parent, 0o777); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(parent, "rootstream-pg-1-1-gone")
	if err := os.MkdirAll(filepath.Join(left, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := pgserver.Throwaway(t.Context(), pgserver.ThrowawayConfig{Dir: parent, SocketOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("leftover still there: %v", err)
	}
	if s.TCPDSN("postgres") != "" {
		t.Error("a socket-only server has a TCP address")
	}
	if err := s.Discard(t.Context()); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(parent); len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestACancelledInitLeavesNothingThatLooksLikeACluster(t *testing.T) {
	t.Parallel()
	s := server(t, config(t))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.Init(ctx); err == nil {
		t.Fatal("initdb ended within 100 ms, so nothing was tried")
	}
	if done, err := s.Initialized(); done || err != nil {
		t.Errorf("Initialized = %v, %v", done, err)
	}
	if err := s.Init(t.Context()); err != nil {
		t.Errorf("Init after a cancelled one: %v", err)
	}
}

func TestDataFoldersThatAreNotOursAreRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, file, text string
		want             error
	}{
		{"some file", "holiday.jpg", "x", pgserver.ErrNotEmpty},
		{"another version", "PG_VERSION", "9\n", pgserver.ErrWrongVersion},
		{"broken version", "PG_VERSION", "new\n", pgserver.ErrNotEmpty},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := config(t)
			if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(cfg.DataDir, tt.file), []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			s := server(t, cfg)
			if err := s.Init(t.Context()); !errors.Is(err, tt.want) {
				t.Errorf("Init = %v, want %v", err, tt.want)
			}
			if err := s.Start(t.Context()); !errors.Is(err, tt.want) {
				t.Errorf("Start = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestAFolderTheUserCannotEnterIsRefused(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return // only root drops to another user
	}
	cfg := config(t)
	if err := os.Chmod(filepath.Dir(cfg.DataDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := server(t, cfg).Init(t.Context()); !errors.Is(err, pgserver.ErrAccess) {
		t.Errorf("Init = %v, want ErrAccess", err)
	}
}

func TestLongFoldersGetAShortSocketFolder(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.DataDir = filepath.Join(filepath.Dir(cfg.DataDir), strings.Repeat("long/", 30), "data")
	s := started(t, cfg)
	t.Cleanup(func() { _ = os.RemoveAll(s.SocketDir()) })
	if len(s.SocketDir()) > 80 {
		t.Errorf("socket folder %s", s.SocketDir())
	}
	if got := query(t, s.DSN("postgres"), "select 'here'"); got != "here" {
		t.Error(got)
	}
}

func TestAServerOfADeadParentEndsWhenTied(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("ROOTSTREAM_TEST_TIED"); dir != "" {
		s, err := pgserver.Throwaway(t.Context(), pgserver.ThrowawayConfig{Dir: dir, SocketOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		id, _ := s.Process()
		if err := os.WriteFile(filepath.Join(dir, "pid"), fmt.Appendf(nil, "%d", id.PID), 0o600); err != nil {
			t.Fatal(err)
		}
		<-s.Done()
		return
	}
	dir := home(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "ROOTSTREAM_TEST_TIED="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	for ; pid == 0; <-time.After(5 * time.Millisecond) {
		raw, _ := os.ReadFile(filepath.Join(dir, "pid"))
		_, _ = fmt.Sscan(string(raw), &pid)
	}
	id, err := proc.Of(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if !id.Gone(t.Context(), 10*time.Second) {
		t.Error("the server outlives its dead parent")
	}
}

func TestEnsureDatabaseMakesARoleThatCanSignIn(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.Params["log_statement"] = "all"
	s := started(t, cfg)
	for range 2 {
		if err := s.EnsureDatabase(t.Context(), "app", "app_owner"); err != nil {
			t.Fatal(err)
		}
	}
	url, err := s.URL("app_owner", "app")
	if err != nil {
		t.Fatal(err)
	}
	if got := query(t, url, "select current_user || ' ' || current_setting('is_superuser')"); got != "app_owner off" {
		t.Errorf("signed in as %q", got)
	}
	// A lost line of the pass file is replaced, and the role follows.
	raw, err := os.ReadFile(cfg.DataDir + ".pgpass")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(raw), "\n")
	if err = os.WriteFile(cfg.DataDir+".pgpass", []byte(first), 0o600); err != nil {
		t.Fatal(err)
	}
	if err = s.EnsureDatabase(t.Context(), "app", "app_owner"); err != nil {
		t.Fatal(err)
	}
	next, err := s.URL("app_owner", "app")
	if err != nil || next == url {
		t.Fatalf("URL = same as before, %v", err)
	}
	query(t, next, "select 'in'")
	pass, err := s.PasswordOf("app_owner")
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(s.LogFile())
	if err != nil || strings.Contains(string(log), pass) {
		t.Errorf("log unreadable or with password: %v", err)
	}
	if err := s.EnsureDatabase(t.Context(), "app", "o'hara"); err == nil {
		t.Error("a name that needs quoting was accepted")
	}
}

func TestOrphansOfAKilledPostmasterAreNamedAndCanBeEnded(t *testing.T) {
	t.Parallel()
	s := started(t, config(t))
	conn, err := pgx.Connect(t.Context(), s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	// A backend that computes does not look whether its postmaster lives.
	busy := make(chan error, 1)
	go func() {
		_, run := conn.Exec(t.Context(), "select count(*) from generate_series(1, 1000000000000)")
		busy <- run
	}()
	execute(t, s.DSN("postgres"), `do $$ begin
		while not exists (select from pg_stat_activity where state = 'active' and query like '%generate_series(1, 1000%' and pid <> pg_backend_pid())
		loop perform pg_sleep(0.01), pg_stat_clear_snapshot(); end loop; end $$`)
	id, _ := s.Process()
	if err = id.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	err = s.Start(t.Context())
	orphans := s.Orphans()
	if !errors.Is(err, pgserver.ErrOrphans) || len(orphans) == 0 || !strings.Contains(err.Error(), fmt.Sprint(orphans[0].PID)) {
		t.Errorf("Start = %v with orphans %v", err, orphans)
	}
	s.EndOrphans(t.Context())
	if <-busy == nil {
		t.Error("the orphan finished its query")
	}
	if err := s.Start(t.Context()); err != nil {
		t.Errorf("Start without orphans: %v", err)
	}
}

func TestAStartCancelledWithErrLeaveGoesOnWithoutUs(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	s := server(t, cfg)
	if err := s.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(pgserver.ErrLeave)
	if err := s.Start(ctx); !errors.Is(err, pgserver.ErrLeave) {
		t.Fatalf("Start = %v", err)
	}
	successor := server(t, cfg)
	for until := time.Now().Add(10 * time.Second); ; {
		err := successor.Attach(t.Context())
		if err == nil {
			break
		}
		if !errors.Is(err, pgserver.ErrNotRunning) || time.Now().After(until) {
			t.Fatal(err)
		}
	}
}

func TestAStartCancelledOtherwiseStopsWhatItStarted(t *testing.T) {
	t.Parallel()
	s := server(t, config(t))
	if err := s.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Start(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Start = %v", err)
	}
	if id, ok := s.Process(); ok && id.Alive() {
		t.Error("the postmaster lives on")
	}
}

func TestAPassFileOpenToOthersIsRefused(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	s := started(t, cfg)
	if err := os.Chmod(cfg.DataDir+".pgpass", 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Password(); !errors.Is(err, pgserver.ErrAccess) {
		t.Errorf("Password = %v", err)
	}
}

func TestAConfigurationThatIsALinkIsNotFollowed(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	s := server(t, cfg)
	if err := s.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "master.key")
	if err := os.WriteFile(key, []byte("k3ep-me-s4fe\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(cfg.DataDir, "postgresql.conf")
	if err := errors.Join(os.Remove(conf), os.Symlink(key, conf)); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); !errors.Is(err, pgserver.ErrAccess) {
		t.Errorf("started: %v", err)
	}
	entries, err := os.ReadDir(cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, _ := e.Info(); info != nil && info.Mode().IsRegular() {
			if raw, _ := os.ReadFile(filepath.Join(cfg.DataDir, e.Name())); strings.Contains(string(raw), "k3ep-me-s4fe") {
				t.Errorf("%s holds the key", e.Name())
			}
		}
	}
}
