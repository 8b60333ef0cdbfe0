package restore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"rootstream/backup/repo"
	"rootstream/internal/flock"
	"rootstream/internal/proc"
)

// tree is the data folder that is being restored, and its tablespaces. Whoever owns them may put links into them at
// any time; nothing is written through one, since every path is opened below the root it belongs to.
type tree struct {
	account proc.Account
	dir     string
	data    *os.Root
	disks   []*os.File // the roots' folders, open before anything is written: syncing them tells what failed since; the first is the lock
	spaces  []space
	group   bool // the owner's group may read it, as initdb --allow-group-access has it
}

// space is a tablespace: the folder that pg_tblspc/<oid> leads to.
type space struct {
	oid      uint32
	link     string // pg_tblspc/16400
	location string
	asked    bool // whoever restores named the folder: a backup's word is not enough for root
	root     *os.Root
}

// openTree makes the folders of a restore and opens them.
func openTree(dir string, account proc.Account, spaces []space, group bool) (*tree, error) {
	t := &tree{account: account, dir: dir, group: group}
	var err error
	if t.data, err = t.openRoot(dir, true); err != nil {
		return nil, err
	}
	lock, err := alone(t.data)
	if err != nil {
		return nil, errors.Join(err, t.close())
	}
	t.disks = append(t.disks, lock)
	for _, s := range spaces {
		if s.root, err = t.openRoot(s.location, s.asked); err != nil {
			return nil, errors.Join(err, t.close())
		}
		t.spaces = append(t.spaces, s)
		disk, failed := s.root.Open(".")
		if failed != nil {
			return nil, ErrTarget.WithCause(errors.Join(failed, t.close()))
		}
		t.disks = append(t.disks, disk)
	}
	return t, nil
}

// alone locks a folder against other restores.
func alone(root *os.Root) (*os.File, error) {
	f, err := root.Open(".")
	if err != nil {
		return nil, ErrTarget.WithCause(err)
	}
	if err = flock.Try(f); err != nil {
		return nil, ErrTarget.WithCause(errors.Join(fmt.Errorf("another restore writes to %s: %w", root.Name(), err), f.Close()))
	}
	return f, nil
}

// openRoot opens a folder. One that nobody asked for has to be the account's already.
func (t *tree) openRoot(dir string, asked bool) (*os.Root, error) {
	var made error
	if asked {
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // others pass through, the last folder is private
			return nil, ErrTarget.WithCause(err)
		}
		made = os.Mkdir(dir, 0o700)
	}
	if made != nil && !errors.Is(made, fs.ErrExist) {
		return nil, ErrTarget.WithCause(made)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, ErrTarget.WithCause(err)
	}
	if err = t.take(root, asked); err != nil {
		return nil, ErrTarget.WithCause(errors.Join(fmt.Errorf("%s: %w", dir, err), root.Close()))
	}
	return root, nil
}

// take makes an open folder the account's alone, whatever its name leads to by now. Given away is only what is empty,
// ours and was asked for.
func (t *tree) take(root *os.Root, asked bool) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	owner, err := ownerOfFile(d)
	if err != nil {
		return err
	}
	if owner != t.account.UID {
		inside, err := d.Readdirnames(2)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		empty := len(inside) == 0 || slices.Equal(inside, []string{"lost+found"})
		if !empty || !asked || !t.account.Foreign() || int(owner) != os.Geteuid() {
			return fmt.Errorf("it belongs to another user (uid %d)", owner)
		}
		if err = d.Chown(int(t.account.UID), int(t.account.GID)); err != nil {
			return err
		}
	}
	return d.Chmod(t.dirMode())
}

func ownerOfFile(f *os.File) (uint32, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("%s: its owner cannot be told", f.Name())
	}
	return st.Uid, nil
}

// names is how many names a file has: what is written to it is written to all of them.
func names(info fs.FileInfo) uint64 {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 1
	}
	return uint64(st.Nlink) //nolint:unconvert // of another size elsewhere
}

func (t *tree) close() error {
	err := t.data.Close()
	for _, d := range t.disks {
		err = errors.Join(err, flock.Release(d))
	}
	for _, s := range t.spaces {
		err = errors.Join(err, s.root.Close())
	}
	return err
}

func (t *tree) dirMode() fs.FileMode {
	if t.group {
		return 0o750
	}
	return 0o700
}

func (t *tree) fileMode() fs.FileMode {
	if t.group {
		return 0o640
	}
	return 0o600
}

// at returns the root that a path of the manifest belongs to, and the path below it.
func (t *tree) at(name string) (*os.Root, string) {
	for _, s := range t.spaces {
		if rest, ok := strings.CutPrefix(name, s.link+"/"); ok {
			return s.root, rest
		}
	}
	return t.data, name
}

