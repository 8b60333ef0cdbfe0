package statesync

import (
	"encoding/json"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/statesync/feed"
)

// hub knows who watches what.
type hub struct {
	mu     sync.RWMutex // held for reading while a batch is handed out
	byRef  map[event.Ref]map[*sub]struct{}
	byID   map[uuid.UUID]map[*sub]struct{}
	byType map[string]map[*sub]struct{}
	all    map[*sub]struct{}
	subs   map[*sub]struct{}
	epoch  int64
	at     [event.Shards]atomic.Int64 // the last number handed out
	resets chan struct{}
}

func (h *hub) init() {
	h.byRef, h.byID = map[event.Ref]map[*sub]struct{}{}, map[uuid.UUID]map[*sub]struct{}{}
	h.byType = map[string]map[*sub]struct{}{}
	h.all, h.subs = map[*sub]struct{}{}, map[*sub]struct{}{}
	h.resets = make(chan struct{}, 1)
}

func (h *hub) publish(shard int, events []event.Event) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if len(h.subs) > 0 {
		for i := range events {
			e := &events[i]
			ref := e.Ref()
			h.each(ref, func(s *sub) { s.push(e) })
		}
	}
	h.at[shard].Store(events[len(events)-1].Seq)
}

// each visits who watches ref; one who does in several ways is visited as often. The caller holds mu.
func (h *hub) each(ref event.Ref, visit func(*sub)) {
	for s := range h.byRef[ref] {
		visit(s)
	}
	for s := range h.byType[ref.Type] {
		visit(s)
	}
	for s := range h.byID[ref.ID] {
		visit(s)
	}
	for s := range h.all {
		visit(s)
	}
}

// erase wipes what waits for anybody and was erased with e.
func (h *hub) erase(e *event.Event) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if !e.Erases() || e.AggregateType != "user" { // it concerns one entity
		h.each(e.Ref(), func(s *sub) { s.erase(e) })
		return
	}
	for s := range h.subs {
		s.erase(e)
	}
}

func (h *hub) touch(ref event.Ref) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if len(h.subs) > 0 {
		h.each(ref, func(s *sub) { s.pushVolatile(ref) })
	}
}

func (h *hub) reset(r feed.Reset) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.epoch = r.Epoch
	for i, head := range r.Heads {
		h.at[i].Store(head)
	}
	for s := range h.subs {
		s.reset(r)
	}
	select {
	case h.resets <- struct{}{}:
	default:
	}
}

func (h *hub) count() int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return len(h.subs)
}

// add begins to tell s, and notes where it begins.
func (h *hub) add(s *sub) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.epoch = h.epoch
	for i := range h.at {
		s.start[i] = h.at[i].Load()
	}
	s.vector = s.start
	if s.o.From.epoch == h.epoch { // this instance may be behind the one that gave the token
		s.skip = s.o.From.seq
		s.advance(s.skip)
	}
	h.subs[s] = struct{}{}
	for _, p := range s.patterns {
		switch {
		case p.kind == "" && p.id == uuid.Nil:
			h.all[s] = struct{}{}
		case p.kind == "":
			into(h.byID, p.id, s)
		case p.id == uuid.Nil:
			into(h.byType, p.kind, s)
		default:
			into(h.byRef, event.Ref{Type: p.kind, ID: p.id}, s)
		}
	}
}

func into[K comparable](m map[K]map[*sub]struct{}, k K, s *sub) {
	if m[k] == nil {
		m[k] = map[*sub]struct{}{}
	}
	m[k][s] = struct{}{}
}

func out[K comparable](m map[K]map[*sub]struct{}, k K, s *sub) {
	delete(m[k], s)
	if len(m[k]) == 0 {
		delete(m, k)
	}
}

func (h *hub) remove(s *sub) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.subs, s)
	delete(h.all, s)
	for _, p := range s.patterns {
		out(h.byID, p.id, s)
		out(h.byType, p.kind, s)
		out(h.byRef, event.Ref{Type: p.kind, ID: p.id}, s)
	}
}

// sub is one subscriber and what waits for it.
type sub struct {
	patterns []pattern
	o        SubOptions
	start    [event.Shards]int64 // where it was when it began to be told
	skip     [event.Shards]int64 // what its token says it has, though this instance had not
	wake     chan struct{}

	mu       sync.Mutex
	queue    []Change // oldest first, from head on
	head     int
	most     int                 // that wait before Overflow applies
	last     [event.Shards]int64 // the last number queued
	volatile []event.Ref
	touched  map[event.Ref]struct{} // in volatile
	lost     int
	cut      bool
	epoch    int64
	vector   [event.Shards]int64 // what it has been told
}

func newSub(patterns []string, o SubOptions) (*sub, error) {
	if len(patterns) == 0 || len(patterns) > 100 {
		return nil, errs.NewInvalid("topics", "must be 1 to 100")
	}
	if o.Buffer < 0 || o.Buffer > maxBuffer || o.Overflow > Block {
		return nil, errs.NewInvalid("buffer", "must be at most 65536")
	}
	if o.Buffer == 0 {
		o.Buffer = 1024
	}
	s := &sub{o: o, most: o.Buffer, wake: make(chan struct{}, 1), touched: map[event.Ref]struct{}{}}
	for _, text := range patterns {
		p, err := parsePattern(text)
		if err != nil {
			return nil, err
		}
		s.patterns = append(s.patterns, p)
	}
	return s, nil
}

