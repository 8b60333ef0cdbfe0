package merge

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"github.com/google/uuid"
)

// Contribution is what one node says of an entity.
type Contribution struct {
	Stamp Stamp
	Doc   map[string]any // numbers are json.Number
}

// Docs makes one document of what several nodes say: each contribution is lifted into the values
// of a [Join], these are joined, and the result is read. So it does not depend on their order, and one
// that is told twice counts once.
type Docs interface {
	Name() string
	Merge(contributions []Contribution) map[string]any
}

type docs[T any] struct {
	join Join[T]
	lift func(Contribution) T
	read func(T) map[string]any
}

// NewDocs makes Docs of any join. Where nobody contributes, the document is empty.
func NewDocs[T any](j Join[T], lift func(Contribution) T, read func(T) map[string]any) Docs {
	return docs[T]{j, lift, read}
}

func (d docs[T]) Name() string { return d.join.Name() }

func (d docs[T]) Merge(cs []Contribution) map[string]any {
	if len(cs) == 0 {
		return map[string]any{}
	}
	sum := d.lift(cs[0])
	for _, c := range cs[1:] {
		sum = d.join.Join(sum, d.lift(c))
	}
	return d.read(sum)
}

// Latest is the newest contribution as a whole.
func Latest() Docs {
	return NewDocs(join[Contribution]{"latest", later}, func(c Contribution) Contribution { return c },
		func(c Contribution) map[string]any { return c.Doc })
}

func later(a, b Contribution) Contribution {
	if a.Stamp.Compare(b.Stamp) < 0 {
		return b
	}
	return a
}

// LatestPerField is the newest value of every field anyone contributes.
func LatestPerField() Docs {
	return perField("latest_per_field", nil, func(a, b field) field {
		if a.stamp.Compare(b.stamp) < 0 {
			return b
		}
		return a
	})
}

// Max is the greatest number of every field; what is not a number counts as 0.
func Max() Docs {
	top := MaxOf()
	return perField("max", nil, func(a, b field) field {
		x, y := number(a.value), number(b.value)
		if x == y && a.stamp.Compare(b.stamp) < 0 || x != y && top.Join(x, y) == y {
			return b
		}
		return a
	})
}

// Lattices keeps, of a field that an order is given for, the word that comes last in it, and of others the newest value.
func Lattices(orders map[string][]string) Docs {
	return perField("lattices", orders, func(a, b field) field {
		if a.rank < b.rank || a.rank == b.rank && a.stamp.Compare(b.stamp) < 0 {
			return b
		}
		return a
	})
}

type field struct {
	stamp Stamp
	rank  int // of a word that an order is given for
	value any
}

func perField(name string, orders map[string][]string, pick func(a, b field) field) Docs {
	return NewDocs(join[map[string]field]{name, each[string](pick)}, func(c Contribution) map[string]field {
		out := make(map[string]field, len(c.Doc))
		for k, v := range c.Doc {
			word, _ := v.(string)
			out[k] = field{c.Stamp, slices.Index(orders[k], word), v}
		}
		return out
	}, func(m map[string]field) map[string]any {
		out := make(map[string]any, len(m))
		for k, f := range m {
			out[k] = f.value
		}
		return out
	})
}

// Sum adds every field up over the nodes that contribute. Of each node its newest contribution counts; numbers
// below zero count as none, so that no sum of counts is ever below zero.
func Sum() Docs {
	return NewDocs(join[map[uuid.UUID]Contribution]{"sum", each[uuid.UUID](later)},
		func(c Contribution) map[uuid.UUID]Contribution {
			return map[uuid.UUID]Contribution{c.Stamp.Node: c}
		}, total)
}

func total(all map[uuid.UUID]Contribution) map[string]any {
	sums := map[string]float64{}
	for _, node := range slices.SortedFunc(maps.Keys(all), compareID) { // fractions add up the same everywhere
		for k, v := range all[node].Doc {
			sums[k] += max(number(v), 0)
		}
	}
	out := make(map[string]any, len(sums))
	for k, v := range sums {
		out[k] = json.Number(strconv.FormatFloat(v, 'f', -1, 64))
	}
	return out
}

// number is 0 for what is not a number, or too large for one.
func number(v any) float64 {
	n, ok := v.(json.Number)
	if !ok {
		return 0
	}
	f, err := n.Float64()
	if err != nil {
		return 0
	}
	return f
}
