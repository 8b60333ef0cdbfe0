package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
)

// Index finds blobs that an earlier run has stored. A nil Index holds none.
type Index struct{ entries []packEntry }

const maxResumable = 1 << 20 // blobs: 56 MiB of memory

// Find returns the blob with that content.
func (x *Index) Find(h Hash) (Blob, bool) {
	if x == nil {
		return Blob{}, false
	}
	i, found := slices.BinarySearchFunc(x.entries, h, func(e packEntry, h Hash) int { return bytes.Compare(e.Hash[:], h[:]) })
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

// Resumable returns what dead runs of the same kind have stored, as far as no
// deletion is about to take it. A pack that cannot be read is passed over.
func (s *Session) Resumable(ctx context.Context) (*Index, error) {
	sessions, err := s.r.sessions(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for runs to resume: %w", err)
	}
	marks := map[[4]byte]bool{}
	for _, o := range sessions {
		if o.State == dead && o.Kind == s.info.Kind {
			marks[o.mark()] = true
		}
	}
	if len(marks) == 0 {
		return nil, nil //nolint:nilnil // a nil Index holds none
	}
	var x Index
	for o, err := range s.r.st.List(ctx, packsPrefix) {
		if err != nil {
			return nil, fmt.Errorf("look for packs to resume: %w", err)
		}
		id, ok := parsePackName(o.Name)
		if !ok || !marks[id.mark()] || s.seen[id] || len(x.entries) >= maxResumable {
			continue
		}
		entries, err := s.r.footer(ctx, id, o.Size)
		if errors.Is(err, ErrDamaged) || isGone(err) {
			s.r.cfg.Logger.WarnContext(ctx, "a pack is not resumed", "pack", id.String(), "err", err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look for packs to resume: %w", err)
		}
		x.entries = append(x.entries, entries...)
	}
	x.entries = slices.DeleteFunc(x.entries, func(e packEntry) bool { return e.Hash == Hash{} })
	slices.SortFunc(x.entries, func(a, b packEntry) int { return bytes.Compare(a.Hash[:], b.Hash[:]) })
	return &x, nil
}
