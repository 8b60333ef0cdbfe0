package pack

import (
	"cmp"
	"context"
	"slices"

	"rootstream/backup/repo/seal"
)

const (
	rangeBytes = 4 << 20  // read at once
	rangeGap   = 64 << 10 // read for nothing rather than in two
)

// wanted is a blob and the number under which the caller wants it.
type wanted struct {
	i int
	b Blob
}

// ReadBatch reads blobs, each of which is named once, and calls fn with them in the order given; the plain data is fn's
// only until it returns. Neighbours in a pack are read together, and before the first is opened: all of the batch is in
// memory as it is stored.
func (s *Store) ReadBatch(ctx context.Context, blobs []Blob, fn func(i int, plain []byte) error) error {
	sealed := make([][]byte, len(blobs))
	locks := map[ID]*sealer{}
	all, err := runs(blobs)
	if err != nil {
		return err
	}
	for _, run := range all {
		if err = s.readRun(ctx, run, sealed); err != nil {
			return err
		}
		id := run[0].b.Pack
		if locks[id] == nil {
			if locks[id], err = s.sealer(ctx, id); err != nil {
				return err
			}
		}
	}
	var plain []byte
	for i, b := range blobs {
		if err = ctx.Err(); err != nil {
			return err
		}
		if plain, err = s.open(locks[b.Pack], b, sealed[i], plain[:0]); err != nil {
			return err
		}
		sealed[i] = nil
		if err = fn(i, plain); err != nil {
			return err
		}
	}
	return nil
}

// runs sorts blobs and cuts them into what is worth reading at once.
func runs(blobs []Blob) (out [][]wanted, err error) {
	all := make([]wanted, len(blobs))
	for i, b := range blobs {
		if err = b.Check(); err != nil {
			return nil, seal.ErrInvalid.WithCause(err)
		}
		all[i] = wanted{i, b}
	}
	slices.SortFunc(all, func(a, b wanted) int {
		return cmp.Or(Compare(a.b.Pack, b.b.Pack), cmp.Compare(a.b.Offset, b.b.Offset))
	})
	for start, i := 0, 1; i <= len(all); i++ {
		if i < len(all) && together(all[start].b, all[i-1].b, all[i].b) {
			continue
		}
		out = append(out, all[start:i])
		start = i
	}
	return out, nil
}

func together(first, last, next Blob) bool {
	return next.Pack == first.Pack && next.Offset <= last.Offset+last.Stored+rangeGap && next.Offset+next.Stored-first.Offset <= rangeBytes
}

// readRun reads neighbours, and notes where each is.
func (s *Store) readRun(ctx context.Context, run []wanted, sealed [][]byte) error {
	first, last := run[0].b, run[len(run)-1].b
	data, err := s.readRange(ctx, first.Pack, first.Offset, last.Offset+last.Stored-first.Offset)
	if err != nil {
		return err
	}
	for i, w := range run {
		if i > 0 && w.b.Offset < run[i-1].b.Offset+run[i-1].b.Stored {
			return seal.Damaged(first.Pack.Object(), "blobs %d and %d overlap", run[i-1].b.Number, w.b.Number)
		}
		at := w.b.Offset - first.Offset
		sealed[w.i] = data[at : at+w.b.Stored : at+w.b.Stored]
	}
	return nil
}
