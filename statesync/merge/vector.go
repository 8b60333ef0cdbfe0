package merge

import (
	"maps"

	"github.com/google/uuid"
)

// Order is how two histories relate.
type Order uint8

// What Compare can say.
const (
	Equal      Order = iota // both know the same
	Before                  // the first is part of the second
	After                   // the second is part of the first
	Concurrent              // each knows something the other does not
)

// String is the order in words.
func (o Order) String() string {
	return [...]string{"equal", "before", "after", "concurrent"}[o]
}

// VersionVector counts the changes known of each node; a node that is not in it has count 0.
type VersionVector map[uuid.UUID]uint64

// Compare tells how v's history relates to o's.
func (v VersionVector) Compare(o VersionVector) Order {
	less, more := false, false
	for n, c := range v {
		less, more = less || c < o[n], more || c > o[n]
	}
	for n, c := range o {
		less, more = less || v[n] < c, more || v[n] > c
	}
	switch {
	case less && more:
		return Concurrent
	case less:
		return Before
	case more:
		return After
	}
	return Equal
}

// Merge returns what both know together.
func (v VersionVector) Merge(o VersionVector) VersionVector { return maxima(v, o) }

// Next returns v with one more change of node.
func (v VersionVector) Next(node uuid.UUID) VersionVector {
	out := make(VersionVector, len(v)+1)
	maps.Copy(out, v)
	out[node]++
	return out
}

func maxima[M ~map[K]N, K comparable, N uint64 | float64](a, b M) M {
	out := make(M, len(a)+len(b))
	maps.Copy(out, a)
	for k, n := range b {
		if have, ok := out[k]; !ok || n > have {
			out[k] = n
		}
	}
	return out
}
