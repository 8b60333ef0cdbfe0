package session

import (
	"sync"

	"rootstream/session/near"
)

// marks are what this instance has heard: tokens that end at an instant, for
// good, and the oldest version of a view that may still be believed. They outlive
// every view that Redis may hold, so nothing planted, replayed or refilled there
// can bring a revoked session back.
type marks struct {
	mu    sync.RWMutex
	byKey map[near.Key]verdict
	room  int
	floor int64 // views filled before are not believed; it replaces marks there was no room for
}

// verdict is what is known of one token. Times are microseconds.
type verdict struct {
	version int64 // older views are stale
	ends    int64 // the token is dead from then on; 0 is not known to end
	keep    int64 // until then
}

const maxMarks = 1 << 20

func newMarks(room int) *marks { return &marks{byKey: map[near.Key]verdict{}, room: room} }

// add combines what is new with what is known: the higher version, the earlier end.
func (m *marks) add(k near.Key, version, ends, keep, now int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, known := m.byKey[k]
	if !known && len(m.byKey) >= m.room {
		m.makeRoom(now)
	}
	v.version, v.keep = max(v.version, version), max(v.keep, keep)
	if ends != 0 && (v.ends == 0 || ends < v.ends) {
		v.ends = ends
	}
	m.byKey[k] = v
}

// makeRoom forgets what a floor says as well: views from before now are not believed at all.
// Ends that lie ahead must stay, since views filled later still have to hear of them.
func (m *marks) makeRoom(now int64) {
	m.floor = now
	for k, v := range m.byKey {
		if v.ends <= now {
			delete(m.byKey, k)
		}
	}
}

func (m *marks) get(k near.Key) verdict {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.byKey[k]
}

// believes reports whether a view from Redis is not older than what is known.
func (m *marks) believes(k near.Key, v *View) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return v.FilledAt >= m.floor && v.Version >= m.byKey[k].version
}

// prune forgets what no view can contradict any more.
func (m *marks) prune(now int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, v := range m.byKey {
		if v.keep <= now {
			delete(m.byKey, k)
		}
	}
}

func (m *marks) len() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.byKey)
}

// dead reports whether the token is known to have ended.
func (v verdict) dead(now int64) bool { return v.ends != 0 && v.ends <= now }

// cap lets a view end when its token does.
func (v verdict) cap(view *View) {
	if v.ends != 0 {
		view.ExpiresAt = min(view.ExpiresAt, v.ends)
	}
}
