package merge_test

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"rootstream/statesync/merge"
	"rootstream/statesync/merge/mergetest"
)

func node(n byte) uuid.UUID { return uuid.UUID{0: n, 15: n} }

var (
	nodes  = rapid.Custom(func(t *rapid.T) uuid.UUID { return node(rapid.ByteRange(1, 3).Draw(t, "node")) })
	stamps = rapid.Custom(func(t *rapid.T) merge.Stamp {
		return merge.Stamp{At: merge.HLC(rapid.Uint64Range(0, 4).Draw(t, "at")), Node: nodes.Draw(t, "node")}
	})
	registers = rapid.Custom(func(t *rapid.T) merge.Register {
		if rapid.Bool().Draw(t, "deleted") {
			return merge.Register{Stamp: stamps.Draw(t, "stamp"), Deleted: true}
		}
		return merge.Register{Stamp: stamps.Draw(t, "stamp"), Value: json.RawMessage(rapid.SampledFrom([]string{"1", "2"}).Draw(t, "value"))}
	})
	counts = rapid.Custom(func(t *rapid.T) merge.Counts {
		return rapid.MapOfN(nodes, rapid.Uint64Range(0, 5), 0, 3).Draw(t, "counts")
	})
	words = rapid.SampledFrom([]string{"offline", "live", "ended", "unheard", "odd"})
	sets  = rapid.Custom(func(t *rapid.T) merge.Set {
		some := rapid.MapOfN(stamps, rapid.Just(struct{}{}), 0, 4)
		added := map[string]map[merge.Stamp]struct{}{}
		for at := range some.Draw(t, "added") { // an addition is of one element
			e := string('a' + rune((int(at.At)+int(at.Node[0]))%3))
			if added[e] == nil {
				added[e] = map[merge.Stamp]struct{}{}
			}
			added[e][at] = struct{}{}
		}
		return merge.Set{Added: added, Removed: some.Draw(t, "removed")}
	})
)

// Tests that share generators do not run beside each other: a generator is not safe for that.

func TestJoinsObeyTheLaws(t *testing.T) {
	empty := cmpopts.EquateEmpty()
	mergetest.CheckJoinLaws(t, merge.LWW(), registers)
	mergetest.CheckJoinLaws(t, merge.LWWPerField(), rapid.MapOfN(rapid.SampledFrom([]string{"a", "b"}), registers, 0, 2), empty)
	mergetest.CheckJoinLaws(t, merge.MaxOf(), rapid.OneOf(rapid.Float64(), rapid.SampledFrom([]float64{0, 1, -1})), cmpopts.EquateNaNs())
	mergetest.CheckJoinLaws(t, merge.GCounter(), counts, empty)
	mergetest.CheckJoinLaws(t, merge.PNCounter(), rapid.Custom(func(t *rapid.T) merge.UpDown {
		return merge.UpDown{Up: counts.Draw(t, "up"), Down: counts.Draw(t, "down")}
	}), empty)
	mergetest.CheckJoinLaws(t, merge.ORSet(), sets, empty)
	mergetest.CheckJoinLaws(t, merge.Lattice("offline", "live", "ended"), words)
}

// TestLWWNeedsItsLastTieBreak shows that the laws' test sees the smallest mistake one could make.
func TestLWWNeedsItsLastTieBreak(t *testing.T) {
	if got := mergetest.BrokenLaws(byStampAlone{}, registers, 2000); !slices.Contains(got, "commutative") {
		t.Errorf("without the tie-break it breaks %v", got)
	}
}

type byStampAlone struct{}

func (byStampAlone) Name() string { return "lww without tie-break" }

func (byStampAlone) Join(a, b merge.Register) merge.Register {
	if a.Stamp.Compare(b.Stamp) < 0 {
		return b
	}
	return a
}

// TestAnyOrderOfTheSameContributionsIsOneDocument feeds permutations and repetitions.
func TestAnyOrderOfTheSameContributionsIsOneDocument(t *testing.T) {
	orders := map[string][]string{"status": {"offline", "live", "ended"}}
	for _, d := range []merge.Docs{merge.Latest(), merge.LatestPerField(), merge.Max(), merge.Sum(), merge.Lattices(orders)} {
		rapid.Check(t, func(t *rapid.T) {
			all := map[merge.Stamp]map[string]any{} // equal stamps are the same change
			for at := range rapid.MapOfN(stamps, rapid.Just(0), 0, 6).Draw(t, "stamps") {
				all[at] = map[string]any{
					"n":      json.Number(rapid.SampledFrom([]string{"1", "2", "-3", "0.1"}).Draw(t, "n")),
					"status": words.Draw(t, "status"),
				}
			}
			var list []merge.Contribution
			for at, doc := range all {
				list = append(list, merge.Contribution{Stamp: at, Doc: doc})
			}
			want := d.Merge(list)
			again := append(slices.Clone(list), list...)
			r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
			r.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
			if diff := cmp.Diff(want, d.Merge(again)); diff != "" {
				t.Fatalf("%s (-once +shuffled and twice):\n%s", d.Name(), diff)
			}
		})
	}
}

