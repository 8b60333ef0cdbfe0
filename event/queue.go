package event

import (
	"container/list"
	"sync"
	"time"

	"rootstream/internal/wait"
)

const (
	pace   = 2 * time.Millisecond // from one commit's start to that of the next that is not full
	alone  = time.Millisecond     // the same if a single event waits: perhaps for no other
	plenty = 128                  // events that wait make a commit full
	enough = 8                    // full commits of others that go first
)

// queue holds the units that wait, oldest first, in lanes that are committed
// one batch at a time.
type queue struct {
	ready chan struct{} // holds a token when there may be something to take

	mu     sync.Mutex
	lanes  []lane
	began  time.Time // the last batch
	closed bool
}

type lane struct {
	units *list.List
	rows  int  // in units
	busy  bool // a batch of it is being committed
	after int  // so many batches that were taken since it waits
}

func newQueue(lanes int) *queue {
	q := &queue{ready: make(chan struct{}, 1), lanes: make([]lane, lanes)}
	for i := range q.lanes {
		q.lanes[i].units = list.New()
	}
	return q
}

// put reports whether u was taken in: not once the queue is closed.
func (q *queue) put(u *unit, at int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	l := &q.lanes[at]
	u.lane, u.place = l, l.units.PushBack(u)
	l.rows += len(u.rows)
	first := l.rows == len(u.rows)
	if first {
		l.after = 0
	}
	if first || q.waiting() >= plenty { // else it is known when to look
		wait.Wake(q.ready)
	}
	return true
}

// drop removes u; it reports false when u is no longer waiting.
func (q *queue) drop(u *unit) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if u.place == nil {
		return false
	}
	u.leave()
	return true
}

// leave takes u out of its lane. The caller holds the queue's lock.
func (u *unit) leave() {
	u.lane.units.Remove(u.place)
	u.lane.rows -= len(u.rows)
	u.place = nil
}

// batch is what is committed together.
type batch struct {
	units []*unit
	lanes []*lane
}

// take removes the next batch, of at most that many events but at least one
// unit. Without one it says how long to wait; 0 means until the queue is ready.
func (q *queue) take(most int, now time.Time) (b batch, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if b.lanes, wait = q.next(now); b.lanes == nil {
		return b, wait
	}
	q.began = now
	for i := range q.lanes {
		q.lanes[i].after++
	}
	keys := map[string]bool{}
	for _, l := range b.lanes {
		l.busy, l.after = true, 0
		for l.units.Len() > 0 {
			u := l.units.Front().Value.(*unit) //nolint:forcetypeassert // it holds nothing else
			if len(u.rows) > most && b.units != nil || u.repeats(keys) {
				break
			}
			most -= len(u.rows)
			b.units = append(b.units, u)
			u.leave()
		}
	}
	return b, wait
}

// next says of which lanes the next batch is to be. If plenty waits, it is the
// fullest lane, so that lanes are committed side by side, unless one has let
// enough others go first; else all of them together, not before it is time: many
// small commits cost more than they gain.
func (q *queue) next(now time.Time) (lanes []*lane, wait time.Duration) {
	var first *lane
	total := 0
	for i := range q.lanes {
		l := &q.lanes[i]
		if l.busy || l.rows == 0 {
			continue
		}
		lanes = append(lanes, l)
		total += l.rows
		if first == nil || first.after < enough && (l.after >= enough || l.rows > first.rows) {
			first = l
		}
	}
	wait = pace
	if total == 1 {
		wait = alone
	}
	switch wait -= now.Sub(q.began); {
	case total == 0:
		return nil, 0
	case total >= plenty:
		return []*lane{first}, 0
	case wait > 0:
		return nil, wait
	}
	return lanes, 0
}

// done lets the batch's lanes be taken from again.
func (q *queue) done(b batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range b.lanes {
		l.busy = false
	}
	wait.Wake(q.ready)
}

// close refuses further units and returns those that waited.
func (q *queue) close() []*unit {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	var units []*unit
	for _, l := range q.lanes {
		for l.units.Len() > 0 {
			u := l.units.Front().Value.(*unit) //nolint:forcetypeassert // it holds nothing else
			units = append(units, u)
			l.units.Remove(u.place)
			u.place = nil
		}
	}
	return units
}

// len is how many units wait.
func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, l := range q.lanes {
		n += l.units.Len()
	}
	return n
}

// waiting is how many events wait. The caller holds the queue's lock.
func (q *queue) waiting() (rows int) {
	for i := range q.lanes {
		rows += q.lanes[i].rows
	}
	return rows
}

// repeats reports whether one of u's keys is among keys, and adds them.
func (u *unit) repeats(keys map[string]bool) bool {
	for _, r := range u.rows {
		switch key := r.IdempotencyKey; {
		case key == "":
		case keys[key]:
			return true
		default:
			keys[key] = true
		}
	}
	return false
}
