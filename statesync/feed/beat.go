package feed

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"rootstream/cache"
	"rootstream/event"
)

const (
	maxAhead    = 500 * time.Millisecond // of another instance's clock
	maxAge      = 10 * time.Second       // of what another instance says; older is a repetition
	maxBeatSize = 8 << 10
)

// beat is a sign of life.
type beat struct {
	Number  int64               `json:"number"`
	At      int64               `json:"at"` // Unix ms
	Address string              `json:"address"`
	Epoch   int64               `json:"epoch"`
	Applied [event.Shards]int64 `json:"applied"`
	Blocks  [event.Shards]Block `json:"blocks"`
}

// Peer is another instance, as it last said itself.
type Peer struct {
	Node        uuid.UUID           `json:"node"`
	Incarnation int64               `json:"incarnation"`
	Address     string              `json:"address"`
	Epoch       int64               `json:"epoch"`
	Applied     [event.Shards]int64 `json:"applied"`
	SeenAt      time.Time           `json:"seen_at"`
	ClockOffset time.Duration       `json:"clock_offset"` // how far its clock is ahead, less the way here
	Diverged    []int               `json:"diverged"`     // shards in which it has seen other events than we have
	seen        time.Time           // SeenAt by a clock that nobody sets
	beats       int64               // number of its last beat
	casts       int64               // number of its last broadcast
}

// beatLoop says that we live, and what we have.
func (f *Feed) beatLoop(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	looked := time.Now()
	for number := int64(1); ; number++ {
		f.beat(ctx, number)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if age(&f.echoAt) > echoLate && time.Since(looked) > echoLate {
			looked = time.Now()
			f.startOver()
		}
	}
}

func (f *Feed) beat(ctx context.Context, number int64) {
	b := beat{
		Number: number, At: f.cfg.Now().UnixMilli(), Address: f.cfg.Address, Epoch: f.epoch.Load(), Applied: f.Applied(),
	}
	for i := range f.shards {
		b.Blocks[i] = f.shards[i].newest()
	}
	payload, err := json.Marshal(b)
	if err == nil {
		err = f.say(ctx, append(newFrame(isBeat, f.self()), payload...))
	}
	if err == nil {
		_, err = f.cfg.Cache.Expire(ctx, cache.Sync, cache.SyncTTL)
	}
	if err != nil {
		f.counters.failed.Add(1)
	}
}

// say tells one thing.
func (f *Feed) say(ctx context.Context, frame []byte) error {
	sealed, err := f.seal(frame)
	if err != nil {
		return err
	}
	return f.tell(ctx, sealed)
}

func (f *Feed) hearBeat(from Sender, b beat) {
	now := f.cfg.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	p, offset := f.peer(from), time.UnixMilli(b.At).Sub(now)
	if b.Number <= p.beats || offset < -maxAge {
		f.counters.stale.Add(1)
		return
	}
	if offset > maxAhead {
		f.counters.drift.Add(1)
	}
	p.beats, p.seen, p.SeenAt, p.ClockOffset = b.Number, time.Now(), now.UTC(), offset
	p.Address, p.Epoch, p.Applied = b.Address, b.Epoch, b.Applied
	if from == f.self() {
		f.echoAt.Store(new(time.Now()))
		return
	}
	p.Diverged = nil
	for i := range b.Blocks {
		if b.Epoch == f.epoch.Load() && f.shards[i].differs(b.Blocks[i]) {
			p.Diverged = append(p.Diverged, i)
			f.counters.diverged.Add(1)
		}
	}
}

// peer finds or makes the record of an instance and forgets those long gone. The caller holds mu.
func (f *Feed) peer(from Sender) *Peer {
	for s, p := range f.peers {
		if time.Since(p.seen) > peerGone {
			delete(f.peers, s)
		}
	}
	p := f.peers[from]
	if p == nil {
		p = &Peer{Node: from.Node, Incarnation: from.Incarnation, SeenAt: f.cfg.Now().UTC(), seen: time.Now()}
		f.peers[from] = p
	}
	return p
}

// fresh reports whether a broadcast is the sender's next and not too old or from the future.
func (f *Feed) fresh(from Sender, number int64, sent time.Time) bool {
	now := f.cfg.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	p, offset := f.peer(from), sent.Sub(now)
	if offset > maxAhead {
		f.counters.drift.Add(1)
		return false
	}
	if number <= p.casts || offset < -maxAge {
		return false
	}
	p.casts = number
	return true
}

