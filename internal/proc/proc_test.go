package proc_test

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"rootstream/internal/proc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sleeping(t *testing.T) *proc.Child {
	t.Helper()
	c, err := proc.Start(exec.Command("sleep", "600"), syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.ID.Signal(syscall.SIGKILL)
		<-c.Done()
	})
	return c
}

func TestAnIDIsAliveUntilItsProcessEnds(t *testing.T) {
	t.Parallel()
	c := sleeping(t)
	id, err := proc.Of(c.ID.PID)
	if err != nil || id != c.ID || !id.Alive() {
		t.Fatalf("Of = %v, %v; want %v", id, err, c.ID)
	}
	if id.Gone(t.Context(), 20*time.Millisecond) {
		t.Error("gone while it runs")
	}
	if at, unknown := id.StartedAt(); unknown != nil || time.Since(at).Abs() > 10*time.Second {
		t.Errorf("started at %v, %v", at, unknown)
	}
	if name, cwd := proc.Command(id.PID); name != "sleep" || cwd == "" {
		t.Errorf("command %q in %q", name, cwd)
	}
	waited := make(chan error, 1)
	go func() { waited <- id.Wait(t.Context()) }()
	if err = id.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err = <-waited; err != nil {
		t.Errorf("Wait = %v", err)
	}
	if c.Err() == nil {
		t.Error("no error after a signal")
	}
	if id.Alive() || !errors.Is(id.Signal(0), proc.ErrGone) || id.Wait(t.Context()) != nil {
		t.Error("a dead process is not gone")
	}
	if _, err = proc.Of(id.PID); !errors.Is(err, proc.ErrGone) {
		t.Errorf("Of a dead process: %v", err)
	}
}

func TestASignalNeverReachesALaterOwnerOfTheNumber(t *testing.T) {
	t.Parallel()
	c := sleeping(t)
	for _, stranger := range []proc.ID{
		{PID: c.ID.PID, Start: c.ID.Start - 1, Boot: c.ID.Boot},
		{PID: c.ID.PID, Start: c.ID.Start, Boot: "another boot"},
		{},
		{PID: -1},
	} {
		if err := stranger.Signal(syscall.SIGKILL); !errors.Is(err, proc.ErrGone) {
			t.Errorf("%v: %v", stranger, err)
		}
	}
	if !c.ID.Alive() {
		t.Error("the process was hit")
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	c := sleeping(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.ID.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait = %v", err)
	}
}

func TestAChildThatCannotStartIsAnError(t *testing.T) {
	t.Parallel()
	if _, err := proc.Start(exec.Command("/nonexistent"), 0); err == nil {
		t.Error("no error")
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	rest := " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20"
	for raw, want := range map[string]string{"1 (plain)" + rest: "plain", "1 (a) b (c)" + rest: "a) b (c"} {
		name, start, err := proc.ParseStat([]byte(raw))
		if err != nil || name != want || start != 4711 {
			t.Errorf("%q: %q, %d, %v", raw, name, start, err)
		}
	}
	for _, raw := range []string{"", "1 plain S", ")(", "1 (x) S 1", "1 (x)" + strings.Replace(rest, "4711", "many", 1)} {
		if _, _, err := proc.ParseStat([]byte(raw)); err == nil {
			t.Errorf("%q was read", raw)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("1 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20"))
	f.Fuzz(func(_ *testing.T, raw []byte) { _, _, _ = proc.ParseStat(raw) })
}

func TestBlockedNamesTheFirstClosedFolder(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	deep := filepath.Join(top, "closed", "deep")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(top), 0o755); err != nil {
		t.Fatal(err)
	}
	closed := filepath.Dir(deep)
	other := proc.Account{Name: "other", UID: 54321, GID: 54321}
	for _, tt := range []struct {
		mode os.FileMode
		who  proc.Account
		want string
	}{
		{0o700, other, closed},
		{0o711, other, ""},
		{0o710, other, closed},
		{0o710, proc.Account{UID: 54321, GID: 54321, Groups: []uint32{uint32(os.Getegid())}}, ""},
		{0o600, proc.Account{UID: uint32(os.Geteuid()), GID: 54321}, closed},
	} {
		if tt.who.UID == 0 {
			continue // root enters everywhere
		}
		if err := os.Chmod(closed, tt.mode); err != nil {
			t.Fatal(err)
		}
		got, err := tt.who.Blocked(filepath.Join(deep, "missing"))
		if err != nil && os.Geteuid() != 0 {
			continue // we cannot look behind our own closed folder
		}
		if err != nil || got != tt.want {
			t.Errorf("mode %v for %v: blocked by %q, %v; want %q", tt.mode, tt.who, got, err, tt.want)
		}
		if (tt.who.CanEnter(deep) == nil) != (tt.want == "") {
			t.Errorf("CanEnter disagrees for mode %v", tt.mode)
		}
	}
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestAccounts(t *testing.T) {
	t.Parallel()
	me, err := proc.Current()
	if err != nil || me.Foreign() || me.Credential() != nil {
		t.Errorf("Current = %+v, %v", me, err)
	}
	if _, err = proc.Lookup("no such user"); err == nil {
		t.Error("found a user that does not exist")
	}
	low, err := proc.Unprivileged("no such user", "nobody")
	if err != nil || low.UID == 0 {
		t.Errorf("Unprivileged = %+v, %v", low, err)
	}
	if os.Geteuid() == 0 {
		if _, err = proc.Unprivileged("root", "no such user"); err == nil {
			t.Error("root passed as unprivileged")
		}
	}
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err = low.MkdirAll(dir); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != low.UID {
		t.Errorf("owner %d, want %d", st.Uid, low.UID)
	}
}

func TestAnAccessListLetsOneUserIn(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	dir := filepath.Join(top, "listed")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(top), 0o755); err != nil {
		t.Fatal(err)
	}
	const none = 0xffffffff
	list := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 7, none}, {2, 1, 54321}, {4, 0, none}, {0x10, 1, none}, {0x20, 0, none}} {
		list = binary.LittleEndian.AppendUint16(list, e.tag)
		list = binary.LittleEndian.AppendUint16(list, e.perm)
		list = binary.LittleEndian.AppendUint32(list, e.id)
	}
	if err := unix.Setxattr(dir, "system.posix_acl_access", list, 0); errors.Is(err, unix.ENOTSUP) {
		return // this file system has no access lists, so nobody is let in by one
	} else if err != nil {
		t.Fatal(err)
	}
	if err := (proc.Account{Name: "listed", UID: 54321, GID: 1}).CanEnter(dir); err != nil {
		t.Error(err)
	}
	if err := (proc.Account{Name: "other", UID: 54322, GID: 1}).CanEnter(dir); err == nil {
		t.Error("another user is let in")
	}
}

func TestAProcessIsUnburiedUntilItsParentWaitsForIt(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); !proc.Unburied(cmd.Process.Pid); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it has ended, nobody waited for it, and it is not unburied")
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if proc.Unburied(cmd.Process.Pid) || proc.Unburied(os.Getpid()) {
		t.Error("a process that was waited for, or one that lives, is unburied")
	}
}

func TestOwnerIsTheAccountOfAFolder(t *testing.T) {
	t.Parallel()
	tenant, dir := tenant(t)
	a, err := proc.Owner(dir)
	if err != nil || a.UID != tenant.UID || a.Name != tenant.Name {
		t.Errorf("%+v, %v; want %+v", a, err, tenant)
	}
	if _, err := proc.Owner(dir + "/missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v of a folder that is not there", err)
	}
}