func TestDocsSayWhatTheyAreFor(t *testing.T) {
	t.Parallel()
	say := func(at merge.HLC, n byte, doc map[string]any) merge.Contribution {
		return merge.Contribution{Stamp: merge.Stamp{At: at, Node: node(n)}, Doc: doc}
	}
	three := []merge.Contribution{
		say(1, 1, map[string]any{"viewers": json.Number("4"), "status": "ended"}),
		say(2, 2, map[string]any{"viewers": json.Number("-9"), "status": "live", "by": "two"}),
		say(3, 1, map[string]any{"viewers": json.Number("3")}),
	}
	for _, tt := range []struct {
		docs merge.Docs
		want map[string]any
	}{
		{merge.Latest(), map[string]any{"viewers": json.Number("3")}},
		{merge.LatestPerField(), map[string]any{"viewers": json.Number("3"), "status": "live", "by": "two"}},
		{merge.Max(), map[string]any{"viewers": json.Number("4"), "status": "live", "by": "two"}},
		{merge.Sum(), map[string]any{"viewers": json.Number("3"), "status": json.Number("0"), "by": json.Number("0")}},
		{
			merge.Lattices(map[string][]string{"status": {"offline", "live", "ended"}}),
			map[string]any{"viewers": json.Number("3"), "status": "ended", "by": "two"},
		},
	} {
		if diff := cmp.Diff(tt.want, tt.docs.Merge(three)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.docs.Name(), diff)
		}
		if got := tt.docs.Merge(nil); len(got) != 0 {
			t.Errorf("%s of nothing is %v", tt.docs.Name(), got)
		}
	}
}

func TestASetKeepsWhatWasAddedMeanwhile(t *testing.T) {
	t.Parallel()
	var s merge.Set
	s = s.Add("a", merge.Stamp{At: 1, Node: node(1)}).Add("b", merge.Stamp{At: 2, Node: node(1)})
	here := s.Remove("a")
	there := s.Add("a", merge.Stamp{At: 3, Node: node(2)})
	if got := here.Elements(); !slices.Equal(got, []string{"b"}) {
		t.Errorf("after removing: %v", got)
	}
	if got := merge.ORSet().Join(here, there).Elements(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("joined: %v", got)
	}
}

func TestCountersAddUp(t *testing.T) {
	t.Parallel()
	a := merge.UpDown{Up: merge.Counts{node(1): 5}, Down: merge.Counts{node(1): 2}}
	b := merge.UpDown{Up: merge.Counts{node(1): 3, node(2): 4}}
	if got := merge.PNCounter().Join(a, b).Sum(); got != 7 {
		t.Errorf("sum %d, want 7", got)
	}
}

func TestTheClockNeverGoesBack(t *testing.T) {
	t.Parallel()
	wall := time.UnixMilli(1_800_000_000_000)
	c := merge.NewClock(func() time.Time { return wall }, 0)
	first := c.Now()
	if !first.Time().Equal(wall) {
		t.Errorf("%v, want %v", first.Time(), wall)
	}
	wall = wall.Add(-time.Hour)
	if second := c.Now(); second <= first {
		t.Errorf("after a step back %d follows %d", second, first)
	}
	ahead := merge.At(wall.Add(merge.MaxDrift))
	if err := c.See(ahead); err != nil {
		t.Fatal(err)
	}
	if next := c.Now(); next <= ahead {
		t.Errorf("%d follows %d, which was seen", next, ahead)
	}
	before := c.Now()
	if err := c.See(merge.At(wall.Add(merge.MaxDrift + time.Millisecond))); !errors.Is(err, merge.ErrDrift) || c.Refused() != 1 {
		t.Errorf("a clock too far ahead: %v, %d refused", err, c.Refused())
	}
	if next := c.Now(); next != before+1 {
		t.Errorf("a refused moment moved the clock from %d to %d", before, next)
	}
}

func TestAMomentIsTextInJSON(t *testing.T) {
	t.Parallel()
	h := merge.HLC(1<<63 + 1)
	b, err := json.Marshal(merge.Stamp{At: h})
	if err != nil || !json.Valid(b) || string(b[:30]) != `{"at":"9223372036854775809","n` {
		t.Fatalf("%s, %v", b, err)
	}
	var back merge.Stamp
	if err := json.Unmarshal(b, &back); err != nil || back.At != h {
		t.Errorf("%v, %v", back, err)
	}
	if json.Unmarshal([]byte(`{"at":"-1"}`), &back) == nil {
		t.Error("a negative moment was read")
	}
}

func TestVectorsCompare(t *testing.T) {
	t.Parallel()
	a, b := node(1), node(2)
	for _, tt := range []struct {
		v, o merge.VersionVector
		want merge.Order
	}{
		{nil, merge.VersionVector{a: 0}, merge.Equal},
		{merge.VersionVector{a: 1}, merge.VersionVector{a: 1, b: 1}, merge.Before},
		{merge.VersionVector{a: 2}, merge.VersionVector{a: 1}, merge.After},
		{merge.VersionVector{a: 1}, merge.VersionVector{b: 1}, merge.Concurrent},
	} {
		if got := tt.v.Compare(tt.o); got != tt.want {
			t.Errorf("%v to %v is %v, want %v", tt.v, tt.o, got, tt.want)
		}
	}
}

func TestAMergedVectorKnowsBoth(t *testing.T) {
	t.Parallel()
	vectors := rapid.MapOfN(nodes, rapid.Uint64Range(0, 3), 0, 3)
	rapid.Check(t, func(t *rapid.T) {
		v, o := merge.VersionVector(vectors.Draw(t, "v")), merge.VersionVector(vectors.Draw(t, "o"))
		m := v.Merge(o)
		for _, part := range []merge.VersionVector{v, o} {
			if rel := part.Compare(m); rel != merge.Before && rel != merge.Equal {
				t.Fatalf("%v is %v %v", part, rel, m)
			}
		}
		n := node(2)
		if v.Compare(v.Next(n)) != merge.Before {
			t.Fatalf("%v.Next = %v", v, v.Next(n))
		}
	})
}
