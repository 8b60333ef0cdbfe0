package devstack_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/devstack"
	"rootstream/internal/proc"
	"rootstream/pgserver"
	"rootstream/tests/harness"
)

const patience = 30 * time.Second

// The test binary plays every part of the stack: it is started again with a role.
const (
	roleVar   = "DEVSTACK_TEST_ROLE"
	folderVar = "DEVSTACK_TEST_FOLDER"
	listenVar = "DEVSTACK_TEST_LISTEN"
)

func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var err error
	switch os.Getenv(roleVar) {
	case "":
		os.Exit(m.Run())
	case "up":
		err = devstack.Run(ctx, stackConfig(os.Getenv(folderVar), os.Getenv(listenVar)), func(l devstack.Layout) {
			_, _ = fmt.Fprintln(os.Stdout, "ready "+l.URL)
		})
	case "node":
		var l devstack.Layout
		if l, err = devstack.Plan(devstack.Config{DataDir: os.Getenv(folderVar)}); err == nil {
			cfg := l.Node()
			cfg.Server.NoSync = true
			err = devstack.RunNode(ctx, cfg)
		}
	case "serve":
		err = serve(ctx)
	case "broken":
		err = errors.New("this part is broken")
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve stands in for the real one: it answers /readyz, and when it is stopped it notes whether the others still ran.
func serve(ctx context.Context) error {
	l, err := devstack.Plan(devstack.Config{DataDir: os.Getenv(folderVar), Listen: os.Getenv(listenVar)})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	srv := &http.Server{Addr: l.Listen, Handler: mux, ReadHeaderTimeout: time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.ListenAndServe() }()
	select {
	case err = <-failed:
		return err
	case <-ctx.Done():
	}
	st, _ := pgserver.ReadStatus(l.PostgresDir)
	redis, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", l.RedisPort))
	if err == nil {
		_ = redis.Close()
	}
	note := fmt.Sprintf("postgres=%s redis=%v", st.State, err == nil)
	return errors.Join(os.WriteFile(filepath.Join(l.LogDir, "order"), []byte(note), 0o600), srv.Close())
}

func playing(role string) func(devstack.Layout) devstack.Command {
	return func(l devstack.Layout) devstack.Command {
		env := append(os.Environ(), roleVar+"="+role, folderVar+"="+l.DataDir, listenVar+"="+l.Listen)
		return devstack.Command{Path: os.Args[0], Env: env}
	}
}

func stackConfig(folder, listen string) devstack.Config {
	return devstack.Config{
		DataDir: folder, Listen: listen, Node: playing("node"), Serve: playing("serve"), ReadyTimeout: 90 * time.Second,
	}
}

// stack is a running one: in a process of its own, as somebody.
type stack struct {
	t      *testing.T
	layout devstack.Layout
	cmd    *exec.Cmd
	stderr *said
	exited chan error
}

// said collects what a process says while it is read.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// up starts a stack in folder and waits until it is ready. uid 0 means as this process runs.
func up(t *testing.T, folder string, uid uint32) *stack {
	t.Helper()
	port, err := pgserver.FreePort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	listen := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	binary := os.Args[0]
	if uid != 0 { // the folder go test builds in is closed to others
		binary = filepath.Join(filepath.Dir(folder), "devstack.test")
		harness.Publish(t, binary)
	}
	s := &stack{t: t, stderr: &said{}, exited: make(chan error, 1)}
	s.cmd = exec.Command(binary)
	s.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), roleVar + "=up", folderVar + "=" + folder, listenVar + "=" + listen, "HOME=" + folder,
		"GOCOVERDIR=" + os.Getenv("GOCOVERDIR"), "GORACE=" + os.Getenv("GORACE"), "TMPDIR=" + os.TempDir(),
	}
	s.cmd.Stderr = s.stderr
	if uid != 0 {
		s.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	if s.layout, err = devstack.Plan(devstack.Config{DataDir: folder, Listen: listen}); err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.clear() })
	line := make(chan string, 1)
	go func() {
		buf := make([]byte, 256)
		n, _ := out.Read(buf)
		line <- string(buf[:n])
		_, _ = io.Copy(io.Discard, out)
		s.exited <- s.cmd.Wait()
	}()
	select {
	case got := <-line:
		if want := "ready http://" + listen; strings.TrimSpace(got) != want {
			t.Fatalf("up said %q, want %q; stderr: %s", got, want, s.stderr)
		}
	case <-time.After(90 * time.Second):
		t.Fatalf("not ready: %s", s.stderr)
	}
	if s.layout, err = devstack.Plan(devstack.Config{DataDir: folder, Listen: listen}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *stack) stop() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	select {
	case err := <-s.exited:
		s.exited <- err
		if err != nil {
			s.t.Errorf("up ended with %v: %s", err, s.stderr)
		}
	case <-time.After(patience):
		s.t.Fatal("up does not stop")
	}
}

