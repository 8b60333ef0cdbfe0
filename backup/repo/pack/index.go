package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"

	"rootstream/backup/repo/seal"
	"rootstream/backup/storage"
)

// Index finds blobs that an earlier run has stored. A nil Index holds none.
type Index struct{ entries []entry }

const maxIndexed = 1 << 19 // blobs: 26 MiB of memory, and there may be two

// Find returns the blob with that content.
func (x *Index) Find(h seal.Hash) (Blob, bool) {
	if x == nil {
		return Blob{}, false
	}
	i, found := slices.BinarySearchFunc(x.entries, h, func(e entry, h seal.Hash) int { return bytes.Compare(e.Hash[:], h[:]) })
	if !found {
		return Blob{}, false
	}
	return x.entries[i].Blob, true
}

// Len is how many blobs it holds.
func (x *Index) Len() int {
	if x == nil {
		return 0
	}
	return len(x.entries)
}

// Index reads what packs say they hold, as many as an index may have. One that cannot be read is passed over.
func (s *Store) Index(ctx context.Context, packs iter.Seq2[storage.Object, error], logger *slog.Logger) (*Index, error) {
	var x Index
	for o, err := range packs {
		if err != nil {
			return nil, err
		}
		if len(x.entries) >= maxIndexed {
			break
		}
		id, ok := ParseName(o.Name)
		if !ok {
			continue
		}
		entries, err := s.footer(ctx, id, o.Size)
		switch {
		case errors.Is(err, seal.ErrDamaged), storage.Gone(err):
			logger.WarnContext(ctx, "a pack is passed over", "pack", id.String(), "err", err)
		case err != nil:
			return nil, fmt.Errorf("read what pack %v holds: %w", id, err)
		}
		x.entries = append(x.entries, entries...)
	}
	x.entries = slices.DeleteFunc(x.entries, func(e entry) bool { return e.Hash == seal.Hash{} })
	slices.SortFunc(x.entries, func(a, b entry) int { return bytes.Compare(a.Hash[:], b.Hash[:]) })
	return &x, nil
}
