package event

import (
	"sync"
	"time"

	"github.com/google/uuid"
)

// mostKnown is of how many entities of a shard the versions are known for certain: those written last, and up to as many before.
const mostKnown = 2048

// known is what a log knows of the shards without looking: how its last commit left each of them, and the versions that
// entities had then. A statement that holds the shards' locks believes it if it finds every shard just so: nobody else has
// appended since, nothing was rewritten, and it is no older state of the database that was brought back.
type known struct {
	mu     sync.Mutex
	shards [Shards]tail
}

// mark tells the state of a shard from all others it was or will be in. Numbers that a restored database gives out again
// do not make one: their events are of another time. What happens to events before the newest shows in the token.
type mark struct {
	seq    int64 // of the newest event
	at     int64 // when that was, in µs
	entity uuid.UUID
	token  uuid.UUID // of event_rewrites
}

// tail is what is known of a shard when its state has a mark.
type tail struct {
	mark          mark
	newer, before map[Ref]int64 // versions; before holds those that newer has no room for
}

func (t *tail) version(r Ref) (int64, bool) {
	v, ok := t.newer[r]
	if !ok {
		v, ok = t.before[r]
	}
	return v, ok
}

func (t *tail) put(r Ref, version int64) {
	if len(t.newer) == mostKnown {
		t.before, t.newer = t.newer, nil
	}
	if t.newer == nil {
		t.newer = make(map[Ref]int64)
	}
	t.newer[r] = version
}

// claim is what a statement is told that it may believe, and what it answered.
type claim struct {
	shards   places[int16]
	marks    []mark  // of each shard
	versions []int64 // of each row's entity; nil: not all are known, or one is not what a row expects

	confirmed []bool // the shard had its mark
	token     uuid.UUID
	believed  bool // all had, so the versions were taken
}

// claim returns what is known of the shards and entities of rows, which are the how many-th of theirs. nil knows nothing.
func (k *known) claim(rows []*row, nth []int32, shards places[int16]) *claim {
	c := &claim{shards: shards, marks: make([]mark, len(shards.keys))}
	if k == nil {
		return c
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, shard := range shards.keys {
		c.marks[i] = k.shards[shard].mark
	}
	versions := make([]int64, len(rows))
	for i, r := range rows {
		now, ok := k.shards[r.Aggregate.Shard()].version(r.Aggregate)
		if !ok || r.Expect != Any && r.Expect != now+int64(nth[i])-1 {
			return c
		}
		versions[i] = now
	}
	c.versions = versions
	return c
}

// learn takes in that a statement inserted rows. What was known before stays true of a shard that had its mark.
func (k *known) learn(rows []*row, c *claim) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, shard := range c.shards.keys {
		if t := &k.shards[shard]; !c.confirmed[i] || t.mark != c.marks[i] {
			*t = tail{}
		}
	}
	for _, r := range rows {
		t := &k.shards[r.Aggregate.Shard()]
		t.mark = mark{r.seq, r.at.UnixMicro(), r.Aggregate.ID, c.token}
		t.put(r.Aggregate, r.version)
	}
}

// forget knows no more of rows' shards.
func (k *known) forget(rows []*row) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range rows {
		k.shards[r.Aggregate.Shard()] = tail{}
	}
}

func (m mark) when() time.Time { return time.UnixMicro(m.at) }
