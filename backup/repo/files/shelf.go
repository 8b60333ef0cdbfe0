package files

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"slices"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo/pack"
	"rootstream/backup/repo/seal"
)

// Shelf is where files are put in any order, to be found by path and gone through in order. They are on disk, in a file
// that nobody else can open; what is in memory is where each path is. It is not safe for concurrent use.
type Shelf struct {
	f     *os.File
	w     *bufio.Writer
	size  int64
	at    map[string]place
	form  []byte
	packs map[pack.ID]bool // of nobody's interest
}

// place is where an entry's form is.
type place struct {
	off int64
	n   uint32
}

// NewShelf makes an empty one.
func NewShelf() (*Shelf, error) {
	f, err := os.CreateTemp("", "rootstream-files-*")
	if err != nil {
		return nil, fmt.Errorf("make a file for the list of files: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("hide the file for the list of files: %w", err)
	}
	return &Shelf{f: f, w: bufio.NewWriterSize(f, streamBlob), at: map[string]place{}, packs: map[pack.ID]bool{}}, nil
}

// Close gives back the disk.
func (s *Shelf) Close() error { return s.f.Close() }

// Write puts an entry on the shelf. Each path is there once.
func (s *Shelf) Write(_ context.Context, f File) error {
	if err := f.check(); err != nil {
		return seal.ErrInvalid.WithCause(err)
	}
	if _, twice := s.at[f.Path]; twice {
		return seal.ErrInvalid.WithCause(fmt.Errorf("%q comes twice", f.Path))
	}
	s.form = f.append(s.form[:0], s.packs)
	if len(s.form) > maxEntry {
		return seal.ErrInvalid.WithCause(fmt.Errorf("%q is in too many pieces", f.Path))
	}
	clear(s.packs)
	if _, err := s.w.Write(s.form); err != nil {
		return fmt.Errorf("put the list of files aside: %w", err)
	}
	s.at[f.Path] = place{s.size, uint32(len(s.form))} //nolint:gosec // at most maxEntry
	s.size += int64(len(s.form))
	return nil
}

// Find returns the entry that has a path, nil if there is none.
func (s *Shelf) Find(path string) (*File, error) {
	at, found := s.at[path]
	if !found {
		return nil, nil //nolint:nilnil // there is none
	}
	if err := s.w.Flush(); err != nil {
		return nil, fmt.Errorf("put the list of files aside: %w", err)
	}
	s.form = slices.Grow(s.form[:0], int(at.n))[:at.n]
	if _, err := s.f.ReadAt(s.form, at.off); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the list of files put aside: %w", err)
	}
	f, err := parseFile(s.form)
	return &f, err
}

// Sorted goes through all entries, in the order of pgdata.ComparePaths.
func (s *Shelf) Sorted() iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		for _, path := range slices.SortedFunc(maps.Keys(s.at), pgdata.ComparePaths) {
			f, err := s.Find(path)
			if err != nil {
				yield(File{}, err)
				return
			}
			if !yield(*f, nil) {
				return
			}
		}
	}
}
