package pack

import (
	"cmp"
	"context"
	"iter"
	"slices"

	"golang.org/x/sync/errgroup"

	"rootstream/backup/repo/seal"
)

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
func (s *Store) ReadAll(ctx context.Context, blobs iter.Seq2[int, Blob], parallel int, fn func(i int, plain []byte) error) error {
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
				if plain, err = s.readRun(ctx, run, plain, fn); err != nil {
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
		if err := b.Check(); err != nil {
			return seal.ErrInvalid.WithCause(err)
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

// runs sorts a window and cuts it into what is worth reading at once. One run of each pack comes after the other: a pack
// holds neighbours, and those who write to one file at the same time wait for each other.
func runs(window []wanted) (out [][]wanted) {
	slices.SortFunc(window, func(a, b wanted) int {
		return cmp.Or(Compare(a.b.Pack, b.b.Pack), cmp.Compare(a.b.Offset, b.b.Offset), cmp.Compare(a.i, b.i))
	})
	var turns [][][]wanted // the first runs of all packs, their second ones and so on
	start, turn := 0, 0
	for i := 1; i <= len(window); i++ {
		if i < len(window) && together(window[start].b, window[i-1].b, window[i].b) {
			continue
		}
		if turn == len(turns) {
			turns = append(turns, nil)
		}
		turns[turn] = append(turns[turn], window[start:i])
		if turn++; i < len(window) && window[i].b.Pack != window[start].b.Pack {
			turn = 0
		}
		start = i
	}
	return slices.Concat(turns...)
}

func together(first, last, next Blob) bool {
	return next.Pack == first.Pack && next.Offset <= last.Offset+last.Stored+rangeGap && next.Offset+next.Stored-first.Offset <= rangeBytes
}

func (s *Store) readRun(ctx context.Context, run []wanted, plain []byte, fn func(int, []byte) error) ([]byte, error) {
	first, end := run[0].b, uint32(0)
	for _, w := range run {
		end = max(end, w.b.Offset+w.b.Stored)
	}
	data, err := s.readRange(ctx, first.Pack, first.Offset, end-first.Offset)
	if err != nil {
		return plain, err
	}
	lock, err := s.sealer(ctx, first.Pack)
	if err != nil {
		return plain, err
	}
	for i, w := range run {
		if i == 0 || w.b != run[i-1].b {
			at := w.b.Offset - first.Offset
			if i > 0 && w.b.Offset < run[i-1].b.Offset+run[i-1].b.Stored {
				return plain, seal.Damaged(first.Pack.Object(), "blobs %d and %d overlap", run[i-1].b.Number, w.b.Number)
			}
			if plain, err = s.open(lock, w.b, data[at:at+w.b.Stored], plain[:0]); err != nil {
				return plain, err
			}
		}
		if err := fn(w.i, plain); err != nil {
			return plain, err
		}
	}
	return plain, nil
}
