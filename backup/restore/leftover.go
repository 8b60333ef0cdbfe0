package restore

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const someNames = 1000 // of a folder, which may hold very many

// each tells of everything in a folder, of which it has only some in memory at a time, and closes it. It returns the
// names of the folders in it.
func each(folder *os.File, tell func(fs.DirEntry) error) (folders []string, err error) {
	defer func() { err = errors.Join(err, folder.Close()) }()
	for {
		some, end := folder.ReadDir(someNames)
		for _, e := range some {
			if e.IsDir() {
				folders = append(folders, e.Name())
			}
			if err = tell(e); err != nil {
				return nil, err
			}
		}
		if errors.Is(end, io.EOF) {
			return folders, nil
		}
		if end != nil {
			return nil, end
		}
	}
}

// usage returns what the files of a folder take up. What cannot be seen gives no room.
func usage(dir string) (sum int64) {
	folder, err := os.Open(dir) //nolint:gosec // the operator's own
	if err != nil {
		return 0
	}
	folders, _ := each(folder, func(e fs.DirEntry) error {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				const sector = 512
				sum += st.Blocks * sector
			}
		}
		return nil
	})
	for _, name := range folders {
		sum += usage(filepath.Join(dir, name))
	}
	return sum
}

// removeLeftovers removes what the backup does not have: files of a later time would be taken for the cluster's own.
func (j *Job) removeLeftovers(ctx context.Context) error {
	if err := j.prune(ctx, j.tree.data, ".", ""); err != nil {
		return err
	}
	for _, s := range j.tree.spaces {
		if _, err := s.root.Lstat(j.version()); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		if err := j.prune(ctx, s.root, j.version(), s.link+"/"); err != nil {
			return err
		}
	}
	return nil
}

// prune removes everything in a folder that the backup does not know under prefix and its path. A folder that changes
// while it is read may hide some of what it holds: it is read until there is nothing to remove.
func (j *Job) prune(ctx context.Context, root *os.Root, dir, prefix string) error {
	var folders []string
	unlock(root, dir, j.tree.dirMode())
	for removed := true; removed; {
		folder, err := root.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		removed = false
		folders, err = each(folder, func(e fs.DirEntry) error {
			if name := path.Join(dir, e.Name()); !j.stays(prefix + name) {
				removed = true
				return errors.Join(root.RemoveAll(name), context.Cause(ctx))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, name := range folders {
		if name = path.Join(dir, name); !isKept(prefix + name) {
			if err := j.prune(ctx, root, name, prefix); err != nil {
				return err
			}
		}
	}
	return nil
}

// stays reports whether a path of the cluster is none of a leftover.
func (j *Job) stays(name string) bool { return isKept(name) || j.survey.knows(name) }

// isKept reports whether a path is neither the backup's nor a leftover: a note of a restore, or what a file system keeps.
func isKept(name string) bool { return strings.HasPrefix(name, statePath) || name == "lost+found" }
