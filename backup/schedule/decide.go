package schedule

import (
	"cmp"
	"slices"
	"time"
)

// Due is a run that should begin.
type Due struct {
	Job     Job
	Planned time.Time
}

// Tries of one planned run, and the pause after the first that failed; it doubles.
const (
	maxTries   = 4
	firstPause = 10 * time.Minute
)

// Decide says what should run at now: what people asked for, then first things first. What was missed is
// made up for once, however often it was missed. With no backup at all, the
// first job that takes one is due at once.
func Decide(jobs []Job, l Ledger, now time.Time, empty bool) []Due {
	var due []Due
	for _, k := range Kinds() {
		if a, asked := l.Asked[k]; asked {
			due = append(due, Due{Job{Kind: k}, a.At})
		}
	}
	for _, j := range ordered(jobs) {
		if t := j.dueAt(l.Jobs[j.Name()], now); !t.IsZero() {
			due = append(due, Due{j, t})
		}
	}
	if empty && !slices.ContainsFunc(due, func(d Due) bool { return d.Job.Kind.physical() }) {
		for _, j := range ordered(jobs) {
			if r := l.Jobs[j.Name()]; j.Kind.physical() && (r.Failures == 0 || r.again(now)) {
				return append([]Due{{j, now}}, due...)
			}
		}
	}
	return due
}

// dueAt returns the planned time of the run that should begin at now; zero if none should.
func (j Job) dueAt(r Record, now time.Time) time.Time {
	if t := j.Cron.Last(r.taken(), now); !t.IsZero() && !now.Before(j.start(t)) {
		return t.UTC()
	}
	if r.again(now) {
		return r.Planned
	}
	return time.Time{}
}

// again reports whether a run that failed is to be tried once more.
func (r Record) again(now time.Time) bool {
	if r.Failures == 0 || r.Failures >= maxTries {
		return false
	}
	return !now.Before(r.Ended.Add(firstPause << (r.Failures - 1)))
}

// Problem is why somebody is told about a job.
type Problem string

// The problems, and their end.
const (
	Failed    Problem = "failed"    // a run ended with an error
	Overdue   Problem = "overdue"   // there was no success in time, whatever the reason
	Recovered Problem = "recovered" // it succeeded, after somebody was told that it did not
)

// Alert is what people are told.
type Alert struct {
	Problem Problem   `json:"problem"`
	Job     string    `json:"job"`
	Kind    Kind      `json:"kind"`
	Planned time.Time `json:"planned"`
	Success time.Time `json:"last_success,omitzero"`
	Error   string    `json:"error,omitempty"`
}

// Problems says what people have to be told at now and were not: each problem
// once for each planned time, and once that it is over.
func Problems(jobs []Job, l Ledger, now time.Time) []Alert {
	var alerts []Alert
	for _, j := range ordered(jobs) {
		r, known := l.Jobs[j.Name()]
		if !known {
			continue
		}
		told := j.problem(r, now)
		if told.same(r.Told) {
			continue
		}
		a := Alert{Problem: told.Problem, Job: j.Name(), Kind: j.Kind, Planned: told.Planned, Success: r.Success, Error: r.Error}
		if a.Problem == "" {
			a.Problem, a.Planned, a.Error = Recovered, r.Covered, ""
		}
		alerts = append(alerts, a)
	}
	return alerts
}

// reminded is how much later the same problem of a job is told again.
const reminded = 24 * time.Hour

// problem is what is wrong with a job, as it will be noted once somebody was told.
func (j Job) problem(r Record, now time.Time) Told {
	var found Told
	if late := j.Cron.Last(later(r.Covered, r.Since), now.Add(-j.patience())); !late.IsZero() {
		found = Told{Overdue, late.UTC()}
	} else if r.Failures > 0 {
		found = Told{Failed, r.Planned}
	}
	if found.Problem == r.Told.Problem && found.Planned.Before(r.Told.Planned.Add(reminded)) {
		return r.Told
	}
	return found
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// ordered returns jobs as they run when they are due together.
func ordered(jobs []Job) []Job {
	return slices.SortedStableFunc(slices.Values(jobs), func(a, b Job) int { return cmp.Compare(rank(a.Kind), rank(b.Kind)) })
}

func rank(k Kind) int { return slices.Index(Kinds(), k) }

// Owed returns the newest planned time of the jobs of some kinds by which, at
// now, one of them must have succeeded; zero if there is none.
func Owed(jobs []Job, now time.Time, kinds ...Kind) time.Time {
	const farthest = 62 * 24 * time.Hour
	var owed time.Time
	for _, j := range jobs {
		if slices.Contains(kinds, j.Kind) {
			owed = later(owed, j.Cron.Last(now.Add(-farthest), now.Add(-j.patience())))
		}
	}
	return owed
}
