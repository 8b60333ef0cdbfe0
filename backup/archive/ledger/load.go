package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"rootstream/backup/repo"
	"rootstream/backup/wal"
)

// Load reads the ledger.
func Load(ctx context.Context, r *repo.Repo, system uint64) (Ledger, error) {
	tlis, err := r.Timelines(ctx, system)
	if err != nil {
		return Ledger{}, fmt.Errorf("list the write-ahead log: %w", err)
	}
	size, err := SegmentSize(ctx, r, system, tlis)
	if err != nil || size == 0 {
		return Ledger{SystemID: system}, err
	}
	return load(ctx, r, Ledger{SystemID: system, SegmentSize: size}, tlis)
}

// LoadSized reads the ledger of a cluster whose segments have a size that is known: no segment is read for it.
func LoadSized(ctx context.Context, r *repo.Repo, system uint64, size uint32) (Ledger, error) {
	tlis, err := r.Timelines(ctx, system)
	if err != nil {
		return Ledger{}, fmt.Errorf("list the write-ahead log: %w", err)
	}
	return load(ctx, r, Ledger{SystemID: system, SegmentSize: size}, tlis)
}

func load(ctx context.Context, r *repo.Repo, l Ledger, tlis []wal.TimelineID) (Ledger, error) {
	for _, tli := range tlis {
		t, err := loadTimeline(ctx, r, l.SystemID, tli, l.SegmentSize)
		if err != nil {
			return Ledger{}, fmt.Errorf("list the write-ahead log of timeline %d: %w", tli, err)
		}
		l.Timelines = append(l.Timelines, t)
	}
	return l, nil
}

// SegmentSize reads it from any segment, or the beginning of one; 0 if there is none.
func SegmentSize(ctx context.Context, r *repo.Repo, system uint64, tlis []wal.TimelineID) (uint32, error) {
	for _, tli := range tlis {
		data, err := anySegment(ctx, r, system, tli)
		if err != nil {
			return 0, err
		}
		if len(data) > 0 {
			h, err := wal.ParseHeader(data)
			return h.SegmentSize, err
		}
	}
	return 0, nil
}

// anySegment returns the beginning of a segment at least; nothing if there is none.
func anySegment(ctx context.Context, r *repo.Repo, system uint64, tli wal.TimelineID) ([]byte, error) {
	for info, err := range r.ListWAL(ctx, system, tli) {
		if err != nil {
			return nil, err
		}
		if n, err := wal.ParseName(info.Name); err == nil && n.Kind == wal.Segment {
			return r.GetWAL(ctx, system, info.Name)
		}
	}
	open, err := r.OpenSegments(ctx, system, tli)
	if err != nil || len(open) == 0 {
		return nil, err
	}
	return r.Pieces(ctx, system, open[0])
}

func loadTimeline(ctx context.Context, r *repo.Repo, system uint64, tli wal.TimelineID, size uint32) (Timeline, error) {
	h, known, err := History(ctx, r, system, tli)
	if err != nil {
		return Timeline{}, err
	}
	t := Timeline{History: h, Known: known}
	var whole []Stretch
	for s, err := range segments(ctx, r, system, tli, size) {
		if err != nil {
			return Timeline{}, err
		}
		whole = append(whole, s)
		if s.Until.After(t.Newest) {
			t.Newest = s.Until
		}
	}
	t.add(whole)
	if err := t.addPieces(ctx, r, system, size); err != nil {
		return Timeline{}, err
	}
	return t, nil
}

// segments goes through the whole segments of a timeline in the order of their positions.
func segments(ctx context.Context, r *repo.Repo, system uint64, tli wal.TimelineID, size uint32) iter.Seq2[Stretch, error] {
	return func(yield func(Stretch, error) bool) {
		for info, err := range r.ListWAL(ctx, system, tli) {
			if err != nil {
				yield(Stretch{}, err)
				return
			}
			n, err := wal.ParseName(info.Name)
			if err != nil || n.Kind != wal.Segment {
				continue
			}
			start, err := n.Start(size)
			if err == nil && !yield(Stretch{wal.Range{Timeline: tli, From: start, To: start + wal.LSN(size)}, info.Modified}, nil) {
				return
			}
		}
	}
}

// held is how much of a segment its pieces hold from its beginning on, and when the end of that was stored.
func held(pieces []repo.Piece) (wal.LSN, time.Time) {
	row := repo.InRow(pieces)
	if len(row) == 0 {
		return 0, time.Time{}
	}
	last := row[len(row)-1]
	return wal.LSN(last.Off + last.Size), last.Modified //nolint:gosec // not negative
}

// add takes whole segments in the order of their names. One of which there are two contents is none: nobody can go on
// behind it.
func (t *Timeline) add(segments []Stretch) {
	for i, s := range segments {
		twin := i > 0 && segments[i-1].From == s.From
		switch {
		case twin && (len(t.Conflicts) == 0 || t.Conflicts[len(t.Conflicts)-1] != s.Range):
			t.Conflicts = append(t.Conflicts, s.Range)
		case !twin && (i+1 == len(segments) || segments[i+1].From != s.From):
			t.Add(s)
		}
	}
}

func (t *Timeline) addPieces(ctx context.Context, r *repo.Repo, system uint64, size uint32) error {
	open, err := r.OpenSegments(ctx, system, t.History.Timeline())
	if err != nil {
		return err
	}
	all := t.Have
	for _, name := range open {
		n, err := wal.ParseName(name)
		if err != nil {
			continue
		}
		start, err := n.Start(size)
		if err != nil || t.has(start) || slices.ContainsFunc(t.Conflicts, func(c wal.Range) bool { return c.From == start }) {
			continue
		}
		list, err := r.PieceList(ctx, system, name)
		if err != nil {
			return err
		}
		for _, p := range list {
			if p.Modified.After(t.Newest) {
				t.Newest = p.Modified
			}
		}
		if length, until := held(list); length > 0 {
			rng := wal.Range{Timeline: n.Timeline, From: start, To: start + length}
			t.Partial, all = append(t.Partial, rng), append(all, Stretch{rng, until})
		}
	}
	slices.SortFunc(all, func(a, b Stretch) int { return cmp.Compare(a.From, b.From) })
	t.Have = nil
	t.Add(all...)
	return nil
}

// History returns a timeline's history, and whether it is known rather than taken to be without ancestors.
func History(ctx context.Context, r *repo.Repo, system uint64, tli wal.TimelineID) (wal.History, bool, error) {
	if tli == 1 {
		return wal.NewHistory(tli), true, nil
	}
	text, err := r.GetWAL(ctx, system, wal.HistoryName(tli))
	if errors.Is(err, repo.ErrWALAbsent) {
		return wal.NewHistory(tli), false, nil
	}
	if err != nil {
		return nil, false, err
	}
	h, err := wal.ParseHistory(tli, text)
	return h, true, err
}
