package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"rootstream/backup/repo"
	"rootstream/backup/wal"
	"rootstream/internal/wait"
)

// Ledger is what a repository has of a cluster's write-ahead log.
type Ledger struct {
	SystemID    uint64
	SegmentSize uint32
	Timelines   []Timeline // oldest first
}

// Timeline is what there is of one.
type Timeline struct {
	History wal.History
	Known   bool        // the repository has its history, or it needs none
	Have    []wal.Range // whole segments, joined where they meet; and pieces, where there is no whole segment
	Partial []wal.Range // of Have: what consists of pieces
	Newest  time.Time   // when the latest of it was stored, by the storage's clock
}

// Load reads the ledger. It works by listing: nothing else says what there is.
func Load(ctx context.Context, r *repo.Repo, system uint64) (Ledger, error) {
	l := Ledger{SystemID: system}
	tlis, err := r.Timelines(ctx, system)
	if err != nil {
		return Ledger{}, fmt.Errorf("list the write-ahead log: %w", err)
	}
	if l.SegmentSize, err = segmentSize(ctx, r, system, tlis); err != nil || l.SegmentSize == 0 {
		return l, err
	}
	for _, tli := range tlis {
		t, err := loadTimeline(ctx, r, system, tli, l.SegmentSize)
		if err != nil {
			return Ledger{}, fmt.Errorf("list the write-ahead log of timeline %d: %w", tli, err)
		}
		l.Timelines = append(l.Timelines, t)
	}
	return l, nil
}

// segmentSize reads it from any segment, or the beginning of one; 0 if there is none.
func segmentSize(ctx context.Context, r *repo.Repo, system uint64, tlis []wal.TimelineID) (uint32, error) {
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
	h, known, err := readHistory(ctx, r, system, tli)
	if err != nil {
		return Timeline{}, err
	}
	t := Timeline{History: h, Known: known}
	for info, err := range r.ListWAL(ctx, system, tli) {
		if err != nil {
			return Timeline{}, err
		}
		if n, err := wal.ParseName(info.Name); err == nil && n.Kind == wal.Segment {
			if start, err := n.Start(size); err == nil {
				t.add(wal.Range{Timeline: tli, From: start, To: start + wal.LSN(size)})
			}
		}
		if info.Modified.After(t.Newest) {
			t.Newest = info.Modified
		}
	}
	if err := t.addPieces(ctx, r, system, size); err != nil {
		return Timeline{}, err
	}
	return t, nil
}

// add takes ranges in any order; they mostly come in theirs.
func (t *Timeline) add(r wal.Range) {
	if n := len(t.Have); n > 0 && t.Have[n-1].To >= r.From {
		t.Have[n-1].To = max(t.Have[n-1].To, r.To)
		return
	}
	t.Have = append(t.Have, r)
}

