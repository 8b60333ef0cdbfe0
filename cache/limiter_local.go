package cache

import (
	"sync"
	"time"
)

const sweepEvery = time.Second // at most, while the table is full

// localLimits counts attempts in process, in one number per key: the time at which its bucket will have drained
// (GCRA). It lets through everything that a log of attempts with the same limit would.
type localLimits struct {
	mu     sync.Mutex
	max    int
	drains map[[16]byte]time.Time
	spill  map[Limit]time.Time // shared by the keys that found the table full
	swept  time.Time
}

func newLocalLimits(limit int) *localLimits {
	return &localLimits{max: limit, drains: map[[16]byte]time.Time{}, spill: map[Limit]time.Time{}}
}

// peek returns how long key must wait by what is on record.
func (l *localLimits) peek(key [16]byte, limit Limit, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, wait := fill(l.drains[key], limit, now)
	return wait
}

// take counts an attempt at key, or returns how long it must wait. If there is no room for another key, a strict caller
// shares one count with all others in that position, and an attempt of any other caller goes unrecorded.
func (l *localLimits) take(key [16]byte, limit Limit, now time.Time, strict bool) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.drains[key]; !known && !l.room(now) {
		if !strict {
			return 0
		}
		next, wait := fill(l.spill[limit], limit, now)
		if wait == 0 {
			l.spill[limit] = next
		}
		return wait
	}
	next, wait := fill(l.drains[key], limit, now)
	if wait == 0 {
		l.drains[key] = next
	}
	return wait
}

// room drops drained keys, from time to time, until another fits.
func (l *localLimits) room(now time.Time) bool {
	if len(l.drains) < l.max {
		return true
	}
	if now.Sub(l.swept) < sweepEvery {
		return false
	}
	l.swept = now
	for k, at := range l.drains {
		if !at.After(now) {
			delete(l.drains, k)
		}
	}
	for k, at := range l.spill {
		if !at.After(now) {
			delete(l.spill, k)
		}
	}
	return len(l.drains) < l.max
}

// fill pours one attempt into a bucket that will have drained at drained, or tells when there will be room for it.
func fill(drained time.Time, limit Limit, now time.Time) (next time.Time, wait time.Duration) {
	if drained.Before(now) {
		drained = now
	}
	next = drained.Add(limit.Per / time.Duration(limit.Count))
	return next, max(next.Sub(now)-limit.Per, 0)
}
