package statesync

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/statesync/feed"
	"rootstream/statesync/merge"
)

const (
	volatileTick  = 20 * time.Millisecond // changes of one entity within it are told once
	assertEvery   = 2 * time.Second       // what did not change is said again
	assertionLife = 6 * time.Second       // after the last assertion, by our own clock
	maxVolatile   = 1 << 20               // entities an instance contributes to
	maxSaid       = 64 << 20              // bytes of all that it says
	maxCast       = 200 << 10
)

// volatile is state that instances contribute to. A contribution lives as long as it is asserted.
type volatile struct {
	m    *Manager
	mu   sync.Mutex
	own  map[event.Ref]*assertion
	size int         // bytes of what own says
	news []event.Ref // own that changed since the last tick
	seen map[event.Ref]*joined
}

// assertion is what this instance says.
type assertion struct {
	said
	dirty bool
	sent  time.Time
}

// said is one contribution.
type said struct {
	at   merge.HLC
	gone bool // it is taken back
	raw  json.RawMessage
}

// joined is all that is said of one entity.
type joined struct {
	by  map[uuid.UUID]heard
	doc map[string]any // of by; nil while it has to be joined again
	at  time.Time
}

type heard struct {
	said
	incarnation int64
	last        time.Time // when it was last asserted
}

func newVolatile(m *Manager) *volatile {
	return &volatile{m: m, own: map[event.Ref]*assertion{}, seen: map[event.Ref]*joined{}}
}

// SetVolatile sets what this instance contributes to an entity, until DropVolatile or the end of the process.
func (m *Manager) SetVolatile(ref event.Ref, value map[string]any) error {
	t, ok := m.types[ref.Type]
	if !ok {
		return ErrUnknownType
	}
	if t.Class != Volatile || ref.ID == uuid.Nil {
		return errs.NewInvalid("type", "must be volatile")
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return errs.NewInvalid("value", "must be JSON").WithCause(err)
	}
	if len(raw) > t.MaxBytes {
		return errs.NewInvalid("value", "is too long")
	}
	return m.vol.set(ref, said{raw: raw})
}

// DropVolatile takes back what this instance contributes.
func (m *Manager) DropVolatile(ref event.Ref) {
	_ = m.vol.set(ref, said{gone: true}) // needs no room
}

// set stamps what is said while nobody else says anything, so that what was said last has the last stamp.
func (v *volatile) set(ref event.Ref, s said) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	a := v.own[ref]
	switch {
	case a == nil && s.gone:
		return nil
	case a == nil && len(v.own) >= maxVolatile:
		return ErrOverloaded
	case a == nil:
		a = &assertion{}
	}
	size := v.size + len(s.raw) - len(a.raw)
	if size > max(maxSaid, v.size) {
		return ErrOverloaded
	}
	s.at = v.m.clock.Now()
	v.own[ref], v.size, a.said = a, size, s
	if !a.dirty {
		a.dirty = true
		v.news = append(v.news, ref)
	}
	v.take(ref, v.m.cfg.Node, heard{s, 0, time.Time{}})
	return nil
}

// take notes a contribution and reports whether it changes anything. The caller holds mu.
func (v *volatile) take(ref event.Ref, node uuid.UUID, h heard) bool {
	j := v.seen[ref]
	if j == nil {
		if h.gone {
			return false
		}
		j = &joined{by: map[uuid.UUID]heard{}}
		v.seen[ref] = j
	}
	have, there := j.by[node]
	switch {
	case there && h.incarnation < have.incarnation:
		return false
	case there && h.incarnation == have.incarnation && h.at < have.at:
		return false
	case there && h.incarnation == have.incarnation && h.at == have.at:
		have.last = h.last
		j.by[node] = have
		return false
	case h.gone && !there:
		return false
	}
	if h.gone {
		delete(j.by, node)
	} else {
		j.by[node] = h
	}
	j.doc, j.at = nil, h.at.Time()
	if len(j.by) == 0 {
		delete(v.seen, ref)
	}
	return true
}

// run tells the others what is contributed here, and forgets what is no longer asserted.
func (v *volatile) run(ctx context.Context) {
	tick := time.NewTicker(volatileTick)
	defer tick.Stop()
	var looked time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		v.tell(ctx)
		if now := time.Now(); now.Sub(looked) >= time.Second { // by the clock that nobody sets, however long it took to tell
			looked = now
			v.expire(now)
			v.again(now)
		}
	}
}

// again makes what was last said a while ago be said again.
func (v *volatile) again(now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for ref, a := range v.own {
		if !a.dirty && now.Sub(a.sent) >= assertEvery {
			a.dirty = true
			v.news = append(v.news, ref)
		}
	}
}

