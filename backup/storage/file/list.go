package file

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"

	"rootstream/backup/storage"
)

// List goes through the objects whose names begin with prefix. It reads one folder at a time.
func (s *Storage) List(ctx context.Context, prefix string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		dir := "."
		if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
			dir = prefix[:i]
			if err := storage.CheckName(dir); err != nil {
				yield(storage.Object{}, err)
				return
			}
		}
		s.walk(ctx, dir, prefix, yield)
	}
}

// walk reports whether to go on.
func (s *Storage) walk(ctx context.Context, dir, prefix string, yield func(storage.Object, error) bool) bool {
	if err := ctx.Err(); err != nil {
		return yield(storage.Object{}, err)
	}
	entries, err := fs.ReadDir(s.root.FS(), dir)
	if err = describe("list "+dir, err); errors.Is(err, storage.ErrNotFound) {
		return true
	} else if err != nil {
		return yield(storage.Object{}, err)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(sortKey(a), sortKey(b)) })
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if storage.CheckName(name) != nil || !overlaps(sortKeyIn(name, e), prefix) {
			continue
		}
		if e.IsDir() && !s.walk(ctx, name, prefix, yield) || !e.IsDir() && !visit(name, e, yield) {
			return false
		}
	}
	return true
}

// visit reports whether to go on.
func visit(name string, e fs.DirEntry, yield func(storage.Object, error) bool) bool {
	info, err := e.Info()
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return true // deleted meanwhile, or nothing of ours
	}
	if err != nil {
		return yield(storage.Object{}, describe("list "+name, err))
	}
	return yield(object(name, info), nil)
}

// Folders returns the folders in prefix that lead to an object.
func (s *Storage) Folders(ctx context.Context, prefix string) ([]string, error) {
	dir := strings.TrimSuffix(prefix, "/")
	if err := storage.CheckName(dir); err != nil || dir == prefix {
		return nil, cmp.Or(err, error(storage.ErrName))
	}
	entries, err := fs.ReadDir(s.root.FS(), dir)
	if err = describe("list "+dir, err); err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		for _, err := range s.List(ctx, path.Join(dir, e.Name())+"/") {
			if err != nil {
				return nil, err
			}
			names = append(names, e.Name())
			break
		}
	}
	return names, nil
}

// sortKey orders a folder among files as the names of its objects are ordered.
func sortKey(e fs.DirEntry) string { return sortKeyIn(e.Name(), e) }

func sortKeyIn(name string, e fs.DirEntry) string {
	if e.IsDir() {
		return name + "/"
	}
	return name
}

// overlaps reports whether an entry has the prefix, or is a folder that leads to it.
func overlaps(key, prefix string) bool {
	return strings.HasPrefix(key, prefix) || strings.HasSuffix(key, "/") && strings.HasPrefix(prefix, key)
}
