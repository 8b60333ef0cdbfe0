package pgdata

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Kind is what kind of thing an [Entry] is.
type Kind uint8

// What a data folder is made of.
const (
	Regular Kind = iota
	Dir
	Symlink // to a tablespace, whose content follows as that of a folder, or to a file of another user
)

// Entry is something that belongs into a copy of a data folder.
type Entry struct {
	Path     string // relative, with slashes
	Kind     Kind
	Mode     uint32 // permissions
	Size     int64
	ModTime  int64    // in ns; 0 when the file was changed just now and may change again without another time showing it
	Target   string   // of a Symlink
	Relation Relation // of a file made of blocks, if Blocks
	Blocks   bool
}

// Walk goes through what a copy of the data folder needs, in the order of [ComparePaths]; catalog and major name the
// version's folder in tablespaces. Files that vanish are left out. Links to folders, and to files of the folder's
// owner, are followed: what they lead to is copied as if it were in their place. Only the names of one folder at a
// time are held in memory.
func Walk(ctx context.Context, dir string, major int, catalog uint32) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		w := walker{dir: dir, version: fmt.Sprintf("PG_%d_%d", major, catalog), yield: yield}
		root, err := os.Stat(dir)
		if err != nil {
			w.fail(err)
			return
		}
		w.owner = owner(root)
		if w.folder(ctx, place{}) && w.control != nil {
			yield(*w.control, nil)
		}
	}
}

type walker struct {
	dir     string
	version string
	owner   uint32
	yield   func(Entry, error) bool
	control *Entry // kept for the end
}

// place is something in the data folder.
type place struct {
	path  string
	in    folder // for a file or link: what it lies in; for a folder that is gone through: what it is
	depth int
}

func (p place) inner(name string) place { return place{path.Join(p.path, name), p.in, p.depth + 1} }

const maxDepth = 32 // PostgreSQL has 5; deeper is a link that leads to its own folder

// folder goes through one folder; false ends the walk.
func (w *walker) folder(ctx context.Context, p place) bool {
	if p.depth > maxDepth {
		return w.fail(fmt.Errorf("%.100s… is too deep: a link leads to a folder it is in", p.path))
	}
	names, err := w.names(p)
	if err != nil {
		return w.fail(err)
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			w.yield(Entry{}, err)
			return false
		}
		if !w.visit(ctx, p.inner(name)) {
			return false
		}
	}
	return true
}

// names returns what is in a folder, in order, without what a copy leaves out.
func (w *walker) names(p place) ([]string, error) {
	if p.in == empty {
		return nil, nil
	}
	f, err := os.Open(filepath.Join(w.dir, p.path))
	if errors.Is(err, fs.ErrNotExist) && p.path != "" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	names, err := f.Readdirnames(-1)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		return p.in.skips(name) || p.in == tablespace && name != w.version
	})
	if p.in == database {
		names = withoutUnlogged(names)
	}
	slices.Sort(names)
	return names, nil
}

func (w *walker) visit(ctx context.Context, p place) bool {
	now := time.Now()
	info, err := os.Lstat(filepath.Join(w.dir, p.path))
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		return w.fail(err)
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return w.link(ctx, p, now)
	case info.IsDir():
		return w.dirEntry(ctx, p, info)
	case info.Mode().IsRegular():
		return w.file(p, info, now)
	}
	return true // sockets and the like
}

func (w *walker) dirEntry(ctx context.Context, p place, info fs.FileInfo) bool {
	inside := place{p.path, p.in.within(path.Base(p.path)), p.depth}
	if p.in == writeAheadLog {
		inside.in = empty
	}
	return w.yield(Entry{Path: p.path, Kind: Dir, Mode: uint32(info.Mode().Perm())}, nil) && w.folder(ctx, inside)
}

func (w *walker) file(p place, info fs.FileInfo, now time.Time) bool {
	e := Entry{Path: p.path, Mode: uint32(info.Mode().Perm()), Size: info.Size(), ModTime: settled(info.ModTime(), now)}
	if p.in == database || p.in == shared {
		e.Relation, e.Blocks = ParseRelation(path.Base(p.path))
	}
	if p.path == ControlPath {
		w.control = &e
		return true
	}
	return w.yield(e, nil)
}

// link follows a link. Those of tablespaces stay links, and those to files of other users, which may be secrets of the
// machine that the database's owner cannot read.
func (w *walker) link(ctx context.Context, p place, now time.Time) bool {
	full := filepath.Join(w.dir, p.path)
	info, err := os.Stat(full)
	if err != nil && p.in == tablespaces {
		return w.fail(fmt.Errorf("the folder of a tablespace: %w", err))
	}
	if err == nil && info.IsDir() && p.in != tablespaces {
		return w.dirEntry(ctx, p, info)
	}
	if err == nil && info.Mode().IsRegular() && owner(info) == w.owner {
		return w.file(p, info, now)
	}
	target, err := os.Readlink(full)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		return w.fail(err)
	}
	const all = 0o777
	if !w.yield(Entry{Path: p.path, Kind: Symlink, Mode: all, Target: target}, nil) {
		return false
	}
	return p.in != tablespaces || w.folder(ctx, place{p.path, tablespace, p.depth})
}

func (w *walker) fail(err error) bool {
	w.yield(Entry{}, ErrFolder.WithCause(err))
	return false
}

func owner(info fs.FileInfo) uint32 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Uid
	}
	return 0
}

// settled returns a file's time if a later change cannot show the same one: 0 for a file that was changed just before we
// looked. File systems that keep only whole seconds may round by two. And a file gets its new time when a write to it
// begins: one that waits, for memory or for the journal of a busy disk, brings its data later under that same time.
func settled(changed, now time.Time) int64 {
	const grain = 2 * time.Second
	if changed.Add(grain).After(now) && !changed.After(now.Add(grain)) {
		return 0
	}
	return changed.UnixNano()
}

// Open opens a file of a data folder for reading. It refuses a file of another user that not everybody can read:
// whoever owns the database must not get at files of the machine through us. fs.ErrNotExist: it vanished.
func Open(dir, rel string) (*os.File, error) {
	full := filepath.Join(dir, filepath.FromSlash(rel))
	f, err := os.OpenFile(full, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // the operator's data folder; a pipe must not hold us up
	if err != nil {
		return nil, err
	}
	if err = mayRead(dir, f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s: %w", rel, err)
	}
	return f, nil
}

func mayRead(dir string, f *os.File) error {
	root, err := os.Stat(dir)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	const world = 0o004
	if !info.Mode().IsRegular() || owner(info) != owner(root) && info.Mode().Perm()&world == 0 {
		return ErrForeign
	}
	return nil
}

// Major returns the major version that a data folder is of, as its PG_VERSION says.
func Major(dir string) (int, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "PG_VERSION")) //nolint:gosec // the operator's data folder
	if err != nil {
		return 0, ErrFolder.WithCause(err).WithHint("name the server's data_directory, and run as a user who may read it")
	}
	n, ok := number(strings.TrimSpace(string(raw)), 16)
	if !ok {
		return 0, ErrFolder.WithCause(fmt.Errorf("PG_VERSION says %.20q", raw))
	}
	return int(n), nil //nolint:gosec // 16 bits
}
