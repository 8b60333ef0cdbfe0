package devstack_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rootstream/devstack"
	"rootstream/errs"
	"rootstream/internal/proc"
)

func TestRotateKeepsTheNewestAndLetsWritersGoOn(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.log")
	if err := devstack.Rotate(path, 8); err != nil {
		t.Errorf("a log that is not there: %v", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for _, line := range []string{"first-line\n", "second-line\n", "third-line\n", "fourth-line\n", "fifth-line\n"} {
		if _, err := f.WriteString(line); err != nil {
			t.Fatal(err)
		}
		if err := devstack.Rotate(path, 8); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.WriteString("short"); err != nil {
		t.Fatal(err)
	}
	if err := devstack.Rotate(path, 8); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	entries, _ := filepath.Glob(path + "*")
	for _, e := range entries {
		raw, _ := os.ReadFile(e)
		got[filepath.Base(e)] = string(raw)
	}
	want := map[string]string{"a.log": "short", "a.log.1": "th-line\n", "a.log.2": "th-line\n", "a.log.3": "rd-line\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A shell or an editor in the folder is not ours to end.
func TestOnlyServersAreTakenForRedis(t *testing.T) {
	t.Parallel()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	tools := t.TempDir()
	l := devstack.Layout{RedisDir: t.TempDir(), RedisServer: "/opt/redis-server-of-our-own"}
	for _, tt := range []struct {
		name, dir string
		want      bool
	}{
		{"redis-server", l.RedisDir, true},
		{"valkey-server", l.RedisDir, true},
		{"redis-server-of-our-own", l.RedisDir, true},
		{"redis-server", tools, false},
		{"bash", l.RedisDir, false},
		{"redis-cli", l.RedisDir, false},
	} {
		path := filepath.Join(tools, tt.name)
		if err := os.Symlink(sleep, path); err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), path, "60")
		cmd.Dir = tt.dir
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if got := devstack.Owns(l, "redis", cmd.Process.Pid); got != tt.want {
			t.Errorf("%s in %s: %v", tt.name, tt.dir, got)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

func TestTheTailOfALogBeginsWithItsPanic(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.log")
	const old, text = "an older run\n", "1\n2\n3\n4\n5\n6\n7\n"
	for _, tt := range []struct{ text, want string }{
		{text, "2 | 3 | 4 | 5 | 6 | 7"},
		{"ok\npanic: lost\n" + text, "panic: lost | 1 | 2 | 3 | 4 | 5"},
		{"", ""},
	} {
		if err := os.WriteFile(path, []byte(old+tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := devstack.Tail(path, int64(len(old))); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.text, got, tt.want)
		}
	}
	if got := devstack.Tail(path+"x", 0); got != "" {
		t.Errorf("a log that is not there: %q", got)
	}
}

func TestListenersReadsTheKernelsTable(t *testing.T) {
	t.Parallel()
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4243 1 0000000000000000 100 0 0 10 0
   2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4244 1 0000000000000000 100 0 0 10 0
   3: broken
`
	if diff := cmp.Diff([]string{"4242"}, devstack.Listeners(table, 8080)); diff != "" {
		t.Error(diff)
	}
}

func FuzzListeners(f *testing.F) {
	f.Add("0: 0100007F:1F90 0:0 0A 0 0 0 0 0 4242", uint64(8080))
	f.Fuzz(func(_ *testing.T, table string, port uint64) { devstack.Listeners(table, port) })
}

func TestURLOf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		listen string
		tls    bool
		want   string
	}{
		{"127.0.0.1:8080", false, "http://127.0.0.1:8080"},
		{"0.0.0.0:80", true, "https://127.0.0.1:80"},
		{":80", false, "http://127.0.0.1:80"},
		{"[::]:80", false, "http://127.0.0.1:80"},
		{"[::1]:80", false, "http://[::1]:80"},
		{"db.internal:80", false, "http://db.internal:80"},
		{"nonsense", false, ""},
	} {
		if got := devstack.URLOf(tt.listen, tt.tls); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.listen, got, tt.want)
		}
	}
}

func TestDamagedPortMemoryIsNoMemory(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ports.json")
	for text, want := range map[string]int{`{"redis":7000}`: 7000, `{"redis":700000}`: 0, "{": 0, "": 0} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := devstack.ReadPorts(path); got != want || err != nil {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}

func TestALockNamesItsHolderAndEndsWithRelease(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	if got := devstack.LockHolder(path); got != "" {
		t.Errorf("no lock is held by %s", got)
	}
	lock, err := devstack.Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = devstack.Lock(path); !errors.Is(err, devstack.ErrLocked) || !strings.Contains(err.Error(), "devstack.test") {
		t.Errorf("second Lock = %v", err)
	}
	if got := devstack.LockHolder(path); !strings.Contains(got, "devstack.test") {
		t.Errorf("held by %q", got)
	}
	lock.Release()
	if lock, err = devstack.Lock(path); err != nil {
		t.Fatal(err)
	}
	lock.Release()
}

func TestHasVarMatchesWholeVariables(t *testing.T) {
	t.Parallel()
	env := []byte("A=1\x00RS_STACK_CHILD=serve:/data\x00B=2\x00")
	for mark, want := range map[string]bool{"RS_STACK_CHILD=serve:/data": true, "RS_STACK_CHILD=serve:/dat": false, "STACK_CHILD=serve:/data": false} {
		if got := devstack.HasVar(env, []byte(mark)); got != want {
			t.Errorf("%s: %v", mark, got)
		}
	}
}

func TestOthersPassThroughOurTemporaryFoldersOnly(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return // only root runs others
	}
	nobody, err := proc.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(t.TempDir(), "a", "data")
	if err = os.MkdirAll(inside, 0o700); err != nil {
		t.Fatal(err)
	}
	if err = devstack.LetPass(t.Context(), inside, nobody); err != nil {
		t.Fatal(err)
	}
	if err = nobody.CanEnter(inside); err != nil {
		t.Error(err)
	}
	outside, err := os.MkdirTemp("/var", "rs-devstack-*") //nolint:usetesting // not among the temporary files, that is the point
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(outside) })
	err = devstack.LetPass(t.Context(), filepath.Join(outside, "data"), nobody)
	if !errors.Is(err, devstack.ErrAccess) || !strings.Contains(err.Error(), outside) {
		t.Errorf("a folder that is not ours to open: %v", err)
	}
	if info, gone := os.Stat(outside); gone != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("it was opened: %v, %v", info.Mode(), gone)
	}
	if err = os.Chown(inside, int(nobody.UID), int(nobody.GID)); err != nil {
		t.Fatal(err)
	}
	redis := proc.Account{Name: "somebody", UID: nobody.UID - 1, GID: nobody.GID - 1}
	if err = os.Chmod(inside, 0o700); err != nil {
		t.Fatal(err)
	}
	if err = devstack.LetPass(t.Context(), inside, redis); !errors.Is(err, devstack.ErrAccess) {
		t.Errorf("another user's folder: %v", err)
	}
}

func TestChecksSayWhatIsWrongAndWhatHelps(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	folder := filepath.Join(home(t), "data")
	if err = os.MkdirAll(filepath.Join(folder, "postgres"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err = os.WriteFile(filepath.Join(folder, "postgres", "PG_VERSION"), []byte("9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lock, err := devstack.Lock(filepath.Join(folder, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	checks := devstack.Checks(t.Context(), devstack.Config{
		DataDir: folder, Listen: taken.Addr().String(), RedisServer: "/bin/true", MinFree: 1 << 62,
	})
	if len(checks) != 6 {
		t.Errorf("%d checks", len(checks))
	}
	for _, c := range checks {
		if wantOK := c.Name == "data_folder"; c.OK != wantOK || c.Detail == "" || (!c.OK && c.Remedy == "") {
			t.Errorf("%+v", c)
		}
	}
	for _, c := range devstack.Checks(t.Context(), devstack.Config{DataDir: filepath.Join(home(t), "new"), Listen: "127.0.0.1:0"}) {
		if !c.OK && c.Name != "disk_space" {
			t.Errorf("on a good machine: %+v", c)
		}
	}
	if bad := devstack.Checks(t.Context(), devstack.Config{DataDir: "/x", Listen: "nonsense"}); len(bad) != 1 || bad[0].OK {
		t.Errorf("a bad address: %+v", bad)
	}
	if err = os.WriteFile(filepath.Join(folder, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range devstack.Checks(t.Context(), devstack.Config{DataDir: filepath.Join(folder, "file"), PostgresBin: "/nonexistent"}) {
		if (c.Name == "data_folder" || c.Name == "postgres_binaries") && c.OK {
			t.Errorf("a file for a folder: %+v", c)
		}
	}
}

func TestADiskIsFullBelowAShareUnlessThatIsPlentyAndBelowWhatIsNeeded(t *testing.T) {
	t.Parallel()
	const mib, gib = 1 << 20, 1 << 30
	for _, tt := range []struct {
		free, size, least uint64
		want              bool
		less              string
	}{
		{6 * gib, 50 * gib, 512 * mib, true, ""},
		{4 * gib, 50 * gib, 512 * mib, false, ": less than 5120 MiB"},
		{11 * gib, 1000 * gib, 512 * mib, true, ""}, // 1 %, and plenty
		{9 * gib, 1000 * gib, 512 * mib, false, ": less than 10240 MiB"},
		{600 * mib, 2 * gib, 512 * mib, true, ""},
		{400 * mib, 2 * gib, 512 * mib, false, ": less than 512 MiB"},
		{0, 0, 512 * mib, false, ": less than 512 MiB"},
		{1 << 62, 1 << 63, 512 * mib, true, ""},
	} {
		c := devstack.JudgeSpace("/data", tt.free, tt.size, tt.least)
		if c.OK != tt.want || (c.Remedy == "") != tt.want || !strings.HasSuffix(c.Detail, tt.less) {
			t.Errorf("%d of %d: %+v", tt.free, tt.size, c)
		}
	}
}

func TestPlanRefusesABadAddressAndNoFolder(t *testing.T) {
	t.Parallel()
	for _, cfg := range []devstack.Config{{}, {DataDir: "/x", Listen: "8080"}} {
		if _, err := devstack.Plan(cfg); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

func TestTwoSpellingsOfAFolderAreOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	l, err := devstack.Plan(devstack.Config{DataDir: link})
	if err != nil {
		t.Fatal(err)
	}
	if real, _ := filepath.EvalSymlinks(dir); l.DataDir != real {
		t.Errorf("planned in %s", l.DataDir)
	}
}

func TestARedisPortThatAStrangerHasIsReplaced(t *testing.T) {
	t.Parallel()
	stranger, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Close() }()
	folder := filepath.Join(home(t), "data")
	s := up(t, folder, 0)
	s.stop()
	_, port, _ := strings.Cut(stranger.Addr().String(), ":")
	if err = os.WriteFile(filepath.Join(s.layout.RunDir, "ports.json"), []byte(`{"redis":`+port+`}`), 0o600); err != nil {
		t.Fatal(err)
	}
	again := up(t, folder, 0)
	if got := again.layout.RedisPort; got == 0 || port == strconv.Itoa(got) {
		t.Errorf("redis is at %d", got)
	}
	client, err := os.ReadFile(again.layout.ClientFile)
	if err != nil || !strings.Contains(string(client), "127.0.0.1:"+strconv.Itoa(again.layout.RedisPort)+"/0") {
		t.Errorf("the client file does not know: %v", err)
	}
	again.stop()
}

func TestAFolderOfSomebodyElseIsRefused(t *testing.T) {
	t.Parallel()
	folder := "/" // of root, who else would have to be root to make one of another user
	if os.Geteuid() == 0 {
		folder = filepath.Join(home(t), "data")
		if err := errors.Join(os.Mkdir(folder, 0o700), os.Chown(folder, 65534, 65534)); err != nil {
			t.Fatal(err)
		}
	}
	if err := refused(t, stackConfig(folder, "127.0.0.1:0")); !errors.Is(err, devstack.ErrAccess) || !strings.Contains(err.Error(), "belongs to another user") {
		t.Errorf("refused with %v", err)
	}
}
