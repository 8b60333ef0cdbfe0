package mergetest_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"rootstream/statesync/merge/mergetest"
)

type join[T any] struct {
	name string
	f    func(a, b T) T
}

func (j join[T]) Name() string  { return j.name }
func (j join[T]) Join(a, b T) T { return j.f(a, b) }

func TestEachLawFailsOnAJoinThatBreaksIt(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		join join[int]
		want []string
	}{
		{join[int]{"greatest", func(a, b int) int { return max(a, b) }}, nil},
		{join[int]{"the first", func(a, _ int) int { return a }}, []string{"commutative"}},
		{join[int]{"rock, paper, scissors", beats}, []string{"associative"}},
		{join[int]{"always the top", func(_, _ int) int { return 3 }}, []string{"idempotent"}},
		{join[int]{"average", func(a, b int) int { return (a + b) / 2 }}, []string{"associative", "monotone"}},
		{join[int]{"sum", func(a, b int) int { return a + b }}, []string{"idempotent", "monotone"}},
	} {
		got := mergetest.BrokenLaws(tt.join, rapid.IntRange(0, 2), 200)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s breaks %v, want %v", tt.join.name, got, tt.want)
		}
	}
}

// beats is commutative, idempotent and keeps what won, but who wins of three depends on who meets first.
func beats(a, b int) int {
	if (a+1)%3 == b {
		return b
	}
	return a
}

func TestAJoinThatWritesToItsArgumentIsFound(t *testing.T) {
	t.Parallel()
	j := join[map[string]int]{"in place", func(a, b map[string]int) map[string]int {
		for k, v := range b {
			a[k] = max(a[k], v)
		}
		return a
	}}
	gen := rapid.MapOfN(rapid.StringN(1, 1, 1), rapid.IntRange(1, 9), 1, 4)
	if got := mergetest.BrokenLaws(j, gen, 200); !slices.Contains(got, "pure") {
		t.Errorf("breaks %v", got)
	}
}

func TestLawsOfTheGreatest(t *testing.T) {
	t.Parallel()
	mergetest.CheckJoinLaws(t, join[int]{"greatest", func(a, b int) int { return max(a, b) }}, rapid.Int())
}