func (s *stack) kill() {
	s.t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		s.t.Fatal(err)
	}
	err := <-s.exited
	s.exited <- err
}

// clear ends whatever is left of the stack, by recorded process.
func (s *stack) clear() {
	_ = s.cmd.Process.Kill()
	for _, name := range []string{"serve", "redis", "node"} {
		if id, ok := recorded(s.layout, name); ok {
			_ = id.Signal(syscall.SIGKILL)
		}
	}
	if id, ok := s.postmaster(); ok {
		_ = id.Signal(syscall.SIGQUIT)
		id.Gone(context.Background(), patience)
	}
}

func (s *stack) postmaster() (proc.ID, bool) {
	st, err := pgserver.ReadStatus(s.layout.PostgresDir)
	if err != nil {
		return proc.ID{}, false
	}
	id, err := proc.Of(st.PID)
	return id, err == nil
}

func (s *stack) child(name string) proc.ID {
	s.t.Helper()
	id, ok := recorded(s.layout, name)
	if !ok {
		s.t.Fatalf("no live %s is on record", name)
	}
	return id
}

func recorded(l devstack.Layout, name string) (proc.ID, bool) {
	raw, err := os.ReadFile(filepath.Join(l.RunDir, name+".json"))
	if err != nil {
		return proc.ID{}, false
	}
	var r struct{ Process proc.ID }
	if json.Unmarshal(raw, &r) != nil {
		return proc.ID{}, false
	}
	return r.Process, r.Process.Alive()
}

// home is a folder all users can enter, gone after the test.
func home(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rs-devstack-*") //nolint:usetesting // only root can enter the folders of t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func (s *stack) answers() bool {
	resp, err := http.Get(s.layout.URL + "/readyz")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func (s *stack) query(sql string) (string, error) {
	url, err := os.ReadFile(s.layout.PostgresDSNFile)
	if err != nil {
		return "", err
	}
	conn, err := pgx.Connect(s.t.Context(), strings.TrimSpace(string(url)))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(s.t.Context()) }()
	var out string
	err = conn.QueryRow(s.t.Context(), sql).Scan(&out)
	return out, err
}

func ordinaryUser(t *testing.T) uint32 {
	t.Helper()
	account, err := proc.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	return account.UID
}

func TestTheStackComesUpAndStopsInOrder(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		uid  uint32
	}{{"as this user", 0}, {"as an ordinary user", 1}} {
		if tt.uid != 0 {
			if os.Geteuid() != 0 {
				continue // this user is the ordinary one
			}
			tt.uid = ordinaryUser(t)
		}
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			parent := home(t)
			if err := os.Chown(parent, int(tt.uid), int(tt.uid)); err != nil && tt.uid != 0 {
				t.Fatal(err)
			}
			s := up(t, filepath.Join(parent, "data"), tt.uid)
			checkPrivacy(t, s)
			checkDatabase(t, s)
			ids := []proc.ID{s.child("serve"), s.child("redis"), s.child("node")}
			postmaster, ok := s.postmaster()
			if !ok {
				t.Fatal("no postmaster")
			}
			port := s.layout.RedisPort
			s.stop()
			for _, id := range append(ids, postmaster) {
				if id.Alive() {
					t.Errorf("process %d outlives its stack", id.PID)
				}
			}
			if note, err := os.ReadFile(filepath.Join(s.layout.LogDir, "order")); string(note) != "postgres=ready redis=true" {
				t.Errorf("when serve was stopped: %s, %v", note, err)
			}
			began := time.Now()
			again := up(t, s.layout.DataDir, tt.uid)
			t.Logf("second start took %v", time.Since(began))
			if again.layout.RedisPort != port {
				t.Errorf("port of redis changed from %d to %d", port, again.layout.RedisPort)
			}
			again.stop()
		})
	}
}

