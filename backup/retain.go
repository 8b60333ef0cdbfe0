package backup

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Keep says how long backups of one type are kept: the newest Last, and all
// that are younger than For. Both 0 means the default of the type.
type Keep struct {
	Last int
	For  time.Duration
}

// Retention says what is kept.
type Retention struct {
	Full         Keep          // 0 means 30 days
	Differential Keep          // 0 means 7 days
	Incremental  Keep          // 0 means 3 days
	Logical      Keep          // 0 means 30 days
	Unfinished   time.Duration // how long what killed backups stored stays for the next to go on with; 0 means a day
	Minimum      int           // intact backups of the whole cluster that are kept whatever their age; 0 means 2
}

const day = 24 * time.Hour

func (r Retention) of(t Type) Keep {
	keep, usual := r.Full, 30*day // also where the manifest cannot be read: it may have been one
	switch t {
	case Full:
	case Differential:
		keep, usual = r.Differential, 7*day
	case Incremental:
		keep, usual = r.Incremental, 3*day
	case Logical:
		keep, usual = r.Logical, 30*day
	}
	if keep == (Keep{}) {
		keep.For = usual
	}
	return keep
}

// Verdict says what becomes of a backup, and why.
type Verdict struct {
	ID     string `json:"id"`
	Delete bool   `json:"delete"`
	Reason string `json:"reason"`
}

// Retain says which backups are kept at now. All can be deleted on their own:
// no backup needs another one. What is kept whatever its age: what is pinned,
// the newest Minimum that are intact, and the newest that was proven by a test
// restore, each of the cluster that the newest backup is of.
func Retain(backups []Backup, r Retention, now time.Time) []Verdict {
	sorted := Newest(backups)
	verdicts := make([]Verdict, 0, len(sorted))
	count := map[Type]int{}
	intact, proven := 0, false
	for _, b := range sorted {
		v := Verdict{ID: b.ID}
		current := b.System == sorted[0].System
		keep, name := r.of(b.Type), cmp.Or(b.Type, "unreadable")
		whole := current && b.physical() && b.Status == StatusCompleted
		if b.Status == StatusCompleted {
			count[b.Type]++
		}
		switch age := now.Sub(b.CompletedAt); {
		case b.Pinned:
			v.Reason = "pinned"
		case whole && intact < cmp.Or(r.Minimum, 2):
			v.Reason = fmt.Sprintf("one of the newest %d", cmp.Or(r.Minimum, 2))
		case whole && b.proven() && !proven:
			v.Reason = "the newest that was proven by a test restore"
		case age < keep.For:
			v.Reason = fmt.Sprintf("%s, younger than %s", name, span(keep.For))
		case b.Status == StatusCompleted && count[b.Type] <= keep.Last:
			v.Reason = fmt.Sprintf("one of the newest %d of type %s", keep.Last, b.Type)
		default:
			v.Delete, v.Reason = true, expired(name, keep)
		}
		if whole {
			intact++
			proven = proven || b.proven()
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

func expired(t Type, k Keep) string {
	switch {
	case k.For == 0:
		return fmt.Sprintf("%s, not one of the newest %d", t, k.Last)
	case k.Last == 0:
		return fmt.Sprintf("%s, older than %s", t, span(k.For))
	}
	return fmt.Sprintf("%s, older than %s and not one of the newest %d", t, span(k.For), k.Last)
}

func span(d time.Duration) string {
	if d >= 2*day && d%day == 0 {
		return fmt.Sprintf("%d days", d/day)
	}
	return d.String()
}

// Newest sorts backups, newest first: by cluster in the order of their newest
// backups, then by where they end in the write-ahead log, never by clocks alone.
func Newest(backups []Backup) []Backup {
	last := map[string]time.Time{}
	for _, b := range backups {
		if b.CompletedAt.After(last[b.System]) {
			last[b.System] = b.CompletedAt
		}
	}
	return slices.SortedStableFunc(slices.Values(backups), func(a, b Backup) int {
		return cmp.Or(
			last[b.System].Compare(last[a.System]), cmp.Compare(b.System, a.System),
			cmp.Compare(b.Timeline, a.Timeline), cmp.Compare(b.StopLSN, a.StopLSN), b.CompletedAt.Compare(a.CompletedAt),
		)
	})
}
