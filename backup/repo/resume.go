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
		if err := x.add(ctx, s, id, o.Size); err != nil {
			return nil, fmt.Errorf("look for packs to resume: %w", err)
		}
	}
	x.sort()
	return &x, nil
}

// Known returns what packs of earlier backups hold, as far as no deletion is about to take it.
func (s *Session) Known(ctx context.Context, packs []PackID) (*Index, error) {
	var x Index
	for _, id := range packs {
		if s.seen[id] || len(x.entries) >= maxResumable {
			continue
		}
		info, err := s.r.st.Stat(ctx, id.object())
		if err == nil {
			err = x.add(ctx, s, id, info.Size)
		}
		if err != nil && !isGone(err) {
			return nil, fmt.Errorf("look for what is stored already: %w", err)
		}
	}
	x.sort()
	return &x, nil
}

// add takes in what a pack says it holds.
func (x *Index) add(ctx context.Context, s *Session, id PackID, size int64) error {
	entries, err := s.r.footer(ctx, id, size)
	if errors.Is(err, ErrDamaged) || isGone(err) {
		s.r.cfg.Logger.WarnContext(ctx, "a pack is passed over", "pack", id.String(), "err", err)
		return nil
	}
	x.entries = append(x.entries, entries...)
	return err
}

func (x *Index) sort() {
	x.entries = slices.DeleteFunc(x.entries, func(e packEntry) bool { return e.Hash == Hash{} })
	slices.SortFunc(x.entries, func(a, b packEntry) int { return bytes.Compare(a.Hash[:], b.Hash[:]) })
}
