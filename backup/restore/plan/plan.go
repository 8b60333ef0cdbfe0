// Package plan chooses how a target of a restore is reached: the backup to begin with, the timeline to follow.
//
// [Spec] is a target as people write it, [Target] as it is meant. [Choose] is
// pure: it refuses what cannot be reached, and says what can be ([Windows]).
// [Make] reads what is to choose from, and looks in the log for what only the
// log knows: where a transaction or a restore point is. It changes nothing.
package plan

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"rootstream/backup/archive/ledger"
	"rootstream/backup/wal"
	"rootstream/errs"
)

// Why a target cannot be reached.
var (
	ErrNoBackup = errs.New(errs.NotFound, "backup_not_found", "there is no such backup")
	ErrOutside  = errs.New(errs.Precondition, "outside_window", "the target is outside of what can be restored")
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

// Choice is how a target is reached.
type Choice struct {
	Target   Target // with what the log says of it
	Backup   Backup
	Timeline wal.TimelineID // to follow; never "the latest", which somebody else may change
	History  wal.History    // of that timeline
	Path     []wal.Range    // what is replayed, as far as it is known
	Hole     bool           // behind what can be replayed log is missing, and there is more behind that

	system      uint64
	segmentSize uint32
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

// Choose chooses the backup to begin with and the timeline to follow. A target that cannot be reached is refused, and
// the error says what can be.
func Choose(t Target, backups []Backup, l ledger.Ledger) (Choice, error) {
	t.Kind = cmp.Or(t.Kind, Latest)
	backups = sorted(backups)
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
	path, err := follow(l, t, newest)
	if err != nil {
		return Choice{}, err
	}
	windows := windowsOn(l, path, backups)
	best, reach, refused := pick(l, t, path, backups)
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
	return Choice{
		Target: t, Backup: best, Timeline: path.Timeline(), History: path, Path: path.Path(best.Start, end),
		Hole:   reach < l.End(path),
		system: l.SystemID, segmentSize: l.SegmentSize,
	}, nil
}

// Newest returns the backup of which there is nothing newer, of at least one.
func Newest(backups []Backup) Backup { return slices.MaxFunc(backups, byAge) }

func sorted(backups []Backup) []Backup { return slices.SortedFunc(slices.Values(backups), byAge) }

func byAge(x, y Backup) int {
	return cmp.Or(cmp.Compare(x.Timeline, y.Timeline), cmp.Compare(x.Stop, y.Stop))
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
func follow(l ledger.Ledger, t Target, newest Backup) (wal.History, error) {
	if t.Timeline != 0 {
		if l.Timeline(t.Timeline) == nil && t.Timeline != newest.Timeline {
			return nil, ErrTimeline.WithCause(fmt.Errorf("the repository knows no timeline %d", t.Timeline))
		}
		return l.History(t.Timeline), nil
	}
	path := l.History(newest.Timeline)
	if t.Current || t.Kind == Immediate {
		return path, nil
	}
	for _, tl := range l.Timelines {
		if tl.History.Timeline() > path.Timeline() && tl.History.Contains(newest.Timeline, newest.Stop) {
			path = tl.History
		}
	}
	return path, nil
}

// pick returns the newest backup from which the target can be reached, and how far the log leads from it.
func pick(l ledger.Ledger, t Target, path wal.History, backups []Backup) (Backup, wal.LSN, *errs.Error) {
	usable := false
	for _, b := range slices.Backward(backups) {
		if !path.Contains(b.Timeline, b.Stop) {
			continue
		}
		usable = true
		if !t.after(b) {
			continue
		}
		reach, until := l.Reach(path, b.Start)
		switch {
		case reach < b.Stop:
			continue // its own log is gone
		case t.Kind == Latest && reach < l.End(path):
			return Backup{}, 0, ledger.ErrGap.WithCause(fmt.Errorf("after %v there is a hole before %v", reach, l.End(path)))
		case t.Kind == AtLSN && t.LSN > reach, t.found > reach, t.Kind == AtTime && t.Time.After(until.Add(clockSlack)):
			return Backup{}, 0, ErrOutside
		}
		if t.blind() && connected(l, path, backups, b, reach) {
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
func connected(l ledger.Ledger, path wal.History, backups []Backup, b Backup, reach wal.LSN) bool {
	return slices.ContainsFunc(backups, func(older Backup) bool {
		if older.Stop >= b.Stop || !path.Contains(older.Timeline, older.Stop) {
			return false
		}
		far, _ := l.Reach(path, older.Start)
		return far >= reach
	})
}

// Windows returns everything that can be restored on the way to the newest timeline that the newest backup leads to,
// oldest first. Between two windows log is missing.
func Windows(backups []Backup, l ledger.Ledger) []Window {
	if len(backups) == 0 {
		return nil
	}
	path, _ := follow(l, Target{}, Newest(backups)) // only a timeline that is asked for can be unknown
	return windowsOn(l, path, backups)
}

func windowsOn(l ledger.Ledger, path wal.History, backups []Backup) []Window {
	var all []Window
	for _, b := range slices.SortedFunc(slices.Values(backups), func(x, y Backup) int { return cmp.Compare(x.Stop, y.Stop) }) {
		if !path.Contains(b.Timeline, b.Stop) {
			continue
		}
		reach, until := l.Reach(path, b.Start)
		if reach < b.Stop || (len(all) > 0 && all[len(all)-1].To >= reach) {
			continue
		}
		all = append(all, Window{Timeline: path.Timeline(), From: b.Stop, To: reach, Since: b.Completed, Until: until})
	}
	return all
}
