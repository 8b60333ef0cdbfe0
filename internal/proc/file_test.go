package proc_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"rootstream/internal/proc"
)

// tenant is an account whose folder a test works in: another one if we are
// root, who alone can be led astray, else our own.
func tenant(t *testing.T) (a proc.Account, dir string) {
	t.Helper()
	a, err := proc.Unprivileged("nobody")
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "folder")
	if err = a.MkdirAll(dir); err != nil {
		t.Fatal(err)
	}
	return a, dir
}

func owner(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}

// secretFile is a private file of ours that the account must not come by.
func secretFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "master.key")
	if err := os.WriteFile(path, []byte("the key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFilesAreMadeForTheAccountAlone(t *testing.T) {
	t.Parallel()
	a, dir := tenant(t)
	path := filepath.Join(dir, "some.conf")
	for _, text := range []string{"one\n", "two\n"} {
		if err := a.WriteFile(path, text, true); err != nil {
			t.Fatal(err)
		}
		raw, err := a.ReadFile(path)
		if err != nil || string(raw) != text {
			t.Errorf("read %q, %v", raw, err)
		}
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != 0o600 || owner(t, path) != a.UID {
		t.Errorf("%v of %d, %v", info.Mode(), owner(t, path), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestLinksLeadRootNowhere(t *testing.T) {
	t.Parallel()
	a, dir := tenant(t)
	key := secretFile(t)
	path := filepath.Join(dir, "some.conf")
	if err := os.Symlink(key, path); err != nil {
		t.Fatal(err)
	}
	if raw, err := a.ReadFile(path); err == nil {
		t.Errorf("read %q through a link", raw)
	}
	if err := a.Own(path); err != nil {
		t.Error(err)
	}
	if got := owner(t, key); int(got) != os.Geteuid() {
		t.Errorf("what the link leads to belongs to %d", got)
	}
	if err := a.WriteFile(path, "new\n", false); err != nil {
		t.Fatal(err)
	}
	if raw, _ := os.ReadFile(key); string(raw) != "the key\n" || int(owner(t, key)) != os.Geteuid() {
		t.Errorf("the key holds %q and belongs to %d", raw, owner(t, key))
	}
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		t.Errorf("the link is still there: %v", err)
	}
}

func TestOnlyFilesAreRead(t *testing.T) {
	t.Parallel()
	a, dir := tenant(t)
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, 1<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Lchown(filepath.Join(dir, "large"), int(a.UID), int(a.GID)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pipe", "large", "missing"} {
		if _, err := a.ReadFile(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

func TestRootWorksInTheAccountsOwnFolderAlone(t *testing.T) {
	t.Parallel()
	a, dir := tenant(t)
	if !a.Foreign() {
		return // who is not root can do nothing that the account cannot
	}
	if err := os.Link(secretFile(t), filepath.Join(dir, "hard")); err != nil {
		t.Fatal(err)
	}
	if raw, err := a.ReadFile(filepath.Join(dir, "hard")); err == nil {
		t.Errorf("read %q, a file of root", raw)
	}
	ours := t.TempDir()
	elsewhere := filepath.Join(dir, "elsewhere")
	if err := os.Symlink(ours, elsewhere); err != nil {
		t.Fatal(err)
	}
	if err := a.WriteFile(filepath.Join(elsewhere, "x"), "", false); err == nil {
		t.Error("wrote into a folder of root")
	}
	if entries, _ := os.ReadDir(ours); len(entries) != 0 {
		t.Errorf("root's folder holds %v", entries)
	}
}
