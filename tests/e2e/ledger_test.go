package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ledger is what the test knows about every token: what it was told, and when.
type ledger struct {
	began time.Time
	phase atomic.Int64 // odd while everything is whole, see strictly

	mu       sync.Mutex
	sessions []*entry
	byToken  []*token
	recent   []*token // that ended lately
	faults   []string
	more     int // faults beyond those

	lags   []time.Duration // from an acknowledged end to the last request that was still accepted, all whole
	worst  time.Duration   // the same, whatever was broken
	counts map[string]tally
}

// person is an account of the test. Whoever changes all of its sessions holds mu alone.
type person struct {
	name, id string
	mu       sync.RWMutex
}

// entry is one session. Whoever changes it holds mu.
type entry struct {
	user   *person
	id     string
	mu     sync.Mutex
	tokens []*token
	gone   bool // ended, or nobody knows
}

// token is one token. Times are ns since the ledger began, 0 for never.
type token struct {
	value    string
	entry    *entry
	disputed atomic.Bool  // something was begun that may end it
	over     atomic.Int64 // from then on nobody may accept it, but for the bound
	overIn   atomic.Int64 // the phase in which that was acknowledged
}

func newLedger() *ledger { return &ledger{began: time.Now(), counts: map[string]tally{}} }

func (l *ledger) since(t time.Time) int64 { return int64(t.Sub(l.began)) }

func (l *ledger) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.faults) >= 20 {
		l.more++
		return
	}
	l.faults = append(l.faults, fmt.Sprintf("%7.3fs ", time.Since(l.began).Seconds())+fmt.Sprintf(format, args...))
}

// tally is how many requests of a kind there were, and how long they took.
type tally struct {
	n          int
	total, max time.Duration
}

func (t tally) String() string {
	return fmt.Sprintf("%d (mean %v, max %v)", t.n, (t.total / time.Duration(t.n)).Round(time.Millisecond), t.max.Round(time.Millisecond))
}

func (l *ledger) count(what string, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.counts[what]
	l.counts[what] = tally{t.n + 1, t.total + took, max(t.max, took)}
}

// begin writes down a session that was acknowledged.
func (l *ledger) begin(u *person, id, value string) {
	e := &entry{user: u, id: id}
	l.mu.Lock()
	l.sessions = append(l.sessions, e)
	l.mu.Unlock()
	l.add(e, value)
}

// add writes down a token of a session.
func (l *ledger) add(e *entry, value string) {
	t := &token{value: value, entry: e}
	e.tokens = append(e.tokens, t)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byToken = append(l.byToken, t)
}

// dispute notes, before it is asked for, that a session may end.
func (e *entry) dispute() {
	for _, t := range e.tokens {
		t.disputed.Store(true)
	}
}

// end notes that the end of a session was acknowledged.
func (l *ledger) end(e *entry, at time.Time) {
	e.gone = true
	for _, t := range e.tokens {
		l.expire(t, at)
	}
}

// expire notes that a token may not be accepted from an instant on.
func (l *ledger) expire(t *token, at time.Time) {
	if was := t.over.Load(); was == 0 || was > l.since(at) {
		t.overIn.Store(l.phase.Load())
		t.over.Store(max(1, l.since(at)))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recent = append(l.recent, t)
	if len(l.recent) > 300 {
		l.recent = slices.Delete(l.recent, 0, 100)
	}
}

// current is the token that the session goes on with.
func (e *entry) current() *token { return e.tokens[len(e.tokens)-1] }

// of are a person's sessions that have not ended.
func (l *ledger) of(u *person) []*entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*entry
	for _, e := range l.sessions {
		if e.user == u && !e.gone { // gone changes under the person's lock or the session's, which the caller has
			out = append(out, e)
		}
	}
	return out
}

// pick chooses a token: as often one that ended lately as any of the newest.
func (l *ledger) pick(r *rand.Rand) *token {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.recent) > 0 && r.IntN(2) == 0 {
		return l.recent[r.IntN(len(l.recent))]
	}
	if len(l.byToken) == 0 {
		return nil
	}
	newest := l.byToken[max(0, len(l.byToken)-200):]
	return newest[r.IntN(len(newest))]
}

// Bounds on how late a token may be accepted after its end was acknowledged. The later one is the promise itself and
// needs no slack: the clock of a request starts before it is sent, that of an end when its acknowledgement has arrived.
// The promise for whole systems is 100 ms; a loaded machine with the race detector gets more, benchmarks hold it to that.
const (
	boundBroken = 5 * time.Second
	boundWhole  = time.Second
)

// judge holds one answer of validate against what is known.
func (l *ledger) judge(t *token, a answer, phase int64) {
	valid, answered := a.valid()
	if !answered {
		return
	}
	if !valid {
		if !t.disputed.Load() && t.over.Load() == 0 {
			l.fault("a live token was called invalid: %v", a)
		}
		return
	}
	over := t.over.Load()
	if over == 0 {
		return
	}
	late := time.Duration(l.since(a.began) - over)
	bound := boundBroken
	if phase%2 == 1 && phase == l.phase.Load() && t.overIn.Load() == phase {
		bound = boundWhole
	}
	if late > bound {
		l.fault("accepted %v after its end was acknowledged, bound %v: %v", late, bound, a)
	}
	l.mu.Lock()
	l.worst = max(l.worst, late)
	l.mu.Unlock()
}

func (l *ledger) lag(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lags = append(l.lags, d)
}

// quantile of the sorted durations.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
