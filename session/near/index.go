package near

import "encoding/binary"

// index finds places in a slab: open addressing, at most half full, its length
// a power of two. An element is 8 bits of the key and 24 of place + 1; 0 is free.
type index []uint32

const (
	tagMask   = 0xff << 24
	placeMask = 1<<24 - 1
)

// Shard, home and tag are taken from different bytes of the key.
func (k *Key) home() uint32 { return binary.LittleEndian.Uint32(k[0:]) }
func (k *Key) tag() uint32  { return uint32(k[8]) << 24 }

// link enters the entry at place i of the slab, which is not in the index yet.
func (s *shard[V]) link(i uint32) {
	if 2*len(s.slab) > len(s.index) {
		s.rehash()
		return
	}
	s.index.insert(&s.slab[i].key, i)
}

func (x index) insert(k *Key, i uint32) {
	mask := uint32(len(x) - 1) //nolint:gosec // at most twice maxAShard
	at := k.home() & mask
	for x[at] != 0 {
		at = (at + 1) & mask
	}
	x[at] = k.tag() | (i + 1)
}

// rehash makes an index for the slab as it can grow before it is copied again.
func (s *shard[V]) rehash() {
	n := 2 * firstSlab
	for n < 2*cap(s.slab) {
		n *= 2
	}
	s.index = make(index, n)
	empty := Key{}
	for i := range s.slab {
		if k := &s.slab[i].key; *k != empty {
			s.index.insert(k, uint32(i))
		}
	}
}

// unlink takes the entry at place i out and moves up those that had to step aside for it.
func (s *shard[V]) unlink(i uint32) {
	k := &s.slab[i].key
	mask := uint32(len(s.index) - 1) //nolint:gosec // at most twice maxAShard
	hole := k.home() & mask
	for s.index[hole]&placeMask != i+1 {
		hole = (hole + 1) & mask
	}
	for at := (hole + 1) & mask; s.index[at] != 0; at = (at + 1) & mask {
		home := s.slab[s.index[at]&placeMask-1].key.home() & mask
		if (at-home)&mask >= (at-hole)&mask {
			s.index[hole] = s.index[at]
			hole = at
		}
	}
	s.index[hole] = 0
}
