// Package file is a storage in a folder: one file per object, private to its
// owner.
//
// A file appears under its name only when it is whole and on disk, and the
// folder that names it is on disk too before a call returns. It starts no
// goroutine. The door is [Open].
package file

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rootstream/backup/storage"
	"rootstream/internal/flock"
	"rootstream/internal/wait"
)

const (
	drafts   = ".drafts"       // files being written
	lockFile = ".lock"         // held for the moment of a Swap
	stale    = 24 * time.Hour  // a draft this old is nobody's
	piece    = 4 << 20         // written between two looks at the context
	maxTag   = 1 << 20         // larger objects are never swapped and have no tag
	rename   = 5               // tries, when a folder goes while we write into it
	patience = 5 * time.Second // for the lock
)

// Storage is a folder that holds objects. It is safe for concurrent use, also by many processes.
type Storage struct {
	root *os.Root
	dir  string
}

// Open opens the folder dir, which is made if create is set.
func Open(dir string, create bool) (*Storage, error) {
	if !filepath.IsAbs(dir) {
		return nil, storage.ErrName.WithCause(fmt.Errorf("file://%s: the path has to be absolute", dir))
	}
	if create {
		if err := makeRoot(dir); err != nil {
			return nil, describe("create the repository's folder", err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, describe("open the repository's folder", err)
	}
	s := &Storage{root: root, dir: filepath.Clean(dir)}
	s.dropDrafts()
	return s, nil
}

// makeRoot makes dir and what leads to it, and puts both on disk.
func makeRoot(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(dir)
	if err := makeRoot(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(os.Open(parent)) //nolint:gosec // the operator names the folder
}

// Close lets go of the folder.
func (s *Storage) Close() error { return s.root.Close() }

// URL names the folder.
func (s *Storage) URL() string { return "file://" + s.dir }

// Put creates an object.
func (s *Storage) Put(ctx context.Context, name string, body []byte) error {
	if err := storage.CheckName(name); err != nil {
		return err
	}
	draft, err := s.draft(ctx, body)
	if err != nil {
		return describe("write "+name, err)
	}
	defer func() { _ = s.root.Remove(draft) }()
	err = s.place(name, func() error { return s.root.Link(draft, name) })
	if errors.Is(err, fs.ErrExist) { // whoever put it there may have been killed before its folder was on disk
		if err = s.sync(path.Dir(name)); err == nil {
			return storage.ErrExists.WithCause(errors.New(name))
		}
	}
	return describe("write "+name, err)
}

// Swap replaces an object.
func (s *Storage) Swap(ctx context.Context, name string, body []byte, tag string) (string, error) {
	if err := storage.CheckName(name); err != nil {
		return "", err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return "", describe("lock the repository's folder", err)
	}
	defer unlock()
	was, err := s.tag(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", describe("read "+name, err)
	}
	if was != tag {
		return "", storage.ErrChanged.WithCause(errors.New(name))
	}
	draft, err := s.draft(ctx, body)
	if err != nil {
		return "", describe("write "+name, err)
	}
	err = s.place(name, func() error { return s.root.Rename(draft, name) })
	if err != nil {
		_ = s.root.Remove(draft)
		return "", describe("write "+name, err)
	}
	return tagOf(body), nil
}

// Get reads a part of an object.
func (s *Storage) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if err := errors.Join(ctx.Err(), storage.CheckName(name)); err != nil {
		return nil, err
	}
	f, size, err := s.open(name)
	if err != nil {
		return nil, describe("read "+name, err)
	}
	defer func() { _ = f.Close() }()
	if n < 0 {
		if err := storage.TooLarge(name, size-off, n); err != nil {
			return nil, err
		}
		n = max(0, size-off)
	}
	if off < 0 || off+n > size {
		return nil, storage.ErrShort.WithCause(fmt.Errorf("%s has %d bytes, %d are wanted from %d on", name, size, n, off))
	}
	body := make([]byte, n)
	if _, err := f.ReadAt(body, off); err != nil {
		return nil, describe("read "+name, err)
	}
	return body, nil
}

// Stat describes an object.
func (s *Storage) Stat(ctx context.Context, name string) (storage.Object, error) {
	if err := errors.Join(ctx.Err(), storage.CheckName(name)); err != nil {
		return storage.Object{}, err
	}
	info, err := s.root.Lstat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist // a folder of objects, or nothing of ours
	}
	if err != nil {
		return storage.Object{}, describe("look at "+name, err)
	}
	o := object(name, info)
	if o.Size <= maxTag {
		if o.Tag, err = s.tag(name); err != nil {
			return storage.Object{}, describe("look at "+name, err)
		}
	}
	return o, nil
}

func object(name string, info fs.FileInfo) storage.Object {
	return storage.Object{Name: name, Size: info.Size(), Modified: info.ModTime()}
}

// Delete removes an object, and folders that it leaves empty.
func (s *Storage) Delete(ctx context.Context, name string) error {
	if err := errors.Join(ctx.Err(), storage.CheckName(name)); err != nil {
		return err
	}
	err := s.root.Remove(name)
	if err == nil {
		err = s.sync(path.Dir(name))
	}
	if err = describe("delete "+name, err); !errors.Is(err, storage.ErrNotFound) && err != nil {
		return err
	}
	for dir := path.Dir(name); dir != "." && s.root.Remove(dir) == nil; { // until one is not empty
		dir = path.Dir(dir)
	}
	return nil
}

// Now dates a draft.
func (s *Storage) Now(ctx context.Context) (time.Time, error) {
	draft, err := s.draft(ctx, nil)
	if err != nil {
		return time.Time{}, describe("read the folder's clock", err)
	}
	defer func() { _ = s.root.Remove(draft) }()
	info, err := s.root.Lstat(draft)
	if err != nil {
		return time.Time{}, describe("read the folder's clock", err)
	}
	return info.ModTime(), nil
}

// draft writes a file that nobody sees yet, and puts it on disk.
func (s *Storage) draft(ctx context.Context, body []byte) (_ string, err error) {
	if err = s.root.Mkdir(drafts, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	name := drafts + "/" + rand.Text()
	f, err := s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return "", err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = s.root.Remove(name)
		}
	}()
	for rest := body; ; rest = rest[min(piece, len(rest)):] {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if len(rest) == 0 {
			return name, f.Sync()
		}
		if _, err := f.Write(rest[:min(piece, len(rest))]); err != nil {
			return "", err
		}
	}
}

