// Package ledger says what a repository has of a cluster's write-ahead log, and what is missing.
//
// [Load] works by listing: nothing else says what there is. What a [Ledger]
// tells is pure: its stretches and gaps, how far the log leads from a position
// on, and when the end of that arrived. [Wait] waits for log that is on its
// way. It starts no goroutine.
package ledger

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"rootstream/backup/wal"
	"rootstream/errs"
)

// ErrGap says that log is not there which somebody needs.
var ErrGap = errs.New(errs.Precondition, "wal_gap", "write-ahead log is missing")

// Ledger is what a repository has of a cluster's write-ahead log.
type Ledger struct {
	SystemID    uint64
	SegmentSize uint32
	Timelines   []Timeline // oldest first
}

// Timeline is what there is of one.
type Timeline struct {
	History   wal.History
	Known     bool        // the repository has its history, or it needs none
	Have      []Stretch   // whole segments, joined where they meet; and pieces, where there is no whole segment
	Partial   []wal.Range // of Have: what consists of pieces
	Conflicts []wal.Range // segments with two contents: two servers wrote them
	Newest    time.Time   // when the latest of it was stored, by the storage's clock
}

// Stretch is log without a hole.
type Stretch struct {
	wal.Range
	Until time.Time // when its end was stored, by the storage's clock
}

// Gap is write-ahead log that the repository does not have.
type Gap struct{ wal.Range }

// Err says it.
func (g Gap) Err() error {
	return ErrGap.WithCause(fmt.Errorf("%v is no longer on the server", g.Range))
}

// Add takes stretches in the order in which they begin.
func (t *Timeline) Add(more ...Stretch) {
	for _, s := range more {
		n := len(t.Have)
		switch {
		case n == 0 || t.Have[n-1].To < s.From:
			t.Have = append(t.Have, s)
		case s.To > t.Have[n-1].To:
			t.Have[n-1].To, t.Have[n-1].Until = s.To, s.Until
		}
	}
}

// at returns the stretch that has a position.
func (t *Timeline) at(lsn wal.LSN) (Stretch, bool) {
	for _, s := range t.Have {
		if s.From <= lsn && lsn < s.To {
			return s, true
		}
	}
	return Stretch{}, false
}

func (t *Timeline) has(lsn wal.LSN) bool {
	_, ok := t.at(lsn)
	return ok
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

// History returns the history of a timeline; one that is not known descends from none.
func (l *Ledger) History(tli wal.TimelineID) wal.History {
	if t := l.Timeline(tli); t != nil {
		return t.History
	}
	return wal.NewHistory(tli)
}

// What an entry of the ledger says.
const (
	Found    = "FOUND"
	Partial  = "PARTIAL" // pieces of a segment that is not whole: the end of the log, or of a timeline
	Missing  = "MISSING"
	Conflict = "CONFLICT" // a segment with two contents, behind which nobody can go on
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
		for _, e := range t.there() {
			if bound && e.From > at {
				all = append(all, Entry{wal.Range{Timeline: tli, From: at, To: e.From}, Missing})
			}
			at, bound = e.To, true
			all = append(all, e)
		}
	}
	return all
}

// there is what there is of a timeline, in order.
func (t *Timeline) there() []Entry {
	var all []Entry
	for _, s := range t.Have {
		all = append(all, t.split(s.Range)...)
	}
	for _, c := range t.Conflicts {
		all = append(all, Entry{c, Conflict})
	}
	slices.SortFunc(all, func(a, b Entry) int { return cmp.Compare(a.From, b.From) })
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

// Gaps returns what is missing, or cannot be read.
func (l *Ledger) Gaps() []Gap {
	var gaps []Gap
	for _, e := range l.Entries() {
		if e.Status == Missing || e.Status == Conflict {
			gaps = append(gaps, Gap{e.Range})
		}
	}
	return gaps
}

// Contiguous proves that everything is there that recovery reads on its way through r, ancestors of the timeline
// included. ErrGap names the first position that is not.
func (l *Ledger) Contiguous(r wal.Range) error {
	t := l.Timeline(r.Timeline)
	if t != nil && !t.Known {
		return ErrGap.WithCause(fmt.Errorf("the history of timeline %d is not in the repository", r.Timeline))
	}
	at := r.From
	if t != nil {
		at, _ = l.Reach(t.History, r.From)
	}
	if at < r.To {
		return ErrGap.WithCause(fmt.Errorf("%v: nothing at %v", r, at))
	}
	return nil
}

// Reach returns how far the log leads from a position on the way to a timeline, and when the end of that was stored.
func (l *Ledger) Reach(way wal.History, from wal.LSN) (at wal.LSN, until time.Time) {
	for at = from; ; {
		s, ok := l.next(way, at)
		if !ok {
			return at, until
		}
		at, until = s.To, s.Until
	}
}

// next returns what recovery reads at a position, by the rule by which PostgreSQL looks for a segment: the newest
// timeline's copy, as far as that timeline is part of the way.
func (l *Ledger) next(way wal.History, at wal.LSN) (Stretch, bool) {
	for _, b := range slices.Backward(way) {
		if at < b.Begin.SegmentStart(l.SegmentSize) || at >= b.End {
			continue
		}
		if t := l.Timeline(b.Timeline); t != nil {
			if s, ok := t.at(at); ok {
				s.To = min(s.To, b.End)
				return s, true
			}
		}
	}
	return Stretch{}, false
}

// End returns the furthest position on the way to a timeline that anything at hand belongs to.
func (l *Ledger) End(way wal.History) (end wal.LSN) {
	for _, b := range way {
		t := l.Timeline(b.Timeline)
		if t == nil {
			continue
		}
		for _, s := range t.Have {
			if s.From < b.End {
				end = max(end, min(s.To, b.End))
			}
		}
	}
	return end
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
