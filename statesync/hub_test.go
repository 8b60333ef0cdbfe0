package statesync

import (
	"testing"

	"github.com/google/uuid"

	"rootstream/event"
)

// flood pushes many changes of a number of entities to a subscriber, and reports after each.
func flood(t *testing.T, s *sub, entities, changes int, pushed func(i int)) {
	t.Helper()
	ids := make([]uuid.UUID, entities)
	for i := range ids {
		ids[i] = uuid.New()
		ids[i][15] = 0 // all of one shard
	}
	for i := range changes {
		s.push(&event.Event{
			AggregateType: "thing", AggregateID: ids[i%entities], Seq: int64(i + 1), Version: int64(i/entities + 1),
		})
		pushed(i)
	}
	if s.cut {
		t.Fatal("it was cut")
	}
}

func slow(t *testing.T, o SubOptions) *sub {
	t.Helper()
	s, err := newSub([]string{"thing.*"}, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestWhoNeverCatchesUpTakesNoMoreRoom has subscribers that are told again and again, but never all that waits.
func TestWhoNeverCatchesUpTakesNoMoreRoom(t *testing.T) {
	t.Parallel()
	const buffer = 64
	for name, overflow := range map[string]Overflow{"conflate": Conflate, "gap": Gap, "block": Block} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := slow(t, SubOptions{Overflow: overflow, Buffer: buffer})
			flood(t, s, 32, 10_000, func(i int) {
				if i < 2 || overflow != Block && i%4 > 0 {
					return
				}
				if _, ok, err := s.next(&hub{}); !ok || err != nil {
					t.Fatalf("nothing is told: %v", err)
				}
			})
			if cap(s.queue) > 8*buffer {
				t.Errorf("there is room for %d changes, of at most %d that wait", cap(s.queue), buffer)
			}
		})
	}
}

// TestConflatingIsNotDoneForEveryChange has one be told nothing of just as many entities as it keeps changes of: whoever
// hands out changes must not go through all of them each time.
func TestConflatingIsNotDoneForEveryChange(t *testing.T) {
	t.Parallel()
	const buffer, changes = 64, 10_000
	s := slow(t, SubOptions{Buffer: buffer})
	conflated, before := 0, 0
	flood(t, s, buffer, changes, func(int) {
		if len(s.queue) <= before {
			conflated++
		}
		before = len(s.queue)
	})
	if most := changes/(buffer/4) + 1; conflated > most || conflated == 0 {
		t.Errorf("they were gone through %d times, want at most %d", conflated, most)
	}
	newest := map[event.Ref]int64{}
	for {
		c, ok, err := s.next(&hub{})
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		if at := newest[c.Ref]; c.FirstVersion != at+1 {
			t.Fatalf("after version %d of an entity comes %d", at, c.FirstVersion)
		}
		newest[c.Ref] = c.Version
	}
	total := int64(0)
	for _, version := range newest {
		total += version
	}
	if total != changes {
		t.Errorf("%d changes are accounted for, want %d", total, changes)
	}
}
