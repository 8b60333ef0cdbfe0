package statesync

import (
	"bytes"
	"sync"

	"rootstream/event"
)

// memory keeps documents near. What is in it came from PostgreSQL or from the feed, and the feed keeps it current.
type memory struct {
	limit  int64           // bytes a shard
	types  map[string]Type // not changed once anything is in it
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
	doc     Doc           // Data is shared and never changed
	late    []event.Event // what has happened to it since, to be folded when somebody asks
	filled  bool
	hold    bool
	size    int64
	used    uint64
	loading int
	floor   int64 // while it is read: the newest version the feed has told of
}

const (
	entryOverhead = 300
	lateOverhead  = 250
	maxLate       = 8
)

func newMemory(limit int64, types map[string]Type) *memory {
	m := &memory{limit: limit / event.Shards, types: types}
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
	if !m.fold(e) {
		m.forget(ref, e)
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
	case ok && current && (!e.filled || d.Version > e.doc.Version && d.Version >= e.version()):
		e.doc, e.late, e.filled, e.hold = d, nil, true, hold
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

func (s *part) resize(e *entry, size int64) {
	s.bytes += size - e.size
	e.size = size
}

// dropReadOnly forgets entities that are changed by their own room only, also those that are being read.
func (m *memory) dropReadOnly() {
	for i := range m.shards {
		s := &m.shards[i]
		s.Lock()
		for ref, e := range s.entries {
			if m.types[ref.Type].ReadOnly {
				m.drop(ref, e)
			}
		}
		s.Unlock()
	}
}

func (m *memory) drop(ref event.Ref, e *entry) {
	s := &m.shards[ref.Shard()]
	s.bytes -= e.size
	delete(s.entries, ref)
}

// forget makes the entry one that is to be read again. The caller holds the lock.
func (m *memory) forget(ref event.Ref, e *entry) {
	if e.loading > 0 {
		e.filled, e.late = false, nil
	} else {
		m.drop(ref, e)
	}
}

// version is that of the document once what is late is folded.
func (e *entry) version() int64 { return e.doc.Version + int64(len(e.late)) }

// apply tells the documents of a shard what has happened to them. Whoever wrote it puts what it came to, and many are not
// asked for again before the next change: they are folded when they are.
func (m *memory) apply(shard int, events []event.Event) {
	s := &m.shards[shard]
	s.Lock()
	defer s.Unlock()
	for i := range events {
		ev := &events[i]
		ref := ev.Ref()
		e := s.entries[ref]
		if e == nil {
			if t := m.types[ev.AggregateType]; !t.Hold || ev.Version != 1 {
				continue
			}
			e = &entry{filled: true, hold: true, size: entryOverhead, doc: Doc{Ref: ref}}
			s.entries[ref] = e
			s.bytes += e.size
		}
		if e.loading > 0 {
			e.floor = max(e.floor, ev.Version)
		}
		if e.filled && ev.Version > e.version() && !m.add(s, e, ev) {
			m.forget(ref, e)
		}
	}
	m.evict(shard)
}

// add notes the next event of a document; false if that is to be read again. The caller holds the lock.
func (m *memory) add(s *part, e *entry, ev *event.Event) bool {
	if !follows(e.version(), ev) {
		return false
	}
	late := *ev
	late.Data = bytes.Clone(ev.Data) // it may be part of something large
	e.late = append(e.late, late)
	s.resize(e, e.size+int64(len(late.Data))+lateOverhead)
	return len(e.late) < maxLate || m.fold(e)
}

// fold brings a document up to date; false if it is to be read again. The caller holds the lock.
func (m *memory) fold(e *entry) bool {
	if len(e.late) == 0 {
		return true
	}
	for i := range e.late {
		next, ok := step(m.types[e.doc.Ref.Type], e.doc, e.late[i])
		if !ok {
			return false
		}
		e.doc = next
	}
	e.late = nil
	m.shards[e.doc.Ref.Shard()].resize(e, int64(approximate(e.doc.Data))+entryOverhead)
	return true
}

// follows reports whether an event alone tells what becomes of a document of that version.
func follows(version int64, e *event.Event) bool {
	return e.Version == version+1 && !e.Erases() && !e.Erased()
}

// step is the document after the next event; false if it is to be read again.
func step(t Type, d Doc, e event.Event) (Doc, bool) {
	if !follows(d.Version, &e) {
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
