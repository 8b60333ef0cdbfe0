package repo

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"

	"golang.org/x/sync/errgroup"

	"rootstream/backup/storage"
)

// knowEpoch reads the epochs again if a pack is of one that was begun since.
func (r *Repo) knowEpoch(ctx context.Context, id PackID) error {
	r.ring.mu.RLock()
	known := r.ring.epochs[id.epoch()] != nil
	r.ring.mu.RUnlock()
	if known {
		return nil
	}
	return r.loadEpochs(ctx)
}

// readRange reads n bytes of a pack; what is missing of it is damage.
func (r *Repo) readRange(ctx context.Context, id PackID, off, n uint32) ([]byte, error) {
	if err := r.knowEpoch(ctx, id); err != nil {
		return nil, err
	}
	data, err := r.st.Get(ctx, id.object(), int64(off), int64(n))
	if isGone(err) || errors.Is(err, storage.ErrShort) {
		return nil, damaged(id.object(), "%v", err) // not ErrNotFound: that means that there is nothing to find
	}
	return data, err
}

// open authenticates and decompresses the sealed blob, appending to into. It spoils sealed.
func (r *Repo) open(s *sealer, b Blob, sealed, into []byte) ([]byte, error) {
	s.set(kindBlob, b.Number, b.Codec, b.Raw)
	packed, err := s.aead.Open(sealed[:0], s.nonce[:], sealed, s.data[:])
	if err != nil {
		return nil, damaged(b.Pack.object(), "blob %d: %w", b.Number, errAuth)
	}
	plain, err := r.decomp.decode(b.Codec, packed, int(b.Raw), into)
	if err != nil {
		return nil, damaged(b.Pack.object(), "blob %d: %w", b.Number, err)
	}
	return plain, nil
}

// Read returns a blob's plain data, authenticated, in into's memory if it has room.
func (r *Repo) Read(ctx context.Context, b Blob, into []byte) ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, ErrInvalid.WithCause(err)
	}
	sealed, err := r.readRange(ctx, b.Pack, b.Offset, b.Stored)
	if err != nil {
		return nil, err
	}
	s, err := r.ring.sealer(b.Pack)
	if err != nil {
		return nil, err
	}
	return r.open(s, b, sealed, into[:0])
}

const (
	windowBlobs = 8192     // looked at together, to be read in the order of packs
	windowBytes = 64 << 20 // at most, as stored
	rangeBytes  = 4 << 20  // read at once
	rangeGap    = 64 << 10 // read for nothing rather than in two
)

// wanted is a blob and the number under which the caller wants it.
type wanted struct {
	i int
	b Blob
}

