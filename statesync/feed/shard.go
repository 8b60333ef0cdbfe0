package feed

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"rootstream/event"
)

// shard is one sequence: what has been handed on of it, and what waits for something before it.
type shard struct {
	applied atomic.Int64 // written under mu
	at      atomic.Int64 // time of the event at applied in Unix µs; 0 means not known
	mu      sync.Mutex
	parked  map[int64][]event.Event // by first number
	waiting int                     // events in parked
	recent  []event.Event           // the last ones handed on, as a ring by Seq
	data    int                     // bytes of data in recent
	bare    int64                   // of those up to there it is not kept
	waiters []waiter
	digest  digest
	blocks  [8]Block // the last whole ones, by Number
}

type waiter struct {
	seq  int64
	done chan struct{}
}

// deliver hands on what follows, and parks what does not follow yet. It returns how many events were handed on and
// whether some are missing. Events are ascending and contiguous.
func (s *shard) deliver(events []event.Event, hand func([]event.Event)) (n int, hole bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.applied.Load()
	s.next(events, hand)
	for len(s.parked) > 0 {
		first := slices.Min(slices.Collect(maps.Keys(s.parked)))
		if first > s.applied.Load()+1 {
			break
		}
		next := s.parked[first]
		delete(s.parked, first)
		s.waiting -= len(next)
		s.next(next, hand)
	}
	return int(s.applied.Load() - before), len(s.parked) > 0
}

func (s *shard) next(events []event.Event, hand func([]event.Event)) {
	applied := s.applied.Load()
	for len(events) > 0 && events[0].Seq <= applied {
		events = events[1:]
	}
	if len(events) == 0 {
		return
	}
	if events[0].Seq > applied+1 {
		s.park(events)
		return
	}
	hand(events)
	if s.recent == nil {
		s.recent = make([]event.Event, recentEvents)
	}
	for i := range events {
		s.digest.add(&events[i], &s.blocks)
		s.remember(&events[i])
	}
	last := &events[len(events)-1]
	s.at.Store(last.At.UnixMicro())
	s.applied.Store(last.Seq)
	s.waiters = slices.DeleteFunc(s.waiters, func(w waiter) bool {
		if w.seq <= last.Seq {
			close(w.done)
		}
		return w.seq <= last.Seq
	})
}

// remember keeps an event for when it turns out to be lost. Of many large ones only the newest keep their data.
func (s *shard) remember(e *event.Event) {
	at := &s.recent[e.Seq%recentEvents]
	s.data += len(e.Data) - len(at.Data)
	*at = *e
	at.Data = bytes.Clone(e.Data) // it may be part of something large
	for s.bare = max(s.bare, e.Seq-recentEvents); s.data > recentBytes; {
		s.bare++
		oldest := &s.recent[s.bare%recentEvents]
		s.data, oldest.Data = s.data-len(oldest.Data), nil
	}
}

// park keeps events for later. If there are too many, all are dropped: they will be read from PostgreSQL.
func (s *shard) park(events []event.Event) {
	if have, ok := s.parked[events[0].Seq]; ok && len(have) >= len(events) {
		return
	}
	if s.waiting+len(events) > maxParked {
		s.parked, s.waiting = nil, 0
		return
	}
	if s.parked == nil {
		s.parked = map[int64][]event.Event{}
	}
	s.waiting += len(events) - len(s.parked[events[0].Seq])
	s.parked[events[0].Seq] = events
}

// reset goes on after seq. The caller holds mu.
func (s *shard) reset(seq int64) {
	s.applied.Store(seq)
	s.at.Store(0)
	s.parked, s.waiting = nil, 0
	s.recent, s.data, s.bare = nil, 0, 0
	s.digest = digest{}
	s.blocks = [8]Block{}
	for _, w := range s.waiters {
		close(w.done)
	}
	s.waiters = nil
}

// patience is how long what is missing may still be on its way: less if something waits for it.
func (s *shard) patience() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.parked) > 0 {
		return grace
	}
	return transit
}

// newest is the last whole block, if there is one.
func (s *shard) newest() Block {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.applied.Load() / blockSize
	return s.blocks[n%int64(len(s.blocks))]
}

// differs reports whether b is of a block we have another digest of.
func (s *shard) differs(b Block) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ours := s.blocks[max(b.Number, 0)%int64(len(s.blocks))]
	return b.Number > 0 && ours.Number == b.Number && ours.Sum != b.Sum
}

const blockSize = 1024

// Block is the digest of a whole block of a shard: instances that have seen the same events have the same.
type Block struct {
	Number int64  `json:"number"` // it ends with sequence number Number*1024
	Sum    uint64 `json:"sum,string"`
}

// digest sums up numbers, entities, versions, names and times of events (FNV-1a). Data is left out: its text
// differs between the writer and PostgreSQL.
type digest struct {
	sum   uint64
	whole bool // it has seen the block from its start
}

const fnvOffset, fnvPrime = 14695981039346656037, 1099511628211

func (d *digest) add(e *event.Event, done *[8]Block) {
	if e.Seq%blockSize == 1 {
		*d = digest{fnvOffset, true}
	}
	if !d.whole {
		return
	}
	var b [40]byte
	binary.LittleEndian.PutUint64(b[:], uint64(e.Seq))      //nolint:gosec // bits
	binary.LittleEndian.PutUint64(b[8:], uint64(e.Version)) //nolint:gosec // bits
	binary.LittleEndian.PutUint64(b[16:], uint64(e.At.UnixMicro()))
	copy(b[24:], e.AggregateID[:])
	sum := d.sum
	for _, c := range b {
		sum = (sum ^ uint64(c)) * fnvPrime
	}
	for i := range len(e.Name) {
		sum = (sum ^ uint64(e.Name[i])) * fnvPrime
	}
	d.sum = sum
	if e.Seq%blockSize == 0 {
		n := e.Seq / blockSize
		done[n%int64(len(done))] = Block{n, sum}
	}
}
