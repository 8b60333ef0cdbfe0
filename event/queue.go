package event

import (
	"container/list"
	"sync"
)

// queue holds the units that wait for one worker, oldest first.
type queue struct {
	ready chan struct{} // holds a token when something may wait

	mu     sync.Mutex
	units  *list.List
	closed bool
}

func newQueue() *queue { return &queue{ready: make(chan struct{}, 1), units: list.New()} }

// put reports whether u was taken in: not once the queue is closed.
func (q *queue) put(u *unit) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	u.place = q.units.PushBack(u)
	select {
	case q.ready <- struct{}{}:
	default:
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
	q.remove(u)
	return true
}

func (q *queue) remove(u *unit) {
	q.units.Remove(u.place)
	u.place = nil
}

// take removes the oldest units, of at most that many events together but at
// least one, up to one whose key is taken with it already.
func (q *queue) take(most int) []*unit {
	q.mu.Lock()
	defer q.mu.Unlock()
	var units []*unit
	keys := map[string]bool{}
	for q.units.Len() > 0 {
		u := q.units.Front().Value.(*unit) //nolint:forcetypeassert // it holds nothing else
		if len(u.rows) > most && units != nil || u.repeats(keys) {
			break
		}
		most -= len(u.rows)
		units = append(units, u)
		q.remove(u)
	}
	return units
}

// close refuses further units and returns those that waited.
func (q *queue) close() []*unit {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	var units []*unit
	for q.units.Len() > 0 {
		u := q.units.Front().Value.(*unit) //nolint:forcetypeassert // it holds nothing else
		units = append(units, u)
		q.remove(u)
	}
	return units
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.units.Len()
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
