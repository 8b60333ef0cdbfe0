// Package mergetest checks that a join obeys the laws that make all sides agree.
package mergetest

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"rootstream/statesync/merge"
)

// CheckJoinLaws fails t unless join is commutative, associative, idempotent, monotone and leaves its arguments
// alone, for values that gen draws. Opts say when values are equal.
func CheckJoinLaws[T any](t *testing.T, join merge.Join[T], gen *rapid.Generator[T], opts ...cmp.Option) {
	t.Helper()
	for _, l := range laws[T]() {
		t.Run(join.Name()+" is "+l.name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				a, b, c := gen.Draw(t, "a"), gen.Draw(t, "b"), gen.Draw(t, "c")
				if diff := l.broken(join, a, b, c, opts); diff != "" {
					t.Fatalf("(-one way +other way):\n%s", diff)
				}
			})
		})
	}
}

// BrokenLaws returns the names of the laws that some of n samples break.
func BrokenLaws[T any](join merge.Join[T], gen *rapid.Generator[T], n int, opts ...cmp.Option) []string {
	var broken []string
	for _, l := range laws[T]() {
		for seed := range n {
			if l.broken(join, gen.Example(3*seed), gen.Example(3*seed+1), gen.Example(3*seed+2), opts) != "" {
				broken = append(broken, l.name)
				break
			}
		}
	}
	return broken
}

type law[T any] struct {
	name   string
	broken func(j merge.Join[T], a, b, c T, opts []cmp.Option) string // the difference; "" where the law holds
}

func laws[T any]() []law[T] {
	return []law[T]{
		{"commutative", func(j merge.Join[T], a, b, _ T, opts []cmp.Option) string {
			return cmp.Diff(j.Join(a, b), j.Join(b, a), opts...)
		}},
		{"associative", func(j merge.Join[T], a, b, c T, opts []cmp.Option) string {
			return cmp.Diff(j.Join(j.Join(a, b), c), j.Join(a, j.Join(b, c)), opts...)
		}},
		{"idempotent", func(j merge.Join[T], a, _, _ T, opts []cmp.Option) string {
			return cmp.Diff(a, j.Join(a, a), opts...)
		}},
		{"monotone", func(j merge.Join[T], a, b, _ T, opts []cmp.Option) string {
			both := j.Join(a, b) // contains a: joining a in again adds nothing
			return cmp.Diff(both, j.Join(both, a), opts...)
		}},
		{"pure", func(j merge.Join[T], a, b, _ T, _ []cmp.Option) string {
			before := fmt.Sprintf("%+v %+v", a, b)
			j.Join(a, b)
			return cmp.Diff(before, fmt.Sprintf("%+v %+v", a, b))
		}},
	}
}
