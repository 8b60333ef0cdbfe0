// Package near is a bounded map from token hashes to small values that die by
// themselves: the part of the session cache that lives inside the process.
//
// A value must hold no pointers, so that a million of them cost the garbage
// collector nothing. Reading allocates nothing and takes one of many locks.
// What is read from elsewhere to be put here is put under a [Ticket] taken
// before the reading: an invalidation that came in between wins, so a slow
// reader cannot bring back what has been declared stale. The package starts no
// goroutine and has no clock; callers pass the time.
//
// Waiting for memory is most of what a hit costs, and it waits once: table.go
// shows how entries lie.
package near

import (
	"encoding/binary"
	"math/bits"
	"sync"
)

// Key names an entry: the first 16 bytes of a SHA-256, so its bits are uniform already.
type Key [16]byte

// Ticket is the state of invalidations at the moment of a read.
type Ticket uint64

// Stats is what happened since the map was made.
type Stats struct {
	Hits, Misses      uint64
	Evicted, Refused  uint64 // put out for room; not put in, since an invalidation came between
	Entries, Capacity int
}

const (
	maxShards     = 256
	entriesAShard = 64 // at least, before there is a second shard
)

// Map is a bounded map. It is safe for concurrent use.
type Map[V any] struct {
	shards []shard
	table  table[V]
}

// shard is a share of the keys under one lock.
type shard struct {
	mu     sync.Mutex
	groups uint32 // of the table that are this shard's so far: 0 or a power of two
	most   uint32 // of them
	hand   uint32 // where the next search for one to evict begins
	epoch  uint64
	stats  Stats
	_      [64]byte // shards do not share a cache line
}

// New makes a map of at most capacity entries, rounded down to a power of two, 8 at least.
func New[V any](capacity int) *Map[V] {
	slots := 1 << (bits.Len(uint(max(capacity, slotsAGroup))) - 1)
	n := 1
	for n < maxShards && slots/(2*n) >= entriesAShard {
		n *= 2
	}
	m := &Map[V]{shards: make([]shard, n), table: table[V]{shards: n}}
	for i := range m.shards {
		m.shards[i].most = uint32(slots / n / slotsAGroup) //nolint:gosec // entries for so many need more than memory
		m.shards[i].stats.Capacity = slots / n
	}
	return m
}

// lock locks the shard of k and returns it and its number.
func (m *Map[V]) lock(k *Key) (*shard, uint32) {
	no := binary.LittleEndian.Uint32(k[12:]) & uint32(len(m.shards)-1) //nolint:gosec // at most maxShards
	s := &m.shards[no]
	s.mu.Lock()
	return s, no
}

// Get returns the value of k if it is there and alive at now.
func (m *Map[V]) Get(k Key, now int64) (v V, ok bool) {
	s, no := m.lock(&k)
	if at, found := m.table.find(no, s.groups, &k); found {
		if e := at.entry(); e.dies > now {
			at.use()
			v, ok = e.value, true
			s.stats.Hits++
			s.mu.Unlock()
			return v, ok
		}
	}
	s.stats.Misses++
	s.mu.Unlock()
	return v, false
}

// Ticket must be taken before the source of a later [Map.Put] is read.
func (m *Map[V]) Ticket(k Key) Ticket {
	s, _ := m.lock(&k)
	defer s.mu.Unlock()
	return Ticket(s.epoch)
}

// Put stores v until then, unless something in k's shard was invalidated since t was taken.
func (m *Map[V]) Put(k Key, v V, until int64, t Ticket) bool {
	s, no := m.lock(&k)
	defer s.mu.Unlock()
	if Ticket(s.epoch) != t {
		s.stats.Refused++
		return false
	}
	at, found := m.table.find(no, s.groups, &k)
	if !found {
		at = m.room(s, no, &k)
		at.take(&k)
		s.stats.Entries++
	}
	*at.entry() = entry[V]{key: k, dies: until, value: v}
	return true
}

// room finds a free slot for k, or makes one.
func (m *Map[V]) room(s *shard, no uint32, k *Key) slot[V] {
	for {
		if at, free := m.table.free(no, s.groups, k); free {
			return at
		}
		if s.groups == s.most {
			break
		}
		m.table.double(no, s.groups)
		s.groups = max(1, 2*s.groups)
	}
	s.hand++
	s.stats.Evicted++
	s.stats.Entries--
	return m.table.evict(no, s.groups, k, s.hand)
}

// Update changes the value of k in place, if it is there.
func (m *Map[V]) Update(k Key, change func(*V)) {
	s, no := m.lock(&k)
	defer s.mu.Unlock()
	if at, found := m.table.find(no, s.groups, &k); found {
		change(&at.entry().value)
	}
}

// Invalidate drops k and refuses every Put whose Ticket was taken before.
func (m *Map[V]) Invalidate(k Key) {
	s, no := m.lock(&k)
	defer s.mu.Unlock()
	s.epoch++
	if at, found := m.table.find(no, s.groups, &k); found {
		at.clear()
		s.stats.Entries--
	}
}

// Flush drops everything, and refuses every Put whose Ticket was taken before.
func (m *Map[V]) Flush() {
	for no := range m.shards {
		s := &m.shards[no]
		s.mu.Lock()
		s.epoch++
		s.stats.Entries = 0
		m.table.clear(uint32(no), s.groups)
		s.mu.Unlock()
	}
}

// Stats sums up all shards.
func (m *Map[V]) Stats() Stats {
	var sum Stats
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		sum.Hits += s.stats.Hits
		sum.Misses += s.stats.Misses
		sum.Evicted += s.stats.Evicted
		sum.Refused += s.stats.Refused
		sum.Entries += s.stats.Entries
		sum.Capacity += s.stats.Capacity
		s.mu.Unlock()
	}
	return sum
}