func (t *Timeline) addPieces(ctx context.Context, r *repo.Repo, system uint64, size uint32) error {
	open, err := r.OpenSegments(ctx, system, t.History.Timeline())
	if err != nil {
		return err
	}
	for _, name := range open {
		n, err := wal.ParseName(name)
		if err != nil {
			continue
		}
		start, err := n.Start(size)
		if err != nil || t.has(start) {
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
		if row := repo.InRow(list); len(row) > 0 {
			last := row[len(row)-1]
			t.Partial = append(t.Partial, wal.Range{Timeline: n.Timeline, From: start, To: start + wal.LSN(last.Off+last.Size)}) //nolint:gosec // not negative
		}
	}
	whole := t.Have
	all := append(slices.Clone(whole), t.Partial...)
	slices.SortFunc(all, func(a, b wal.Range) int { return cmp.Compare(a.From, b.From) })
	t.Have = nil
	for _, x := range all {
		t.add(x)
	}
	return nil
}

func (t *Timeline) has(lsn wal.LSN) bool {
	_, ok := t.covered(lsn)
	return ok
}

// covered returns up to where there is everything from lsn on.
func (t *Timeline) covered(lsn wal.LSN) (wal.LSN, bool) {
	for _, r := range t.Have {
		if r.From <= lsn && lsn < r.To {
			return r.To, true
		}
	}
	return 0, false
}

// readHistory returns a timeline's history, and whether it is known rather than taken to be without ancestors.
func readHistory(ctx context.Context, r *repo.Repo, system uint64, tli wal.TimelineID) (wal.History, bool, error) {
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

// Timeline returns what there is of a timeline.
func (l *Ledger) Timeline(tli wal.TimelineID) *Timeline {
	for i := range l.Timelines {
		if l.Timelines[i].History.Timeline() == tli {
			return &l.Timelines[i]
		}
	}
	return nil
}

// What an entry of the ledger says.
const (
	Found   = "FOUND"
	Partial = "PARTIAL" // pieces of a segment that is not whole: the end of the log, or of a timeline
	Missing = "MISSING"
)

// Entry is a stretch of write-ahead log that is there, or is not.
type Entry struct {
	wal.Range
	Status string `json:"status"`
}

// Entries goes through all timelines. Missing is what lies between what is there, and between a timeline and the one it
// descends from; what was before the first is not: it may have been removed on purpose.
func (l *Ledger) Entries() []Entry {
	var all []Entry
	for i := range l.Timelines {
		t := &l.Timelines[i]
		tli := t.History.Timeline()
		at, bound := l.begin(t)
		for _, r := range t.Have {
			if bound && r.From > at {
				all = append(all, Entry{wal.Range{Timeline: tli, From: at, To: r.From}, Missing})
			}
			at, bound = r.To, true
			all = append(all, t.split(r)...)
		}
	}
	return all
}

// split tells what consists of pieces from whole segments.
func (t *Timeline) split(r wal.Range) []Entry {
	var out []Entry
	for _, p := range t.Partial {
		if p.From < r.From || p.To > r.To {
			continue
		}
		if p.From > r.From {
			out = append(out, Entry{wal.Range{Timeline: r.Timeline, From: r.From, To: p.From}, Found})
		}
		out = append(out, Entry{p, Partial})
		r.From = p.To
	}
	if r.From < r.To {
		out = append(out, Entry{r, Found})
	}
	return out
}

// begin says where a timeline should begin: where it branched off, if its parent is there up to then.
func (l *Ledger) begin(t *Timeline) (wal.LSN, bool) {
	if len(t.History) < 2 {
		return 0, false
	}
	self, parent := t.History[len(t.History)-1], t.History[len(t.History)-2]
	p := l.Timeline(parent.Timeline)
	start := self.Begin.SegmentStart(l.SegmentSize)
	return start, p != nil && start > 0 && p.has(start-1)
}

// Gaps returns what is missing.
func (l *Ledger) Gaps() []Gap {
	var gaps []Gap
	for _, e := range l.Entries() {
		if e.Status == Missing {
			gaps = append(gaps, Gap{e.Range})
		}
	}
	return gaps
}

// Contiguous proves that everything is there that recovery reads on its way through r, ancestors of the timeline
// included. ErrGap names the first position that is not.
func (l *Ledger) Contiguous(r wal.Range) error {
	t := l.Timeline(r.Timeline)
	if t == nil {
		return missing(r, r.From)
	}
	if !t.Known {
		return ErrGap.WithCause(fmt.Errorf("the history of timeline %d is not in the repository", r.Timeline))
	}
	for at := r.From; at < r.To; {
		next := l.reach(t.History, at)
		if next <= at {
			return missing(r, at)
		}
		at = next
	}
	return nil
}

// reach returns how far the log leads from at on, by the rule by which PostgreSQL looks for a segment: on the newest
// timeline that has it.
func (l *Ledger) reach(h wal.History, at wal.LSN) wal.LSN {
	for _, b := range slices.Backward(h) {
		if at < b.Begin.SegmentStart(l.SegmentSize) || at >= b.End {
			continue
		}
		if t := l.Timeline(b.Timeline); t != nil {
			if to, ok := t.covered(at); ok {
				return min(to, b.End)
			}
		}
	}
	return at
}

func missing(r wal.Range, at wal.LSN) error {
	return ErrGap.WithCause(fmt.Errorf("%v: nothing at %v", r, at))
}

// Onward proves that a backup from one position to another reaches the end of the newest timeline's log: that all of
// its own is there, and all since.
func (l *Ledger) Onward(tli wal.TimelineID, from, to wal.LSN) error {
	need := wal.Range{Timeline: tli, From: from, To: to}
	if s := l.Status(nil); s.Timeline >= tli && s.Archived > to {
		need.Timeline, need.To = s.Timeline, s.Archived
	}
	return l.Contiguous(need)
}

// Gaps returns what a repository lacks of a cluster's log.
func Gaps(ctx context.Context, r *repo.Repo, system uint64) ([]Gap, error) {
	l, err := Load(ctx, r, system)
	return l.Gaps(), err
}

// Contiguous is Ledger.Contiguous on a fresh ledger.
func Contiguous(ctx context.Context, r *repo.Repo, system uint64, rng wal.Range) error {
	l, err := Load(ctx, r, system)
	if err != nil {
		return err
	}
	return l.Contiguous(rng)
}

// A segment takes a moment to arrive, or long: looks become rarer, so that none is late by more than an eighth of the wait.
const waitFirst, waitMost = 5 * time.Millisecond, 250 * time.Millisecond

// Wait waits until all of rng is in the repository, whole or in pieces; ErrGap if ctx ends before. It looks for the
// segments, of size bytes, one by one and opens none, so it is cheap however long the log is.
func Wait(ctx context.Context, r *repo.Repo, system uint64, size uint32, rng wal.Range) error {
	w := waiter{r: r, system: system, size: size, rng: rng, at: rng.From}
	for pause := waitFirst; ; pause = min(pause*9/8, waitMost) {
		done, err := w.look(ctx)
		if done {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		if wait.For(ctx, pause) != nil {
			return ErrGap.WithCause(fmt.Errorf("%v did not arrive in time: nothing at %v", rng, w.at)).
				WithHint("is somebody archiving? see: rootstream wal status")
		}
	}
}

type waiter struct {
	r       *repo.Repo
	system  uint64
	size    uint32
	rng     wal.Range
	at      wal.LSN // up to here it is there
	history wal.History
}

// look goes on from where it last came to.
func (w *waiter) look(ctx context.Context) (done bool, err error) {
	if w.history == nil {
		h, known, err := readHistory(ctx, w.r, w.system, w.rng.Timeline)
		if err != nil || !known {
			return false, err
		}
		w.history = h
	}
	for w.at < w.rng.To {
		to, err := w.segment(ctx)
		if err != nil || to <= w.at {
			return false, err
		}
		w.at = to
	}
	return true, nil
}

// segment returns up to where the segment at w.at is there. What an older timeline wrote counts up to where the next
// one branched off.
func (w *waiter) segment(ctx context.Context) (wal.LSN, error) {
	start, reached := w.at.SegmentStart(w.size), w.at
	for _, b := range slices.Backward(w.history) {
		if start < b.Begin.SegmentStart(w.size) || w.at >= b.End {
			continue
		}
		length, err := w.length(ctx, wal.SegmentName(b.Timeline, start, w.size))
		if err != nil {
			return 0, err
		}
		reached = max(reached, min(start+length, b.End))
	}
	if reached == start+wal.LSN(w.size) || reached >= w.rng.To || w.history.At(reached) != w.history.At(w.at) {
		return reached, nil
	}
	return w.at, nil
}

// length returns how much of a segment there is.
func (w *waiter) length(ctx context.Context, name string) (wal.LSN, error) {
	_, err := w.r.FindWAL(ctx, w.system, name)
	if !errors.Is(err, repo.ErrWALAbsent) {
		return wal.LSN(w.size), err
	}
	list, err := w.r.PieceList(ctx, w.system, name)
	row := repo.InRow(list)
	if err != nil || len(row) == 0 {
		return 0, err
	}
	last := row[len(row)-1]
	return wal.LSN(last.Off + last.Size), nil //nolint:gosec // not negative
}

// lastWhole returns where the whole segments on the way to a timeline end, and on which timeline to go on there; 0 if
// there are none.
func lastWhole(ctx context.Context, r *repo.Repo, system uint64, h wal.History, size uint32) (wal.TimelineID, wal.LSN, error) {
	next := h.Timeline()
	for _, b := range slices.Backward(h) {
		end, err := endOf(ctx, r, system, b.Timeline, size)
		switch {
		case err != nil:
			return 0, 0, err
		case end > b.End: // the segment in which the next one branched off is to be had of that one
			return next, b.End.SegmentStart(size), nil
		case end != 0:
			return b.Timeline, end, nil
		}
		next = b.Timeline
	}
	return 0, 0, nil
}

// endOf returns the end of the last whole segment of a timeline; 0 if there is none.
func endOf(ctx context.Context, r *repo.Repo, system uint64, tli wal.TimelineID, size uint32) (wal.LSN, error) {
	var end wal.LSN
	for info, err := range r.ListWAL(ctx, system, tli) {
		if err != nil {
			return 0, err
		}
		if n, err := wal.ParseName(info.Name); err == nil && n.Kind == wal.Segment {
			if start, err := n.Start(size); err == nil {
				end = start + wal.LSN(size)
			}
		}
	}
	return end, nil
}
