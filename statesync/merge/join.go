package merge

import (
	"cmp"
	"encoding/json"
	"maps"
	"math"
	"slices"

	"github.com/google/uuid"
)

// Join merges two values of one thing. It changes neither, and obeys the laws of the package.
type Join[T any] interface {
	Name() string
	Join(a, b T) T
}

type join[T any] struct {
	name string
	f    func(a, b T) T
}

func (j join[T]) Name() string  { return j.name }
func (j join[T]) Join(a, b T) T { return j.f(a, b) }

// Register is a value with the stamp of its change; Deleted with no value is a tombstone, which also has to win.
type Register struct {
	Stamp   Stamp           `json:"stamp"`
	Deleted bool            `json:"deleted,omitempty"`
	Value   json.RawMessage `json:"value,omitempty"`
}

// LWW keeps the newest: last write wins. Equal stamps with different values, which only a copied
// node id can make, are ordered by content, so that even then all sides end up equal.
func LWW() Join[Register] { return join[Register]{"lww", newest} }

func newest(a, b Register) Register {
	order := a.Stamp.Compare(b.Stamp)
	if order == 0 && a.Deleted != b.Deleted {
		order = -1
		if a.Deleted {
			order = 1
		}
	}
	if order == 0 {
		order = slices.Compare(a.Value, b.Value)
	}
	if order < 0 {
		return b
	}
	return a
}

// LWWPerField keeps the newest of every field, so that changes of different fields both stay.
func LWWPerField() Join[map[string]Register] {
	return join[map[string]Register]{"lww_per_field", each[string](newest)}
}

// each joins maps entry by entry.
func each[K comparable, V any](pick func(a, b V) V) func(a, b map[K]V) map[K]V {
	return func(a, b map[K]V) map[K]V {
		out := make(map[K]V, len(a)+len(b))
		maps.Copy(out, a)
		for k, v := range b {
			if have, ok := out[k]; ok {
				v = pick(have, v)
			}
			out[k] = v
		}
		return out
	}
}

// MaxOf keeps the greatest. Not-a-number counts as less than everything.
func MaxOf() Join[float64] {
	return join[float64]{"max", func(a, b float64) float64 {
		if math.IsNaN(a) || b > a || (a == 0 && b == 0 && math.Signbit(a)) {
			return b
		}
		return a
	}}
}

// Counts is how much each node has counted.
type Counts map[uuid.UUID]uint64

// Sum is the counter's value.
func (c Counts) Sum() uint64 {
	var n uint64
	for _, v := range c {
		n += v
	}
	return n
}

// GCounter joins counters that only grow; each node counts in its own entry.
func GCounter() Join[Counts] { return join[Counts]{"g_counter", maxima[Counts]} }

// UpDown is a counter that goes both ways: two that only grow.
type UpDown struct {
	Up   Counts `json:"up"`
	Down Counts `json:"down"`
}

// Sum is the counter's value.
func (c UpDown) Sum() int64 { return int64(c.Up.Sum()) - int64(c.Down.Sum()) } //nolint:gosec // counts of things that happen

// PNCounter joins counters that go up and down.
func PNCounter() Join[UpDown] {
	return join[UpDown]{"pn_counter", func(a, b UpDown) UpDown {
		return UpDown{maxima(a.Up, b.Up), maxima(a.Down, b.Down)}
	}}
}

// Set is a set whose elements come and go: an element is in it while one of its additions was not removed.
type Set struct {
	Added   map[string]map[Stamp]struct{}
	Removed map[Stamp]struct{} // additions that were seen and taken back
}

// Add returns the set with element added at stamp, which no other addition has.
func (s Set) Add(element string, at Stamp) Set {
	return ORSet().Join(s, Set{Added: map[string]map[Stamp]struct{}{element: {at: {}}}})
}

// Remove returns the set without the additions of element it knows; one made elsewhere meanwhile stays.
func (s Set) Remove(element string) Set {
	return ORSet().Join(s, Set{Removed: s.Added[element]})
}

// Elements are those in the set, sorted.
func (s Set) Elements() []string {
	var out []string
	for e, adds := range s.Added {
		for at := range adds {
			if _, gone := s.Removed[at]; !gone {
				out = append(out, e)
				break
			}
		}
	}
	slices.Sort(out)
	return out
}

// ORSet joins sets: what one side added while the other removed it stays (observed remove).
func ORSet() Join[Set] {
	return join[Set]{"or_set", func(a, b Set) Set {
		out := Set{make(map[string]map[Stamp]struct{}, len(a.Added)), union(a.Removed, b.Removed)}
		for e, adds := range a.Added {
			out.Added[e] = union(adds, b.Added[e])
		}
		for e, adds := range b.Added {
			if _, ok := out.Added[e]; !ok {
				out.Added[e] = union(adds, nil)
			}
		}
		return out
	}}
}

func union[K comparable](a, b map[K]struct{}) map[K]struct{} {
	out := make(map[K]struct{}, len(a)+len(b))
	maps.Copy(out, a)
	maps.Copy(out, b)
	return out
}

// Lattice keeps the word that comes last in order: Lattice("offline", "live", "ended") never goes back from ended.
// Words it does not know come before all others, by alphabet.
func Lattice(order ...string) Join[string] {
	return join[string]{"lattice", func(a, b string) string {
		if cmp.Or(cmp.Compare(slices.Index(order, a), slices.Index(order, b)), cmp.Compare(a, b)) < 0 {
			return b
		}
		return a
	}}
}
