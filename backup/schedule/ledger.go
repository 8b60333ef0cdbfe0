package schedule

import (
	"time"
)

// Ledger is what all processes know of the jobs: one small object that each
// may replace, if nobody else did in between.
type Ledger struct {
	Serial uint64            `json:"serial"`           // no two versions are alike
	Claim  *Claim            `json:"claim,omitempty"`  // the run that goes on; there is one at a time
	Asked  map[Kind]Ask      `json:"asked,omitempty"`  // what people want to run now
	Teller *Turn             `json:"teller,omitempty"` // who is telling people
	Jobs   map[string]Record `json:"jobs"`             // by the name of the job
}

// Ask is a wish that something runs now.
type Ask struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// askedName is the name under which the runs that people asked for are recorded.
func askedName(k Kind) string { return "asked " + string(k) }

// Turn says who does something now, so that others leave it.
type Turn struct {
	Owner string    `json:"owner"`
	Until time.Time `json:"until"`
}

// Claim says that a process runs a job.
type Claim struct {
	Owner   string    `json:"owner"`
	Job     string    `json:"job"`
	Kind    Kind      `json:"kind"`
	Planned time.Time `json:"planned"`
	Started time.Time `json:"started"`
	Until   time.Time `json:"until"` // not renewed by then, its process is gone
}

// Record is the history of a job.
type Record struct {
	Kind     Kind      `json:"kind"`
	Since    time.Time `json:"since"`             // when it was first seen: what was planned before is not made up for
	Planned  time.Time `json:"planned,omitzero"`  // the newest planned time that was taken up
	Started  time.Time `json:"started,omitzero"`  // its last run
	Ended    time.Time `json:"ended,omitzero"`    // likewise
	Error    string    `json:"error,omitempty"`   // of its last run; empty: it succeeded
	Result   string    `json:"result,omitempty"`  // of its last success: the id of a backup
	Failures int       `json:"failures,omitzero"` // since Planned
	Success  time.Time `json:"success,omitzero"`  // end of its last success
	Covered  time.Time `json:"covered,omitzero"`  // the planned time up to which there was success
	Told     Told      `json:"told,omitzero"`     // the last alert about it
}

// Told is an alert that was sent.
type Told struct {
	Problem Problem   `json:"problem,omitempty"` // empty: all is well
	Planned time.Time `json:"planned,omitzero"`
}

func (t Told) same(u Told) bool { return t.Problem == u.Problem && t.Planned.Equal(u.Planned) }

// adopt notes jobs that are new and drops those that are gone. It reports whether anything changed.
func (l *Ledger) adopt(jobs []Job, now time.Time) bool {
	have := make(map[string]Record, len(jobs))
	for name, r := range l.Jobs {
		if name == askedName(r.Kind) {
			have[name] = r
		}
	}
	changed := false
	for _, j := range jobs {
		r, known := l.Jobs[j.Name()]
		if !known {
			r, changed = Record{Kind: j.Kind, Since: now}, true
		}
		have[j.Name()] = r
	}
	if l.Claim != nil { // what runs keeps its place
		if r, known := l.Jobs[l.Claim.Job]; known {
			have[l.Claim.Job] = r
		}
	}
	changed = changed || len(have) != len(l.Jobs)
	l.Jobs = have
	return changed
}

// free ends a claim whose process is gone, so that its run is tried again. It reports whether it did.
func (l *Ledger) free(now time.Time) bool {
	c := l.Claim
	if c == nil || now.Before(c.Until) {
		return false
	}
	l.settle(*c, Outcome{Error: "the process that ran it is gone: " + c.Owner}, now)
	return true
}

// Outcome is how a run ended.
type Outcome struct {
	Result string // the id of the backup, if it made one
	Error  string // empty: it succeeded
}

// settle writes down how the run of a claim ended.
func (l *Ledger) settle(c Claim, o Outcome, now time.Time) {
	l.Claim = nil
	r := l.Jobs[c.Job]
	r.Kind = c.Kind
	r.Planned, r.Started, r.Ended, r.Error = c.Planned, c.Started, now, o.Error
	if o.Error != "" {
		r.Failures++
	} else {
		r.Failures, r.Success, r.Covered, r.Result = 0, now, c.Planned, o.Result
	}
	l.Jobs[c.Job] = r
}

// cover notes that a backup makes those up that would share more and are due as well.
func (l *Ledger) cover(jobs []Job, done Kind, now time.Time) {
	for _, j := range jobs {
		if !done.physical() || !j.Kind.physical() || rank(j.Kind) <= rank(done) {
			continue
		}
		r := l.Jobs[j.Name()]
		if t := j.Cron.Last(r.taken(), now).UTC(); !t.IsZero() && !now.Before(j.start(t)) {
			r.Planned, r.Covered, r.Success, r.Failures, r.Error = t, t, now, 0, ""
			l.Jobs[j.Name()] = r
		}
	}
}

// taken is the time up to which what was planned was taken up or is not to be made up for.
func (r Record) taken() time.Time { return later(r.Planned, r.Since) }

// told notes an alert that was sent.
func (l *Ledger) told(a Alert) {
	r, known := l.Jobs[a.Job]
	if !known {
		return
	}
	r.Told = Told{a.Problem, a.Planned}
	if a.Problem == Recovered {
		r.Told = Told{}
	}
	l.Jobs[a.Job] = r
}

// succeeded reports whether any backup was ever taken as planned.
func (l *Ledger) succeeded() bool {
	for _, k := range l.Jobs {
		if k.Kind.physical() && !k.Success.IsZero() {
			return true
		}
	}
	return false
}
