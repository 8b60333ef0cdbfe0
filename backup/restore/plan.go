package restore

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"rootstream/backup/wal"
	"rootstream/errs"
)

// Why a target cannot be reached.
var (
	ErrNoBackup = errs.New(errs.NotFound, "backup_not_found", "there is no such backup")
	ErrOutside  = errs.New(errs.Precondition, "outside_window", "the target is outside of what can be restored")
	ErrGap      = errs.New(errs.Precondition, "wal_gap", "write-ahead log is missing on the way to the target")
	ErrTimeline = errs.New(errs.Precondition, "wal_timeline", "no backup leads to that timeline")
)

// Backup is what planning needs to know of a backup.
type Backup struct {
	ID        string
	Start     wal.LSN
	Stop      wal.LSN
	Timeline  wal.TimelineID // at its end
	Completed time.Time
}

// Archive is the write-ahead log that is at hand.
type Archive struct {
	System      uint64 // whose it is
	SegmentSize uint32
	Histories   map[wal.TimelineID]wal.History // of every timeline there is
	Pieces      []Piece                        // what is there without a hole
}

// Piece is a stretch of one timeline.
type Piece struct {
	wal.Range
	Until time.Time // when its end arrived, by the storage's clock
}

// Choice is how a target is reached.
type Choice struct {
	Backup   Backup
	Timeline wal.TimelineID // to follow; never "the latest", which somebody else may change
	History  wal.History    // of that timeline
	Path     []wal.Range    // what is replayed, as far as it is known
}

// Window is a stretch of time to every moment of which the cluster can be restored.
type Window struct {
	Timeline wal.TimelineID `json:"timeline"`
	From     wal.LSN        `json:"from_lsn"`
	To       wal.LSN        `json:"to_lsn"`
	Since    time.Time      `json:"from_time"`
	Until    time.Time      `json:"to_time"` // when the last of it arrived
}

// String says the window for people.
func (w Window) String() string {
	return fmt.Sprintf("%s (%v) to about %s (%v) on timeline %d",
		w.Since.UTC().Format(time.RFC3339), w.From, w.Until.UTC().Format(time.RFC3339), w.To, w.Timeline)
}

// clockSlack is by how much the clocks of the server and of the storage may differ before a time counts as outside.
// PostgreSQL itself is the judge within it: it refuses to end before its target.
const clockSlack = time.Minute

// Plan chooses the backup to begin with and the timeline to follow. A target that cannot be reached is refused, and
// the error says what can be.
func Plan(t Target, backups []Backup, a Archive) (Choice, error) {
	t.Kind = cmp.Or(t.Kind, Latest)
	backups = slices.Clone(backups)
	sortBackups(backups)
	if len(backups) == 0 {
		return Choice{}, ErrNoBackup.WithCause(errors.New("the repository holds none of this cluster"))
	}
	newest := backups[len(backups)-1]
	if t.Backup != "" {
		i := slices.IndexFunc(backups, func(b Backup) bool { return b.ID == t.Backup })
		if i < 0 {
			return Choice{}, ErrNoBackup.WithCause(errors.New(t.Backup))
		}
		newest = backups[i]
		backups = backups[i : i+1]
	}
	path, err := a.follow(t, newest)
	if err != nil {
		return Choice{}, err
	}
	windows := a.windows(path, backups)
	best, reach, refused := a.choose(t, path, backups)
	if refused != nil {
		return Choice{}, explain(refused, t, windows)
	}
	end := reach
	switch t.Kind {
	case Immediate:
		end = best.Stop
	case AtLSN:
		end = t.LSN
	case Latest, AtTime, AtXID, AtName:
	}
	return Choice{Backup: best, Timeline: path.Timeline(), History: path, Path: path.Path(best.Start, end)}, nil
}

func sortBackups(backups []Backup) {
	slices.SortFunc(backups, func(x, y Backup) int {
		return cmp.Or(cmp.Compare(x.Timeline, y.Timeline), cmp.Compare(x.Stop, y.Stop))
	})
}

func explain(err *errs.Error, t Target, windows []Window) error {
	var b strings.Builder
	fmt.Fprintf(&b, "asked for %v, possible is ", t)
	if len(windows) == 0 {
		b.WriteString("nothing on this timeline")
	}
	for i, w := range windows {
		if i > 0 {
			b.WriteString(", and ")
		}
		b.WriteString(w.String())
	}
	if cause := errors.Unwrap(err); cause != nil {
		return err.WithCause(fmt.Errorf("%w; %s", cause, b.String()))
	}
	return err.WithCause(errors.New(b.String()))
}