// ReadAll reads blobs, each once however often it is wanted nearby, and calls fn
// with each. It reads neighbours together and ahead, in parallel many goroutines,
// in which fn runs too; the plain data is fn's only until it returns.
func (r *Repo) ReadAll(ctx context.Context, blobs iter.Seq2[int, Blob], parallel int, fn func(i int, plain []byte) error) error {
	group, ctx := errgroup.WithContext(ctx)
	ranges := make(chan []wanted)
	group.Go(func() error {
		defer close(ranges)
		return eachWindow(blobs, func(window []wanted) error {
			for _, run := range runs(window) {
				select {
				case ranges <- run:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
	})
	for range max(1, parallel) {
		group.Go(func() error {
			var plain []byte
			for run := range ranges {
				var err error
				if plain, err = r.readRun(ctx, run, plain, fn); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// eachWindow cuts the sequence into windows.
func eachWindow(blobs iter.Seq2[int, Blob], do func([]wanted) error) error {
	var window []wanted
	bytes := 0
	for i, b := range blobs {
		if err := b.check(); err != nil {
			return ErrInvalid.WithCause(err)
		}
		window = append(window, wanted{i, b})
		if bytes += int(b.Stored); bytes >= windowBytes || len(window) >= windowBlobs {
			if err := do(window); err != nil {
				return err
			}
			window, bytes = nil, 0
		}
	}
	return do(window)
}

// runs sorts a window and cuts it into what is worth reading at once.
func runs(window []wanted) (out [][]wanted) {
	slices.SortFunc(window, func(a, b wanted) int {
		return cmp.Or(comparePacks(a.b.Pack, b.b.Pack), cmp.Compare(a.b.Offset, b.b.Offset), cmp.Compare(a.i, b.i))
	})
	start := 0
	for i := 1; i <= len(window); i++ {
		if i < len(window) && together(window[start].b, window[i-1].b, window[i].b) {
			continue
		}
		out = append(out, window[start:i])
		start = i
	}
	return out
}

func together(first, last, next Blob) bool {
	return next.Pack == first.Pack && next.Offset <= last.Offset+last.Stored+rangeGap && next.Offset+next.Stored-first.Offset <= rangeBytes
}

func (r *Repo) readRun(ctx context.Context, run []wanted, plain []byte, fn func(int, []byte) error) ([]byte, error) {
	first, end := run[0].b, uint32(0)
	for _, w := range run {
		end = max(end, w.b.Offset+w.b.Stored)
	}
	data, err := r.readRange(ctx, first.Pack, first.Offset, end-first.Offset)
	if err != nil {
		return plain, err
	}
	s, err := r.ring.sealer(first.Pack)
	if err != nil {
		return plain, err
	}
	for i, w := range run {
		if i == 0 || w.b != run[i-1].b {
			at := w.b.Offset - first.Offset
			if i > 0 && w.b.Offset < run[i-1].b.Offset+run[i-1].b.Stored {
				return plain, damaged(first.Pack.object(), "blobs %d and %d overlap", run[i-1].b.Number, w.b.Number)
			}
			if plain, err = r.open(s, w.b, data[at:at+w.b.Stored], plain[:0]); err != nil {
				return plain, err
			}
		}
		if err := fn(w.i, plain); err != nil {
			return plain, err
		}
	}
	return plain, nil
}

// Files goes through a backup's files, in the order of ComparePaths. It keeps no more than one in memory.
func (r *Repo) Files(ctx context.Context, m Manifest) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		var stream fileStream
		var plain []byte
		for i, b := range m.Files {
			var err error
			if plain, err = r.Read(ctx, b, plain); err != nil {
				yield(File{}, fmt.Errorf("read the list of files of %s: %w", m.ID, err))
				return
			}
			for f, err := range stream.entries(plain) {
				if err != nil {
					yield(File{}, damaged(m.object(), "blob %d of the list of files: %w", i, err))
					return
				}
				if !yield(f, nil) {
					return
				}
			}
		}
		if len(stream.rest) > 0 || stream.count != m.FileCount {
			yield(File{}, damaged(m.object(), "it has %d files, its list %d", m.FileCount, stream.count))
		}
	}
}

// fileStream puts entries together that blobs have cut.
type fileStream struct {
	rest  []byte // the beginning of an entry
	last  string
	count int64
}

// entries goes through those that end in plain.
func (s *fileStream) entries(plain []byte) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		buf := append(s.rest, plain...)
		for {
			f, n, err := nextFile(buf)
			if err == nil && n == 0 {
				break
			}
			if err == nil && s.count > 0 && ComparePaths(s.last, f.Path) >= 0 {
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
func (r *Repo) PageHashes(ctx context.Context, f File) iter.Seq2[[]Hash, error] {
	return func(yield func([]Hash, error) bool) {
		var plain []byte
		var hashes []Hash
		for _, b := range f.Hashes {
			var err error
			if plain, err = r.Read(ctx, b, plain); err != nil {
				yield(nil, fmt.Errorf("read the page hashes of %s: %w", f.Path, err))
				return
			}
			hashes = hashes[:0]
			for h := range slices.Chunk(plain, len(Hash{})) {
				if len(h) < len(Hash{}) {
					yield(nil, damaged(b.Pack.object(), "blob %d holds no page hashes", b.Number))
					return
				}
				hashes = append(hashes, Hash(h))
			}
			if !yield(hashes, nil) {
				return
			}
		}
	}
}