// place puts a draft under its name and makes that durable. A folder may be
// removed by a Delete that emptied it just before we use it: then once more.
func (s *Storage) place(name string, put func() error) error {
	for try := 1; ; try++ {
		err := s.makeDirs(path.Dir(name))
		if err == nil {
			err = put()
		}
		if errors.Is(err, fs.ErrNotExist) && try < rename {
			continue
		}
		if err != nil {
			return err
		}
		return s.sync(path.Dir(name))
	}
}

func (s *Storage) makeDirs(dir string) error {
	if dir == "." {
		return nil
	}
	if info, err := s.root.Lstat(dir); err == nil && info.IsDir() {
		return nil
	}
	if err := s.makeDirs(path.Dir(dir)); err != nil {
		return err
	}
	if err := s.root.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return s.sync(path.Dir(dir))
}

func (s *Storage) sync(dir string) error { return syncDir(s.root.Open(dir)) }

func syncDir(dir *os.File, err error) error {
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// open opens an object for reading; nothing but a regular file is one.
func (s *Storage) open(name string) (*os.File, int64, error) {
	f, err := s.root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		err = fmt.Errorf("%s is a link: %w", name, fs.ErrPermission)
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// tag is the hash of a small object's content.
func (s *Storage) tag(name string) (string, error) {
	f, _, err := s.open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	body, err := io.ReadAll(io.LimitReader(f, maxTag))
	return tagOf(body), err
}

func tagOf(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:16])
}

// lock waits for the folder's lock; the kernel takes it from a process that dies.
func (s *Storage) lock(ctx context.Context) (unlock func(), _ error) {
	f, err := s.root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	held, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := flock.Try(f)
		if err == nil {
			return func() { _ = flock.Release(f) }, nil
		}
		if !errors.Is(err, flock.ErrHeld) {
			return nil, errors.Join(err, f.Close())
		}
		if wait.For(held, 2*time.Millisecond) != nil {
			return nil, errors.Join(cmp.Or(ctx.Err(), err), f.Close())
		}
	}
}

// dropDrafts removes what writers left behind that were killed.
func (s *Storage) dropDrafts() {
	entries, err := fs.ReadDir(s.root.FS(), drafts)
	if err != nil {
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > stale {
			_ = s.root.Remove(drafts + "/" + e.Name())
		}
	}
}

// describe says what we were doing, and turns what the system says into what a storage says.
func describe(doing string, err error) error {
	if err == nil {
		return nil
	}
	kind := storage.ErrUnreachable
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w", doing, err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		kind = storage.ErrNotFound
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.ELOOP):
		kind = storage.ErrDenied
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		kind = storage.ErrFull
	}
	return fmt.Errorf("%s: %w", doing, kind.WithCause(err))
}