// follow returns the history of the timeline to follow.
func (a Archive) follow(t Target, newest Backup) (wal.History, error) {
	if t.Timeline != 0 {
		if _, known := a.Histories[t.Timeline]; !known && t.Timeline != newest.Timeline {
			return nil, ErrTimeline.WithCause(fmt.Errorf("the repository knows no timeline %d", t.Timeline))
		}
		return a.history(t.Timeline), nil
	}
	path := a.history(newest.Timeline)
	if t.Current || t.Kind == Immediate {
		return path, nil
	}
	for _, h := range a.Histories {
		if h.Timeline() > path.Timeline() && h.Contains(newest.Timeline, newest.Stop) {
			path = h
		}
	}
	return path, nil
}

// history returns the history of a timeline; the first has none on file.
func (a Archive) history(tli wal.TimelineID) wal.History {
	if h, ok := a.Histories[tli]; ok {
		return h
	}
	return wal.NewHistory(tli)
}

// choose returns the newest backup from which the target can be reached, and how far the log leads from it.
func (a Archive) choose(t Target, path wal.History, backups []Backup) (Backup, wal.LSN, *errs.Error) {
	usable := false
	for _, b := range slices.Backward(backups) {
		if !path.Contains(b.Timeline, b.Stop) {
			continue
		}
		usable = true
		if !t.after(b) {
			continue
		}
		reach, until := a.reach(path, b.Start)
		switch {
		case reach < b.Stop:
			continue // its own log is gone
		case t.Kind == Latest && reach < a.end(path):
			return Backup{}, 0, ErrGap.WithCause(fmt.Errorf("after %v there is a hole before %v", reach, a.end(path)))
		case t.Kind == AtLSN && t.LSN > reach, t.found > reach, t.Kind == AtTime && t.Time.After(until.Add(clockSlack)):
			return Backup{}, 0, ErrOutside
		}
		if t.blind() && a.connected(path, backups, b, reach) {
			continue
		}
		return b, reach, nil
	}
	if !usable {
		return Backup{}, 0, ErrTimeline
	}
	return Backup{}, 0, ErrOutside
}

// blind reports whether nothing says where in the log the target is.
func (t Target) blind() bool { return (t.Kind == AtXID || t.Kind == AtName) && t.found == 0 }

// after reports whether the target lies behind the end of the backup: before that the cluster is not consistent.
func (t Target) after(b Backup) bool {
	switch t.Kind {
	case AtTime:
		return !b.Completed.After(t.Time)
	case AtLSN:
		return b.Stop <= t.LSN
	case AtXID, AtName:
		return t.found == 0 || b.Stop <= t.found
	case Latest, Immediate:
	}
	return true
}

// connected reports whether an older backup leads as far as b: from it, what b would miss is found as well.
func (a Archive) connected(path wal.History, backups []Backup, b Backup, reach wal.LSN) bool {
	return slices.ContainsFunc(backups, func(older Backup) bool {
		if older.Stop >= b.Stop || !path.Contains(older.Timeline, older.Stop) {
			return false
		}
		far, _ := a.reach(path, older.Start)
		return far >= reach
	})
}

// reach returns how far the log leads from a position without a hole, and when the end of that arrived.
func (a Archive) reach(path wal.History, from wal.LSN) (wal.LSN, time.Time) {
	at, until := from, time.Time{}
	for {
		p, ok := a.piece(path, at)
		if !ok {
			return at, until
		}
		at, until = p.To, p.Until
	}
}

// piece returns what PostgreSQL reads at a position: the newest timeline's copy of the segment, as far as the
// timeline is part of the path.
func (a Archive) piece(path wal.History, at wal.LSN) (Piece, bool) {
	for _, branch := range slices.Backward(path) {
		if branch.Begin.SegmentStart(a.SegmentSize) > at {
			continue
		}
		for _, p := range a.Pieces {
			p.To = min(p.To, branch.End)
			if p.Timeline == branch.Timeline && p.From <= at && at < p.To {
				return p, true
			}
		}
	}
	return Piece{}, false
}

// end returns the furthest position of the path that anything at hand belongs to.
func (a Archive) end(path wal.History) wal.LSN {
	end := wal.LSN(0)
	for _, p := range a.Pieces {
		for _, branch := range path {
			if p.Timeline == branch.Timeline && p.From < branch.End {
				end = max(end, min(p.To, branch.End))
			}
		}
	}
	return end
}

// Windows returns everything that can be restored on the way to a timeline, oldest first. Between two windows log is missing.
func Windows(tli wal.TimelineID, backups []Backup, a Archive) []Window {
	return a.windows(a.history(tli), backups)
}

func (a Archive) windows(path wal.History, backups []Backup) []Window {
	var all []Window
	sorted := slices.SortedFunc(slices.Values(backups), func(x, y Backup) int { return cmp.Compare(x.Stop, y.Stop) })
	for _, b := range sorted {
		if !path.Contains(b.Timeline, b.Stop) {
			continue
		}
		reach, until := a.reach(path, b.Start)
		if reach < b.Stop || (len(all) > 0 && all[len(all)-1].To >= reach) {
			continue
		}
		all = append(all, Window{Timeline: path.Timeline(), From: b.Stop, To: reach, Since: b.Completed, Until: until})
	}
	return all
}