// tell broadcasts what is new and wakes those who watch it here.
func (v *volatile) tell(ctx context.Context) {
	now := time.Now()
	var casts [][]byte
	var b []byte
	v.mu.Lock()
	news := v.news
	v.news = nil
	for _, ref := range news {
		a := v.own[ref]
		if len(b)+len(a.raw)+100 > maxCast {
			casts, b = append(casts, b), nil
		}
		b = appendSaid(b, ref, a.said)
		a.dirty, a.sent = false, now
		if a.gone {
			delete(v.own, ref)
		}
	}
	v.mu.Unlock()
	if len(b) > 0 {
		casts = append(casts, b)
	}
	for _, ref := range news {
		v.m.hub.touch(ref)
	}
	select {
	case <-v.m.feed.Ready():
	default:
		return // they are said again soon
	}
	for _, c := range casts {
		if v.m.feed.Broadcast(ctx, c) != nil {
			return // they are said again soon
		}
	}
}

func appendSaid(b []byte, ref event.Ref, s said) []byte {
	b = append(b, byte(len(ref.Type))) //nolint:gosec // at most 50
	b = append(b, ref.Type...)
	b = append(b, ref.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(s.at))
	flag := byte(0)
	if s.gone {
		flag = 1
	}
	b = append(b, flag)
	b = binary.AppendUvarint(b, uint64(len(s.raw)))
	return append(b, s.raw...)
}

// parseSaid takes one contribution off b; false if there is none.
func parseSaid(b []byte) (ref event.Ref, s said, rest []byte, ok bool) {
	if len(b) == 0 || len(b) < 1+int(b[0])+16+8+1 {
		return ref, s, nil, false
	}
	n := int(b[0])
	ref.Type, b = string(b[1:1+n]), b[1+n:]
	copy(ref.ID[:], b)
	s.at = merge.HLC(binary.BigEndian.Uint64(b[16:]))
	s.gone, b = b[24] == 1, b[25:]
	size, used := binary.Uvarint(b)
	if used <= 0 || size > maxDocBytes || int(size) > len(b)-used {
		return ref, s, nil, false
	}
	b = b[used:]
	s.raw = b[:size]
	return ref, s, b[size:], s.gone || json.Valid(s.raw)
}

// hear takes what another instance contributes.
func (v *volatile) hear(from feed.Sender, b []byte) {
	if from.Node == v.m.cfg.Node {
		return
	}
	now := time.Now()
	var changed []event.Ref
	v.mu.Lock()
	for len(b) > 0 {
		ref, s, rest, ok := parseSaid(b)
		if !ok {
			break
		}
		b = rest
		if t := v.m.types[ref.Type]; t.Name == "" || t.Class != Volatile || v.m.clock.See(s.at) != nil {
			continue
		}
		s.raw = slices.Clone(s.raw) // not to keep the whole frame
		if v.take(ref, from.Node, heard{s, from.Incarnation, now}) {
			changed = append(changed, ref)
		}
	}
	v.mu.Unlock()
	for _, ref := range changed {
		v.m.hub.touch(ref)
	}
}

// expire forgets contributions that were not asserted for too long.
func (v *volatile) expire(now time.Time) {
	var changed []event.Ref
	v.mu.Lock()
	for ref, j := range v.seen {
		for node, h := range j.by {
			if node != v.m.cfg.Node && now.Sub(h.last) > assertionLife {
				delete(j.by, node)
				j.doc, j.at = nil, v.m.cfg.Now().UTC()
				changed = append(changed, ref)
			}
		}
		if len(j.by) == 0 {
			delete(v.seen, ref)
		}
	}
	v.mu.Unlock()
	for _, ref := range changed {
		v.m.hub.touch(ref)
	}
}

func (v *volatile) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.seen)
}

// get joins what is contributed; ErrNotFound if nobody contributes anything.
func (v *volatile) get(ref event.Ref) (Doc, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	j := v.seen[ref]
	if j == nil {
		return Doc{}, ErrNotFound
	}
	if j.doc == nil {
		all := make([]merge.Contribution, 0, len(j.by))
		for node, h := range j.by {
			if doc, err := decodeObject(h.raw); err == nil {
				all = append(all, merge.Contribution{Stamp: merge.Stamp{At: h.at, Node: node}, Doc: doc})
			}
		}
		j.doc = v.m.types[ref.Type].Join.Merge(all)
	}
	return Doc{Ref: ref, At: j.at, Data: cloneMap(j.doc)}, nil
}

// fill puts the state of now into a change; an entity that is gone has an empty one.
func (v *volatile) fill(c *Change) bool {
	d, err := v.get(c.Ref)
	if err != nil {
		d = Doc{At: v.m.cfg.Now().UTC(), Data: map[string]any{}}
	}
	data, err := json.Marshal(d.Data)
	c.Name, c.Data, c.At = c.Ref.Type+".set", data, d.At
	return err == nil
}
