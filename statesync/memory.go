package statesync

import (
	"sync"

	"rootstream/event"
)

// memory keeps documents near. What is in it came from PostgreSQL or from the feed, and the feed keeps it current.
type memory struct {
	limit  int64 // bytes a shard
	shards [event.Shards]part
}

type part struct {
	sync.Mutex
	entries map[event.Ref]*entry
	bytes   int64
	clock   uint64
}

// entry is a document, or the place kept for one that is being read.
type entry struct {
	doc     Doc // Data is shared and never changed
	filled  bool
	hold    bool
	size    int64
	used    uint64
	loading int
	floor   int64 // while it is read: the newest version the feed has told of
}

const entryOverhead = 300

func newMemory(limit int64) *memory {
	m := &memory{limit: limit / event.Shards}
	m.clear()
	return m
}

// clear forgets everything; what is being read now is not kept.
func (m *memory) clear() {
	for i := range m.shards {
		s := &m.shards[i]
		s.Lock()
		s.entries, s.bytes = map[event.Ref]*entry{}, 0
		s.Unlock()
	}
}

// get returns a document that must not be changed.
func (m *memory) get(ref event.Ref) (Doc, bool) {
	s := &m.shards[ref.Shard()]
	s.Lock()
	defer s.Unlock()
	e := s.entries[ref]
	if e == nil || !e.filled {
		return Doc{}, false
	}
	s.clock++
	e.used = s.clock
	return e.doc, true
}

// begin keeps a place for a document that is about to be read.
func (m *memory) begin(ref event.Ref) *entry {
	s := &m.shards[ref.Shard()]
	s.Lock()
	defer s.Unlock()
	e := s.entries[ref]
	if e == nil {
		e = &entry{size: entryOverhead}
		s.entries[ref] = e
		s.bytes += e.size
	}
	e.loading++
	return e
}

// finish puts what was read into its place, unless the feed knows of something newer; then it returns false. ok says
// whether anything was read.
func (m *memory) finish(e *entry, d Doc, size int, hold, ok bool) bool {
	s := &m.shards[d.Ref.Shard()]
	s.Lock()
	defer s.Unlock()
	e.loading--
	current := d.Version >= e.floor
	switch {
	case s.entries[d.Ref] != e:
		return true // all was forgotten meanwhile: it is as good as it was
	case ok && current && (!e.filled || d.Version > e.doc.Version):
		e.doc, e.filled, e.hold = d, true, hold
		s.resize(e, int64(size)+entryOverhead)
		s.clock++
		e.used = s.clock
	}
	if e.loading == 0 {
		e.floor = 0
		if !e.filled {
			m.drop(d.Ref, e)
		}
	}
	m.evict(d.Ref.Shard())
	return current
}

// put replaces an older document.
func (m *memory) put(d Doc, size int, hold bool) {
	m.finish(m.begin(d.Ref), d, size, hold, true)
}

func (s *part) resize(e *entry, size int64) {
	s.bytes += size - e.size
	e.size = size
}

func (m *memory) drop(ref event.Ref, e *entry) {
	s := &m.shards[ref.Shard()]
	s.bytes -= e.size
	delete(s.entries, ref)
}

// apply brings the documents of a shard up to date.
func (m *memory) apply(shard int, events []event.Event, types map[string]Type) {
	s := &m.shards[shard]
	s.Lock()
	defer s.Unlock()
	for i := range events {
		ev := &events[i]
		ref := ev.Ref()
		e := s.entries[ref]
		if e == nil {
			if t := types[ev.AggregateType]; !t.Hold || ev.Version != 1 {
				continue
			}
			e = &entry{filled: true, hold: true, size: entryOverhead, doc: Doc{Ref: ref}}
			s.entries[ref] = e
			s.bytes += e.size
		}
		if e.loading > 0 {
			e.floor = max(e.floor, ev.Version)
		}
		if !e.filled || ev.Version <= e.doc.Version {
			continue
		}
		next, ok := step(types[ev.AggregateType], e.doc, *ev)
		if ok {
			e.doc = next
			if ev.Version%16 == 0 { // a document rarely grows much in between
				s.resize(e, int64(approximate(next.Data))+entryOverhead)
			}
			continue
		}
		if e.loading > 0 {
			e.filled = false
		} else {
			m.drop(ref, e)
		}
	}
	m.evict(shard)
}

// step is the document after the next event; false if it is to be read again.
func step(t Type, d Doc, e event.Event) (Doc, bool) {
	if e.Version != d.Version+1 || e.Name == t.Name+".erased" || e.Erased() {
		return Doc{}, false
	}
	state := d.state()
	if t.Fold != nil { // it may change what it gets
		state = cloneMap(state)
	}
	state, err := t.fold(state, e)
	if err != nil {
		return Doc{}, false
	}
	return docOf(d.Ref, e.Version, e.At, state), true
}

// evict drops what was not used for longest among a few, until the shard fits. The caller holds the lock.
func (m *memory) evict(shard int) {
	s := &m.shards[shard]
	for tries := 0; s.bytes > m.limit && tries < 64; tries++ {
		var victim *entry
		var at event.Ref
		seen := 0
		for ref, e := range s.entries {
			if seen++; seen > 8 {
				break
			}
			if !e.hold && e.loading == 0 && (victim == nil || e.used < victim.used) {
				victim, at = e, ref
			}
		}
		if victim != nil {
			m.drop(at, victim)
		}
	}
}

// size is how many documents there are, and about how many bytes.
func (m *memory) size() (n int, bytes int64) {
	for i := range m.shards {
		s := &m.shards[i]
		s.Lock()
		n += len(s.entries)
		bytes += s.bytes
		s.Unlock()
	}
	return n, bytes
}