// mkdir makes a folder, in place of whatever else has its name.
func (t *tree) mkdir(name string) error {
	root, rel := t.at(name)
	info, err := root.Lstat(rel)
	switch {
	case err == nil && info.IsDir():
	case err == nil:
		if err = root.Remove(rel); err != nil {
			return err
		}
		fallthrough
	case errors.Is(err, fs.ErrNotExist):
		if err = root.Mkdir(rel, t.dirMode()); err != nil {
			return err
		}
	default:
		return err
	}
	if err = root.Chmod(rel, t.dirMode()); err != nil { // what the umask took, or another owner gave
		return err
	}
	return t.own(root, rel)
}

// link makes a link. Nothing is ever written through it.
func (t *tree) link(name, target string) error {
	root, rel := t.at(name)
	if old, err := root.Readlink(rel); err == nil && old == target {
		return nil
	}
	if err := root.RemoveAll(rel); err != nil {
		return err
	}
	if err := root.Symlink(target, rel); err != nil {
		return err
	}
	return t.own(root, rel)
}

// unlock lets the owner at what its mode keeps even him from, as that of keys and certificates often does. If that cannot
// be, whoever opens it says why.
func unlock(root *os.Root, rel string, mode fs.FileMode) {
	if info, err := root.Lstat(rel); err == nil && info.Mode()&fs.ModeSymlink == 0 && info.Mode()&mode != mode {
		_ = root.Chmod(rel, mode)
	}
}

// create opens a file of a given size for writing; holes are zeros. With keep, what it holds stays.
func (t *tree) create(name string, size int64, keep bool) (*os.File, error) {
	root, rel := t.at(name)
	if info, err := root.Lstat(rel); err == nil && (!info.Mode().IsRegular() || names(info) > 1) {
		if err = root.RemoveAll(rel); err != nil {
			return nil, err
		}
	}
	unlock(root, rel, t.fileMode())
	flags := os.O_CREATE | os.O_RDWR | unix.O_NOFOLLOW
	if !keep {
		flags |= os.O_TRUNC
	}
	f, err := root.OpenFile(rel, flags, t.fileMode())
	if err != nil {
		return nil, err
	}
	err = f.Chmod(t.fileMode())
	if err == nil && t.account.Foreign() {
		err = f.Chown(int(t.account.UID), int(t.account.GID))
	}
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// reserve has the disk keep room for all of a file. Then it lies in one piece, whatever the order in which it is written,
// and writing it takes less of the kernel.
func reserve(f *os.File, size int64) error {
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); errors.Is(err, unix.ENOSPC) {
		return err
	}
	return nil // not every filesystem can
}

// open opens a file for writing that create has made.
func (t *tree) open(name string) (*os.File, error) {
	root, rel := t.at(name)
	return root.OpenFile(rel, os.O_WRONLY|unix.O_NOFOLLOW, 0)
}

// openDirect is open, past the cache.
func (t *tree) openDirect(name string) (*os.File, error) {
	root, rel := t.at(name)
	return root.OpenFile(rel, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_DIRECT, 0)
}

// put writes a small file so that it is there as a whole or not at all, even after a loss of power.
func (t *tree) put(name string, content []byte) error {
	temp := name + ".restore.tmp"
	f, err := t.create(temp, 0, false)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = t.data.Rename(temp, name); err != nil {
		return err
	}
	return t.syncDir(path.Dir(name))
}

// remove removes a file of the data folder for good.
func (t *tree) remove(name string) error {
	if err := t.data.Remove(name); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return t.syncDir(path.Dir(name))
}

func (t *tree) syncDir(name string) error {
	d, err := t.data.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// sync waits until everything that was written is on the disks.
func (t *tree) sync() error {
	roots := []*os.Root{t.data}
	for _, s := range t.spaces {
		roots = append(roots, s.root)
	}
	for i, root := range roots {
		if err := unix.Syncfs(int(t.disks[i].Fd())); err != nil {
			return fmt.Errorf("write %s to disk: %w", root.Name(), err)
		}
		if err := syncParent(root.Name()); err != nil {
			return err
		}
	}
	return nil
}

func syncParent(dir string) error {
	d, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (t *tree) own(root *os.Root, rel string) error {
	if !t.account.Foreign() {
		return nil
	}
	return root.Lchown(rel, int(t.account.UID), int(t.account.GID))
}

// checkPath accepts what a path in a data folder can be.
func checkPath(f repo.File) error {
	if !filepath.IsLocal(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "." || strings.ContainsRune(f.Path, 0) {
		return repo.ErrDamaged.WithCause(fmt.Errorf("%.200q is not a path in a data folder", f.Path))
	}
	if f.Size < 0 {
		return repo.ErrDamaged.WithCause(fmt.Errorf("%.200q has %d bytes", f.Path, f.Size))
	}
	return nil
}