func (f *Feed) self() Sender { return Sender{f.cfg.Node, f.incarnation.Load()} }

// Self is this life of this instance; it is known once Ready is closed.
func (f *Feed) Self() Sender { return f.self() }

// Broadcast tells all instances that listen now. What is lost on the way stays lost.
func (f *Feed) Broadcast(ctx context.Context, payload []byte) error {
	if f.cfg.Cache == nil {
		return cache.ErrUnavailable
	}
	b := newFrame(isCast, f.self())
	b = binary.AppendUvarint(b, uint64(f.casts.Add(1))) //nolint:gosec // positive
	b = binary.AppendVarint(b, f.cfg.Now().UnixMilli())
	return f.say(ctx, append(b, payload...))
}

// Alone reports whether nothing can be relied on to come through Redis.
func (f *Feed) Alone() bool { return f.cfg.Cache == nil || age(&f.echoAt) > echoLost }

// age is how long ago a moment was, at most an hour. It is told by the clock that nobody sets: a wrong one must not make
// what is old look new.
func age(moment *atomic.Pointer[time.Time]) time.Duration {
	at := moment.Load()
	if at == nil {
		return time.Hour
	}
	return min(time.Since(*at), time.Hour)
}

// Suspect reports whether what was handed on may be old: neither Redis nor PostgreSQL has confirmed it of late.
func (f *Feed) Suspect() bool { return f.Alone() && age(&f.swept) > time.Second }

// WaitAll waits until every instance that lives has handed on what v says; zeros ask for nothing.
func (f *Feed) WaitAll(ctx context.Context, v [event.Shards]int64) error {
	for i, seq := range v {
		if err := f.Wait(ctx, i, seq); err != nil {
			return err
		}
	}
	tick := time.NewTicker(beatEvery / 10)
	defer tick.Stop()
	for {
		if f.allHave(v) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

func (f *Feed) allHave(v [event.Shards]int64) bool {
	self := f.self()
	f.mu.Lock()
	defer f.mu.Unlock()
	for s, p := range f.peers {
		if s == self || time.Since(p.seen) > echoLost {
			continue
		}
		if p.Epoch != f.epoch.Load() { // its numbers are of another history
			return false
		}
		for i, seq := range v {
			if p.Applied[i] < seq {
				return false
			}
		}
	}
	return true
}

// Status is what an operator wants to know of a feed.
type Status struct {
	Node        uuid.UUID           `json:"node"`
	Incarnation int64               `json:"incarnation"`
	Epoch       int64               `json:"epoch"`
	Applied     [event.Shards]int64 `json:"applied"`
	Heads       [event.Shards]int64 `json:"heads"`    // as PostgreSQL last said
	Behind      int64               `json:"behind"`   // events
	Redis       string              `json:"redis"`    // ok, suspect, off
	Postgres    bool                `json:"postgres"` // it answered within the last second
	EchoAge     time.Duration       `json:"echo_age"` // since our own sign of life came back; an hour at most
	Peers       []Peer              `json:"peers"`
	Counts      map[string]int64    `json:"counts"`
}

// Status tells how the feed is doing.
func (f *Feed) Status() Status {
	s := Status{
		Node: f.cfg.Node, Incarnation: f.incarnation.Load(), Epoch: f.epoch.Load(), Applied: f.Applied(), Redis: "ok",
		Postgres: age(&f.swept) < time.Second, EchoAge: age(&f.echoAt), Counts: f.counters.all(),
	}
	for i := range s.Heads {
		s.Heads[i] = f.heads[i].Load()
		s.Behind += max(0, s.Heads[i]-s.Applied[i])
	}
	switch {
	case f.cfg.Cache == nil:
		s.Redis = "off"
	case f.Alone():
		s.Redis = "suspect"
	}
	self := f.self()
	f.mu.Lock()
	defer f.mu.Unlock()
	for from, p := range f.peers {
		if from != self && time.Since(p.seen) <= peerGone {
			s.Peers = append(s.Peers, *p)
		}
	}
	slices.SortFunc(s.Peers, func(a, b Peer) int {
		return cmp.Or(bytes.Compare(a.Node[:], b.Node[:]), cmp.Compare(a.Incarnation, b.Incarnation))
	})
	return s
}
