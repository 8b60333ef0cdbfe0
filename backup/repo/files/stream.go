package files

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo/pack"
	"rootstream/backup/repo/seal"
)

// List is a stream of files, as a manifest refers to it.
type List struct {
	Of    string // the object that refers to it
	Blobs []pack.Blob
	Count int64
}

// Read goes through the files of a list, in the order of pgdata.ComparePaths. It keeps no more than one in memory.
func Read(ctx context.Context, packs *pack.Store, list List) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		var s stream
		var plain []byte
		for i, b := range list.Blobs {
			var err error
			if plain, err = packs.Read(ctx, b, plain); err != nil {
				yield(File{}, fmt.Errorf("read the list of files of %s: %w", list.Of, err))
				return
			}
			for f, err := range s.entries(plain) {
				if err != nil {
					yield(File{}, seal.Damaged(list.Of, "blob %d of the list of files: %w", i, err))
					return
				}
				if !yield(f, nil) {
					return
				}
			}
		}
		if len(s.rest) > 0 || s.count != list.Count {
			yield(File{}, seal.Damaged(list.Of, "it has %d files, its list %d", list.Count, s.count))
		}
	}
}

// stream puts entries together that blobs have cut.
type stream struct {
	rest  []byte // the beginning of an entry
	last  string
	count int64
}

// entries goes through those that end in plain.
func (s *stream) entries(plain []byte) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		buf := append(s.rest, plain...)
		for {
			f, n, err := nextFile(buf)
			if err == nil && n == 0 {
				break
			}
			if err == nil && s.count > 0 && pgdata.ComparePaths(s.last, f.Path) >= 0 {
				err = fmt.Errorf("%q comes after %q", f.Path, s.last)
			}
			s.last, buf = f.Path, buf[n:]
			s.count++
			if !yield(f, err) || err != nil {
				return
			}
		}
		s.rest = slices.Clone(buf)
	}
}

// nextFile reads an entry and says how long it was; 0 if it is not all there yet.
func nextFile(buf []byte) (File, int, error) {
	n, size := binary.Uvarint(buf)
	if size < 0 || n > maxEntry {
		return File{}, 0, errEntry
	}
	end := size + int(n)
	if size == 0 || end > len(buf) {
		return File{}, 0, nil
	}
	f, err := parseFile(buf[size:end])
	return f, end, err
}

// PageHashes goes through the hashes of a file's pages, many at a time; they are valid until the next.
func PageHashes(ctx context.Context, packs *pack.Store, f File) iter.Seq2[[]seal.Hash, error] {
	return func(yield func([]seal.Hash, error) bool) {
		var plain []byte
		var hashes []seal.Hash
		for _, b := range f.Hashes {
			var err error
			if plain, err = packs.Read(ctx, b, plain); err != nil {
				yield(nil, fmt.Errorf("read the page hashes of %s: %w", f.Path, err))
				return
			}
			hashes = hashes[:0]
			for h := range slices.Chunk(plain, len(seal.Hash{})) {
				if len(h) < len(seal.Hash{}) {
					yield(nil, seal.Damaged(b.Pack.Object(), "blob %d holds no page hashes", b.Number))
					return
				}
				hashes = append(hashes, seal.Hash(h))
			}
			if !yield(hashes, nil) {
				return
			}
		}
	}
}