func checkPrivacy(t *testing.T, s *stack) {
	t.Helper()
	var passwords []string
	for _, path := range []string{
		s.layout.MasterKeyFile, s.layout.ClientFile, s.layout.PostgresDSNFile, s.layout.AdminDSNFile, s.layout.RedisURLFile,
		s.layout.PassFile, s.layout.RedisConf, filepath.Join(s.layout.SecretsDir, "redis.password"),
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode().Perm())
		}
	}
	redis, err := os.ReadFile(filepath.Join(s.layout.SecretsDir, "redis.password"))
	if err != nil {
		t.Fatal(err)
	}
	passwords = append(passwords, strings.TrimSpace(string(redis)))
	pgpass, err := os.ReadFile(s.layout.PassFile)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(pgpass)) {
		passwords = append(passwords, strings.TrimSpace(line[strings.LastIndexByte(line, ':')+1:]))
	}
	postmaster, _ := s.postmaster()
	for _, id := range []proc.ID{s.child("serve"), s.child("redis"), s.child("node"), postmaster} {
		for _, file := range []string{"cmdline", "environ"} {
			raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", id.PID, file))
			if err != nil {
				t.Fatal(err)
			}
			for _, pass := range passwords {
				if len(pass) < 32 || bytes.Contains(raw, []byte(pass)) {
					t.Errorf("%s of process %d holds password %q", file, id.PID, pass)
				}
			}
		}
	}
	for _, id := range []proc.ID{s.child("redis"), postmaster} {
		info, err := os.Stat(fmt.Sprintf("/proc/%d", id.PID))
		if err != nil {
			t.Fatal(err)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid == 0 {
			t.Errorf("process %d runs as root", id.PID)
		}
	}
}

func checkDatabase(t *testing.T, s *stack) {
	t.Helper()
	for sql, want := range map[string]string{
		"show archive_mode": "on", "show wal_level": "replica", "show timezone": "UTC", "show max_connections": "200",
		"show data_checksums": "on", "select current_user || '@' || current_database()": "rootstream@rootstream",
		"select usesuper::text from pg_user where usename = current_user": "false",
	} {
		if got, err := s.query(sql); err != nil || got != want {
			t.Errorf("%s = %q, %v; want %q", sql, got, err, want)
		}
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.layout.RedisPort))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "PING\r\n")
	answer := make([]byte, 7)
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "-NOAUTH" {
		t.Errorf("redis without a password answers %q, %v", answer, err)
	}
}

func TestASuccessorOfAKilledStackClearsUpAndKeepsThePostmaster(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(home(t), "data")
	first := up(t, folder, 0)
	postmaster, ok := first.postmaster()
	if !ok {
		t.Fatal("no postmaster")
	}
	left := []proc.ID{first.child("serve"), first.child("redis"), first.child("node")}
	first.kill()
	// One of them was never recorded: its parent died between its start and the record.
	if err := os.Remove(filepath.Join(first.layout.RunDir, "redis.json")); err != nil {
		t.Fatal(err)
	}
	for _, id := range left {
		if !id.Alive() {
			t.Errorf("process %d died with up", id.PID)
		}
	}
	second := up(t, folder, 0)
	for _, id := range left {
		if id.Alive() {
			t.Errorf("process %d is still there", id.PID)
		}
	}
	if now, ok := second.postmaster(); !ok || now != postmaster {
		t.Errorf("postmaster %v was replaced by %v", postmaster, now)
	}
	second.stop()
	if postmaster.Alive() {
		t.Error("the attached postmaster was not stopped in the end")
	}
}

func TestChildrenThatCrashAreRestarted(t *testing.T) {
	t.Parallel()
	s := up(t, filepath.Join(home(t), "data"), 0)
	postmaster, _ := s.postmaster()
	for _, name := range []string{"serve", "redis", "node"} {
		before := s.child(name)
		if err := before.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, name+" is restarted", func() bool {
			now, ok := recorded(s.layout, name)
			return ok && now != before
		})
	}
	eventually(t, "the new node is ready", func() bool {
		var st devstack.NodeStatus
		raw, _ := os.ReadFile(s.layout.NodeStatus)
		now, ok := recorded(s.layout, "node")
		return json.Unmarshal(raw, &st) == nil && ok && st.Node == now && st.State == devstack.StateReady && st.Attached
	})
	if now, _ := s.postmaster(); now != postmaster {
		t.Error("the postmaster did not survive its node")
	}
	if err := postmaster.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "PostgreSQL answers again", func() bool {
		got, err := s.query("select 'back'")
		return err == nil && got == "back"
	})
	eventually(t, "serve answers again", s.answers)
	s.stop()
}

// run runs a stack in this process that must not come up.
func refused(t *testing.T, cfg devstack.Config) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := devstack.Run(ctx, cfg, func(devstack.Layout) {
		t.Error("it came up")
		cancel()
	})
	if err == nil {
		t.Fatal("no error")
	}
	return err
}