func (s *sub) matches(ref event.Ref) bool {
	for _, p := range s.patterns {
		if p.matches(ref) {
			return true
		}
	}
	return false
}

// wants reports whether entities of a shard can match.
func (s *sub) wants(shard int) bool {
	for _, p := range s.patterns {
		if p.id == uuid.Nil || (event.Ref{ID: p.id}).Shard() == shard {
			return true
		}
	}
	return false
}

func (s *sub) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// push queues an event unless it is there already.
func (s *sub) push(e *event.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cut || e.Seq <= s.last[e.Shard] || e.Seq <= s.skip[e.Shard] {
		return
	}
	s.last[e.Shard] = e.Seq
	s.makeRoom()
	s.queue = append(s.queue, changeOf(e))
	if len(s.queue)-s.head > s.most {
		s.overflow()
	}
	s.wakeUp()
}

// erase wipes what waits and was erased with e.
func (s *sub) erase(e *event.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := s.head; i < len(s.queue); i++ {
		if c := &s.queue[i]; c.erasedWith(e) {
			c.Data = json.RawMessage(event.Nothing)
		}
	}
}

// makeRoom uses that of what was told again: for who is never told all, the queue would only grow. The caller holds mu.
func (s *sub) makeRoom() {
	if s.head <= len(s.queue)/2 {
		return
	}
	n := copy(s.queue, s.queue[s.head:])
	clear(s.queue[n:])
	s.queue, s.head = s.queue[:n], 0
}

// overflow makes room, or cuts the subscriber off. The caller holds mu.
func (s *sub) overflow() {
	waiting := s.queue[s.head:]
	switch s.o.Overflow {
	case Gap:
		s.lost++
		s.queue[s.head] = Change{}
		s.head++
	case Block:
		s.cut = len(waiting) > 16*s.o.Buffer
	case Conflate:
		at := make(map[event.Ref]int, len(waiting))
		kept := waiting[:0]
		for _, c := range waiting {
			if i, ok := at[c.Ref]; ok && !c.Reset {
				c.FirstVersion, c.seq = kept[i].FirstVersion, kept[i].seq
				kept[i] = c
				continue
			}
			at[c.Ref] = len(kept)
			kept = append(kept, c)
		}
		clear(waiting[len(kept):])
		s.queue = s.queue[:s.head+len(kept)]
		s.cut = len(kept) > s.o.Buffer
		s.most = max(s.o.Buffer, len(kept)+s.o.Buffer/4) // or with as many entities as it keeps, every change would do all this
	}
	if s.cut {
		s.queue, s.head = nil, 0
	}
}

func (s *sub) pushVolatile(ref event.Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, waits := s.touched[ref]; waits || s.cut {
		return
	}
	if len(s.volatile) >= 16*s.o.Buffer {
		s.cut = true
	}
	s.touched[ref] = struct{}{}
	s.volatile = append(s.volatile, ref)
	s.wakeUp()
}

// reset forgets what waits: it is of another history.
func (s *sub) reset(r feed.Reset) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch, s.last, s.vector, s.start, s.skip = r.Epoch, r.Heads, r.Heads, r.Heads, [event.Shards]int64{}
	s.queue, s.head, s.lost = []Change{{Reset: true, Reason: r.Reason}}, 0, 0
	s.wakeUp()
}

// next takes what waits for longest, with the token to resume after it.
func (s *sub) next(h *hub) (Change, bool, error) {
	var at [event.Shards]int64
	for i := range at { // before the queue is looked at: what is below is queued or told
		at[i] = h.at[i].Load()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cut {
		return Change{}, false, ErrSlow
	}
	if s.head == len(s.queue) {
		s.queue, s.head = s.queue[:0], 0
		return s.nextVolatile(at)
	}
	c := s.queue[s.head]
	s.queue[s.head] = Change{}
	s.head++
	switch {
	case c.Reset:
	case s.head == len(s.queue):
		s.advance(at)
	default:
		s.vector[c.shard] = max(s.vector[c.shard], c.seq) // of those conflated the first: others before the last may wait
	}
	if s.head == len(s.queue) && !c.Reset {
		s.vector[c.shard] = max(s.vector[c.shard], s.last[c.shard])
	}
	c.Lost, s.lost = s.lost, 0
	c.Token = s.tokenLocked()
	return c, true, nil
}

func (s *sub) nextVolatile(at [event.Shards]int64) (Change, bool, error) {
	if len(s.volatile) == 0 {
		return Change{}, false, nil
	}
	ref := s.volatile[0]
	s.volatile = s.volatile[1:]
	delete(s.touched, ref)
	s.advance(at)
	return Change{Ref: ref, Volatile: true, Token: s.tokenLocked()}, true, nil
}

// advance notes that everything up to at has been told. The caller holds mu.
func (s *sub) advance(at [event.Shards]int64) {
	for i := range at {
		s.vector[i] = max(s.vector[i], at[i])
	}
}

func (s *sub) token() Token {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tokenLocked()
}

func (s *sub) tokenLocked() Token { return tokenOf(s.epoch, s.vector) }
