package proc

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

const maxFile = 1 << 20 // a configuration is far smaller

// WriteFile replaces a file in a folder of the account by a private one of the
// account's. Whoever owns the folder may put links into it or swap names at any
// time: what is given away is the file just made, never what its name leads to.
func (a Account) WriteFile(path, text string, sync bool) error {
	dir, err := a.open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	name := filepath.Base(path)
	temp := name + "." + rand.Text() + ".tmp"
	f, err := dir.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err == nil && a.Foreign() {
		err = f.Chown(int(a.UID), int(a.GID))
	}
	if sync && err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = dir.Rename(temp, name)
	}
	if err != nil {
		_ = dir.Remove(temp)
	}
	return err
}

// ReadFile reads a small file in a folder of the account. Root reads nothing
// for it that the account could not read itself: no link that leads elsewhere,
// no file of somebody else.
func (a Account) ReadFile(path string) ([]byte, error) {
	dir, err := a.open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	f, err := dir.OpenFile(filepath.Base(path), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || (a.Foreign() && !a.owns(info)) {
		return nil, fmt.Errorf("%s is not a file of user %s", path, a.Name)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(raw) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return raw, err
}

// open opens a folder, which must be the account's if that is not our own: then it matters not where its name led.
func (a Account) open(dir string) (*os.Root, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	info, err := root.Stat(".")
	if err == nil && a.Foreign() && !a.owns(info) {
		err = fmt.Errorf("%s is not a folder of user %s", dir, a.Name)
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

func (a Account) owns(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Uid == a.UID
}

// OursAlone reports whether it is a folder of the user we run as, in which nobody else can write.
func OursAlone(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.IsDir() && info.Mode().Perm()&0o022 == 0 && int(st.Uid) == os.Geteuid()
}