func TestTheStackRefusesClearly(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	file := func(name, text string) func(*testing.T, *devstack.Config) {
		return func(t *testing.T, cfg *devstack.Config) {
			t.Helper()
			path := filepath.Join(cfg.DataDir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name    string
		arrange func(*testing.T, *devstack.Config)
		want    error
		says    string
	}{
		{"a taken port", func(_ *testing.T, cfg *devstack.Config) { cfg.Listen = taken.Addr().String() }, devstack.ErrPortTaken, fmt.Sprintf("process %d", os.Getpid())},
		{"an address of another machine", func(_ *testing.T, cfg *devstack.Config) { cfg.Listen = "192.0.2.1:1" }, devstack.ErrBadListen, "192.0.2.1"},
		{"a full disk", func(_ *testing.T, cfg *devstack.Config) { cfg.MinFree = 1 << 62 }, devstack.ErrDiskFull, "MiB"},
		{"data of another PostgreSQL", file("postgres/PG_VERSION", "9\n"), pgserver.ErrWrongVersion, "PostgreSQL 9"},
		{"foreign files for data", file("postgres/holiday.jpg", "x"), pgserver.ErrNotEmpty, "holiday.jpg"},
		{"a folder with other things", file("holiday.jpg", "x"), devstack.ErrAccess, "holiday.jpg"},
		{"a folder others write to", func(t *testing.T, cfg *devstack.Config) {
			t.Helper()
			if err := errors.Join(os.Mkdir(cfg.DataDir, 0o700), os.Chmod(cfg.DataDir, 0o770)); err != nil {
				t.Fatal(err)
			}
		}, devstack.ErrAccess, "others may write to"},
		{"a folder in it that others write to", func(t *testing.T, cfg *devstack.Config) {
			t.Helper()
			secrets := filepath.Join(cfg.DataDir, "secrets")
			if err := errors.Join(os.MkdirAll(secrets, 0o700), os.Chmod(secrets, 0o777)); err != nil {
				t.Fatal(err)
			}
		}, devstack.ErrAccess, "others may write to"},
		{"a folder in it that is a link", func(t *testing.T, cfg *devstack.Config) {
			t.Helper()
			if err := errors.Join(os.Mkdir(cfg.DataDir, 0o700), os.Symlink(t.TempDir(), filepath.Join(cfg.DataDir, "secrets"))); err != nil {
				t.Fatal(err)
			}
		}, devstack.ErrAccess, "is not a folder"},
		{"no PostgreSQL", func(_ *testing.T, cfg *devstack.Config) { cfg.PostgresBin = "/nonexistent" }, pgserver.ErrNotInstalled, "/nonexistent"},
		{"no Redis", func(_ *testing.T, cfg *devstack.Config) { cfg.RedisServer = "/bin/true" }, devstack.ErrNoRedis, "install it with: "},
		{"a serve that fails", func(_ *testing.T, cfg *devstack.Config) { cfg.Serve = playing("broken") }, devstack.ErrChildFailed, "this part is broken"},
		{"a node that fails", func(_ *testing.T, cfg *devstack.Config) { cfg.Node = playing("broken") }, devstack.ErrChildFailed, "this part is broken"},
		{"a serve that never is ready", func(_ *testing.T, cfg *devstack.Config) {
			cfg.ReadyTimeout = 10 * time.Second
			cfg.Serve = func(devstack.Layout) devstack.Command {
				return devstack.Command{Path: "/bin/sleep", Args: []string{"100"}}
			}
		}, devstack.ErrNotReady, "in time"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := stackConfig(filepath.Join(home(t), "data"), "127.0.0.1:0")
			tt.arrange(t, &cfg)
			err := refused(t, cfg)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("refused with %v; want %v saying %q", err, tt.want, tt.says)
			}
			if l, err := devstack.Plan(devstack.Config{DataDir: cfg.DataDir}); err == nil {
				for _, name := range []string{"serve", "redis", "node"} {
					if id, ok := recorded(l, name); ok {
						t.Errorf("%s still runs as %d", name, id.PID)
					}
				}
			}
		})
	}
}

func TestASecondStackOnTheSameFolderIsToldWhoHoldsIt(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(home(t), "data")
	s := up(t, folder, 0)
	err := refused(t, stackConfig(folder, "127.0.0.1:0"))
	if !errors.Is(err, devstack.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", s.cmd.Process.Pid)) {
		t.Errorf("refused with %v", err)
	}
	if !s.answers() {
		t.Error("the first stack was disturbed")
	}
	for _, c := range devstack.Checks(t.Context(), devstack.Config{DataDir: folder, Listen: s.layout.Listen}) {
		if !c.OK {
			t.Errorf("beside a running stack, %s says %s", c.Name, c.Detail)
		}
	}
	s.stop()
}

func TestALostMasterKeyIsNotReplaced(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "data") // closed to PostgreSQL's user, when this is root
	s := up(t, folder, 0)
	s.stop()
	if err := os.Remove(s.layout.MasterKeyFile); err != nil {
		t.Fatal(err)
	}
	again := up(t, folder, 0)
	if _, err := os.Stat(s.layout.MasterKeyFile); !os.IsNotExist(err) {
		t.Errorf("there is a new master key: %v", err)
	}
	if !strings.Contains(again.stderr.String(), "master key") {
		t.Error("nothing was said about the lost key")
	}
	again.stop()
}
