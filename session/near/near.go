// Package near is a bounded map from token hashes to small values that die by
// themselves: the part of the session cache that lives inside the process.
//
// A value must hold no pointers, so that a million of them cost the garbage
// collector nothing. Reading allocates nothing and takes one of many locks.
// What is read from elsewhere to be put here is put under a [Ticket] taken
// before the reading: an invalidation that came in between wins, so a slow
// reader cannot bring back what has been declared stale. The package starts no
// goroutine and has no clock; callers pass the time.
package near

import (
	"encoding/binary"
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
	entriesAShard = 64      // at least, before there is a second shard
	maxAShard     = 1 << 23 // the index has 24 bits for a place
	firstSlab     = 16
)

// Map is a bounded map. It is safe for concurrent use.
type Map[V any] struct {
	shards []shard[V]
	mask   uint32
}

type shard[V any] struct {
	mu    sync.Mutex
	index index
	slab  []entry[V]
	free  []uint32
	limit int
	hand  int
	epoch uint64
	stats Stats
	_     [64]byte // shards do not share a cache line
}

type entry[V any] struct {
	key   Key
	life  int64 // the entry is dead from here on; the lowest bit says that it was used
	value V
}

const usedBit = 1

// New makes a map of at most capacity entries.
func New[V any](capacity int) *Map[V] {
	n := 1
	for n < maxShards && capacity/(2*n) >= entriesAShard {
		n *= 2
	}
	m := &Map[V]{shards: make([]shard[V], n), mask: uint32(n - 1)} //nolint:gosec // at most maxShards
	for i := range m.shards {
		m.shards[i].limit = min(max(1, (capacity+n-1)/n), maxAShard)
	}
	return m
}

func (m *Map[V]) shard(k *Key) *shard[V] {
	return &m.shards[binary.LittleEndian.Uint32(k[12:])&m.mask]
}

// find returns the place of k in the slab.
func (s *shard[V]) find(k *Key) (uint32, bool) {
	if len(s.index) == 0 {
		return 0, false
	}
	mask := uint32(len(s.index) - 1) //nolint:gosec // at most twice maxAShard
	tag := k.tag()
	for at := k.home() & mask; ; at = (at + 1) & mask {
		slot := s.index[at]
		if slot == 0 {
			return 0, false
		}
		if slot&tagMask == tag {
			if i := slot&placeMask - 1; s.slab[i].key == *k {
				return i, true
			}
		}
	}
}

// Get returns the value of k if it is there and alive at now.
func (m *Map[V]) Get(k Key, now int64) (v V, ok bool) {
	s := m.shard(&k)
	s.mu.Lock()
	if i, found := s.find(&k); found {
		if e := &s.slab[i]; e.life&^usedBit > now {
			if e.life&usedBit == 0 {
				e.life |= usedBit
			}
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
	s := m.shard(&k)
	s.mu.Lock()
	defer s.mu.Unlock()
	return Ticket(s.epoch)
}

// Put stores v until then (to the even number), unless something in k's shard was invalidated since t was taken.
func (m *Map[V]) Put(k Key, v V, until int64, t Ticket) bool {
	s := m.shard(&k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if Ticket(s.epoch) != t {
		s.stats.Refused++
		return false
	}
	i, found := s.find(&k)
	if !found {
		i = s.slot()
	}
	s.slab[i] = entry[V]{key: k, life: until &^ usedBit, value: v}
	if !found {
		s.link(i)
	}
	return true
}

// Update changes the value of k in place, if it is there.
func (m *Map[V]) Update(k Key, change func(*V)) {
	s := m.shard(&k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, found := s.find(&k); found {
		change(&s.slab[i].value)
	}
}

// Invalidate drops k and refuses every Put whose Ticket was taken before.
func (m *Map[V]) Invalidate(k Key) {
	s := m.shard(&k)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
	if i, found := s.find(&k); found {
		s.unlink(i)
		s.slab[i] = entry[V]{}
		s.free = append(s.free, i)
	}
}

// Flush drops everything, and refuses every Put whose Ticket was taken before.
func (m *Map[V]) Flush() {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		s.epoch++
		clear(s.index) // what is left in the slab cannot be found, and is overwritten before it can
		s.slab, s.free, s.hand = s.slab[:0], s.free[:0], 0
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
		sum.Entries += len(s.slab) - len(s.free)
		sum.Capacity += s.limit
		s.mu.Unlock()
	}
	return sum
}

// slot finds room: a free slot, a new one, or that of an entry nobody asked for lately.
func (s *shard[V]) slot() uint32 {
	if n := len(s.free); n > 0 {
		i := s.free[n-1]
		s.free = s.free[:n-1]
		return i
	}
	if n := len(s.slab); n < s.limit {
		if n == cap(s.slab) {
			grown := make([]entry[V], n, min(s.limit, max(firstSlab, n+n/2)))
			copy(grown, s.slab)
			s.slab = grown
		}
		s.slab = s.slab[:n+1]
		return uint32(n) //nolint:gosec // a shard is far smaller than that
	}
	return s.evict()
}

// evict goes round the clock: an entry that was used since the last round stays for one more.
func (s *shard[V]) evict() uint32 {
	for {
		i := s.hand
		s.hand = (s.hand + 1) % len(s.slab)
		if e := &s.slab[i]; e.life&usedBit != 0 {
			e.life &^= usedBit
			continue
		}
		s.unlink(uint32(i)) //nolint:gosec // an index of the slab
		s.stats.Evicted++
		return uint32(i) //nolint:gosec // an index of the slab
	}
}
