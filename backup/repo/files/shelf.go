package files

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo/pack"
	"rootstream/backup/repo/seal"
	"rootstream/internal/unnamed"
)

// Shelf is where files are put in any order, to be found by path and gone through in order. They are on disk, in a file
// that nobody else can open, as runs, each of which is in order. In memory is what has come since the last run was
// written, and what each block of the runs begins with. It is not safe for concurrent use.
type Shelf struct {
	f     *os.File
	size  int64
	fresh []loose
	held  int // bytes of them
	runs  []run
	packs map[pack.ID]bool // of nobody's interest
}

const (
	runBytes   = 8 << 20
	blockBytes = 32 << 10
	overhead   = 64 // bytes that an entry takes besides its own
)

// loose is an entry that is not yet on disk.
type loose struct {
	path string
	form []byte
}

// run is entries in order, one after the other, in blocks of some each.
type run struct {
	blocks []block
	end    int64
	last   string
}

type block struct {
	first string
	off   int64
}

// NewShelf makes an empty one.
func NewShelf() (*Shelf, error) {
	f, err := unnamed.File()
	if err != nil {
		return nil, fmt.Errorf("make a file for the list of files: %w", err)
	}
	return &Shelf{f: f, packs: map[pack.ID]bool{}}, nil
}

// Close gives back the disk.
func (s *Shelf) Close() error { return s.f.Close() }

// Write puts an entry on the shelf. Each path is there once; [Shelf.Sorted] says if not.
func (s *Shelf) Write(_ context.Context, f File) error {
	if err := f.check(); err != nil {
		return seal.ErrInvalid.WithCause(err)
	}
	form := f.append(nil, s.packs)
	if len(form) > maxEntry {
		return seal.ErrInvalid.WithCause(fmt.Errorf("%q is in too many pieces", f.Path))
	}
	clear(s.packs)
	s.fresh = append(s.fresh, loose{f.Path, form})
	if s.held += len(f.Path) + len(form) + overhead; s.held < runBytes {
		return nil
	}
	return s.spill()
}

// spill writes what is in memory as a run.
func (s *Shelf) spill() error {
	if len(s.fresh) == 0 {
		return nil
	}
	slices.SortFunc(s.fresh, func(a, b loose) int { return pgdata.ComparePaths(a.path, b.path) })
	w := bufio.NewWriterSize(io.NewOffsetWriter(s.f, s.size), streamBlob)
	r := run{end: s.size, last: s.fresh[len(s.fresh)-1].path}
	for _, e := range s.fresh {
		if n := len(r.blocks); n == 0 || r.end-r.blocks[n-1].off >= blockBytes {
			r.blocks = append(r.blocks, block{e.path, r.end})
		}
		length := binary.AppendUvarint(w.AvailableBuffer(), uint64(len(e.form)))
		_, _ = w.Write(length)
		if _, err := w.Write(e.form); err != nil {
			return fmt.Errorf("put the list of files aside: %w", err)
		}
		r.end += int64(len(length) + len(e.form))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("put the list of files aside: %w", err)
	}
	clear(s.fresh)
	s.fresh, s.held, s.size, s.runs = s.fresh[:0], 0, r.end, append(s.runs, r)
	return nil
}

// Find returns the entry that has a path, nil if there is none.
func (s *Shelf) Find(path string) (*File, error) {
	if err := s.spill(); err != nil {
		return nil, err
	}
	for _, r := range s.runs {
		if f, err := s.findIn(r, path); f != nil || err != nil {
			return f, err
		}
	}
	return nil, nil //nolint:nilnil // there is none
}

func (s *Shelf) findIn(r run, path string) (*File, error) {
	i, exact := slices.BinarySearchFunc(r.blocks, path, func(b block, path string) int { return pgdata.ComparePaths(b.first, path) })
	if !exact {
		i--
	}
	if i < 0 || pgdata.ComparePaths(path, r.last) > 0 {
		return nil, nil //nolint:nilnil // it is not in this run
	}
	end := r.end
	if i+1 < len(r.blocks) {
		end = r.blocks[i+1].off
	}
	for c := s.cursor(r.blocks[i].off, end); ; {
		if err := c.next(); err != nil || c.done {
			return nil, err
		}
		if c.path == path {
			f, err := parseFile(c.form)
			return &f, err
		}
	}
}

// Sorted goes through all entries, in the order of pgdata.ComparePaths.
func (s *Shelf) Sorted() iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		if err := s.sorted(yield); err != nil {
			yield(File{}, err)
		}
	}
}

// sorted merges the runs.
func (s *Shelf) sorted(yield func(File, error) bool) error {
	if err := s.spill(); err != nil {
		return err
	}
	var all []*cursor
	for _, r := range s.runs {
		c := s.cursor(r.blocks[0].off, r.end)
		if err := c.next(); err != nil {
			return err
		}
		all = append(all, c)
	}
	slices.SortFunc(all, inOrder)
	for last := ""; len(all) > 0; {
		c := all[0]
		if c.path == last {
			return seal.ErrInvalid.WithCause(fmt.Errorf("%q comes twice", last))
		}
		last = c.path
		f, err := parseFile(c.form)
		if err != nil {
			return err
		}
		if !yield(f, nil) {
			return nil
		}
		if err := c.next(); err != nil {
			return err
		}
		if all = all[1:]; !c.done {
			i, _ := slices.BinarySearchFunc(all, c, inOrder)
			all = slices.Insert(all, i, c)
		}
	}
	return nil
}

func inOrder(a, b *cursor) int { return pgdata.ComparePaths(a.path, b.path) }

// cursor goes through a part of a run.
type cursor struct {
	r    *bufio.Reader
	form []byte
	path string
	done bool
}

func (s *Shelf) cursor(from, to int64) *cursor {
	return &cursor{r: bufio.NewReaderSize(io.NewSectionReader(s.f, from, to-from), blockBytes)}
}

// next reads the next entry's form and path.
func (c *cursor) next() error {
	n, err := binary.ReadUvarint(c.r)
	if errors.Is(err, io.EOF) {
		c.done = true
		return nil
	}
	if err == nil && n > maxEntry {
		err = errEntry
	}
	if err == nil {
		c.form = slices.Grow(c.form[:0], int(n))[:n] //nolint:gosec // at most maxEntry
		_, err = io.ReadFull(c.r, c.form)
	}
	if err != nil {
		return fmt.Errorf("read the list of files put aside: %w", err)
	}
	e := entryReader{b: c.form}
	c.path = e.text()
	return nil
}
