package near

import (
	"encoding/binary"
	"math/bits"
	"sync"
	"sync/atomic"
)

// table is where entries lie: groups of eight, each with a word of eight tags.
//
//	tags    …│u tag│u tag│  0  │u tag│u tag│  0  │u tag│u tag│…   8 bytes a group: a million entries have 1 MB,
//	            │     │           │                               which the processor's caches hold
//	entries …│entry│entry│     │entry│entry│     │entry│entry│…   read once a tag fits: the one wait for memory
//
// A tag is 7 bits of the key, never 0, which is a free slot; u says that the
// entry was used since the search for one to evict last came by. A key may lie
// in two groups, named by two of its parts, so nothing is ever moved aside or
// left behind for it, and groups fill evenly.
//
// A shard has a power of two of groups and doubles them when it needs room, so
// the entries of group g belong to g and to its new twin g + n. The groups of
// all shards that come with one doubling are one piece of memory: it is touched
// only when it is filled, and large pages fit it.
//
//	part 0        1        2                 3
//	│0 0 0 0 …│1 1 1 1 …│2 3 2 3 2 3 2 3 …│4 5 6 7 4 5 6 7 …     group numbers, shard by shard
type table[V any] struct {
	shards int
	mu     sync.Mutex // held while a part is made
	parts  [33]atomic.Pointer[part[V]]
}

const slotsAGroup = 8

type part[V any] struct {
	tags    []uint64
	entries [][slotsAGroup]entry[V]
}

type entry[V any] struct {
	key   Key
	dies  int64 // the entry is dead from here on
	value V
}

// slot is one place of a group.
type slot[V any] struct {
	tags  *uint64
	group *[slotsAGroup]entry[V]
	n     uint
}

// Tags of a whole word.
const (
	used     = 0x80
	allTags  = 0x7f7f7f7f7f7f7f7f
	allUsed  = 0x8080808080808080
	eachByte = 0x0101010101010101
)

func (k *Key) tag() uint64 { return uint64(max(1, k[8]&0x7f)) }

// homes are the groups that k may lie in, of a power of two.
func (k *Key) homes(groups uint32) [2]uint32 {
	return [2]uint32{binary.LittleEndian.Uint32(k[0:]) & (groups - 1), binary.LittleEndian.Uint32(k[4:]) & (groups - 1)}
}

// having marks the bytes of tags that are tag, with their highest bits.
func having(tags, tag uint64) uint64 {
	differ := tags&allTags ^ tag*eachByte
	return ^(differ + allTags) & allUsed
}

func first(marked uint64) uint { return uint(bits.TrailingZeros64(marked)) / 8 }

func (t *table[V]) group(shard, g uint32) (*uint64, *[slotsAGroup]entry[V]) {
	n := bits.Len32(g)
	p := t.parts[n].Load()
	i := shard
	if n > 0 {
		i = shard<<(n-1) + g - 1<<(n-1)
	}
	return &p.tags[i], &p.entries[i]
}

func (t *table[V]) find(shard, groups uint32, k *Key) (slot[V], bool) {
	if groups == 0 {
		return slot[V]{}, false
	}
	tag := k.tag()
	for _, g := range k.homes(groups) {
		tags, group := t.group(shard, g)
		for fit := having(*tags, tag); fit != 0; fit &= fit - 1 {
			if n := first(fit); group[n].key == *k {
				return slot[V]{tags, group, n}, true
			}
		}
	}
	return slot[V]{}, false
}

// free is a free slot in the emptier of k's groups.
func (t *table[V]) free(shard, groups uint32, k *Key) (at slot[V], ok bool) {
	if groups == 0 {
		return at, false
	}
	most := 0
	for _, g := range k.homes(groups) {
		tags, group := t.group(shard, g)
		if open := having(*tags, 0); bits.OnesCount64(open) > most {
			most, at = bits.OnesCount64(open), slot[V]{tags, group, first(open)}
		}
	}
	return at, most > 0
}

// evict frees a slot in one of k's groups, both of which are full: going round from the hand on, the first that was not
// used since the last time. Those it passes are not spared again.
func (t *table[V]) evict(shard, groups uint32, k *Key, hand uint32) slot[V] {
	homes := k.homes(groups)
	for ; ; hand++ {
		tags, group := t.group(shard, homes[hand/slotsAGroup%2])
		at := slot[V]{tags, group, uint(hand % slotsAGroup)}
		if bit := uint64(used) << (8 * at.n); *tags&bit != 0 {
			*tags &^= bit
			continue
		}
		at.clear()
		return at
	}
}

// double gives a shard that has n groups twice as many, the first if it has none.
func (t *table[V]) double(shard, n uint32) {
	t.make(bits.Len32(n))
	for g := range n {
		tags, group := t.group(shard, g)
		newTags, newGroup := t.group(shard, g+n)
		for i := range uint(slotsAGroup) {
			tag := *tags >> (8 * i) & 0xff
			if tag == 0 {
				continue
			}
			if h := group[i].key.homes(2 * n); h[0] != g && h[1] != g {
				newGroup[i] = group[i]
				*newTags |= tag << (8 * i)
				slot[V]{tags, group, i}.clear()
			}
		}
	}
}

// make makes the memory of a doubling, unless another shard has.
func (t *table[V]) make(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.parts[n].Load() != nil {
		return
	}
	groups := t.shards << max(0, n-1)
	p := &part[V]{make([]uint64, groups), make([][slotsAGroup]entry[V], groups)}
	useLargePages(p.entries)
	t.parts[n].Store(p)
}

// clear drops what a shard has.
func (t *table[V]) clear(shard, groups uint32) {
	for g := range groups {
		tags, _ := t.group(shard, g)
		*tags = 0
	}
}

func (s slot[V]) entry() *entry[V] { return &s.group[s.n] }

func (s slot[V]) clear() { *s.tags &^= 0xff << (8 * s.n) }

func (s slot[V]) take(k *Key) { *s.tags |= k.tag() << (8 * s.n) }

// use notes that the entry was asked for.
func (s slot[V]) use() {
	if bit := uint64(used) << (8 * s.n); *s.tags&bit == 0 {
		*s.tags |= bit
	}
}
