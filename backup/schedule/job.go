package schedule

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"rootstream/errs"
)

// Kind is what a job does.
type Kind string

// The kinds of jobs. The first of those that are due together runs first; a
// backup that shares less covers those that share more.
const (
	Full         Kind = "full"
	Differential Kind = "differential"
	Incremental  Kind = "incremental"
	Logical      Kind = "logical"
	Verify       Kind = "verify"
	TestRestore  Kind = "test-restore"
	Prune        Kind = "prune"
)

// Kinds returns all kinds, in the order in which they run.
func Kinds() []Kind {
	return []Kind{Full, Differential, Incremental, Logical, Verify, TestRestore, Prune}
}

// physical reports whether a job takes a copy of the whole cluster.
func (k Kind) physical() bool { return k == Full || k == Differential || k == Incremental }

// Job is something that happens again and again.
type Job struct {
	Kind   Kind
	Cron   Cron
	Jitter time.Duration // it starts up to so much later, the same on every process
	Grace  time.Duration // it must have succeeded so long after its time; 0 means 6h
}

const defaultGrace = 6 * time.Hour

// Name tells jobs apart and is what their history is kept under.
func (j Job) Name() string {
	if j.Cron.plan == nil {
		return askedName(j.Kind)
	}
	return string(j.Kind) + " " + j.Cron.String()
}

// start is when the run planned for t begins.
func (j Job) start(t time.Time) time.Time {
	if j.Jitter <= 0 {
		return t
	}
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s %d", j.Name(), t.Unix())
	return t.Add(time.Duration(h.Sum64() % uint64(j.Jitter))) //nolint:gosec // smaller than a duration
}

// patience is how long after its time a run must have succeeded.
func (j Job) patience() time.Duration { return j.Jitter + cmp.Or(j.Grace, defaultGrace) }

// Check returns every fault of a list of jobs; those of their times [ParseCron] has told.
func Check(jobs []Job) error {
	var faults errs.Fields
	seen := map[string]bool{}
	for i, j := range jobs {
		at := fmt.Sprintf("schedule[%d]", i)
		if !slices.Contains(Kinds(), j.Kind) {
			faults.Add(at+".kind", fmt.Sprintf("must be one of %v", Kinds()))
		}
		if j.Jitter < 0 || j.Jitter > 12*time.Hour {
			faults.Add(at+".jitter", "must be between 0s and 12h")
		}
		if seen[j.Name()] && j.Cron.plan != nil {
			faults.Add(at, "is there twice: "+j.Name())
		}
		seen[j.Name()] = true
	}
	return faults.Err()
}
