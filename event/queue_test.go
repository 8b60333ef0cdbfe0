package event

import (
	"testing"
	"time"

	"github.com/google/uuid"
)

// waiting puts units of one event each into lanes.
func waiting(t *testing.T, q *queue, perLane ...int) {
	t.Helper()
	for at, n := range perLane {
		for range n {
			u, err := newUnit([]New{{Aggregate: Ref{"stream", uuid.New()}, Name: "stream.updated", Expect: Any}})
			if err != nil || !q.put(u, at) {
				t.Fatalf("not taken in: %v", err)
			}
		}
	}
}

// taking is what comes of it: how many units, of how many lanes, or how long to wait.
type taking struct {
	units, lanes int
	wait         time.Duration
}

// taken checks the next batch.
func taken(t *testing.T, q *queue, now time.Time, want taking) batch {
	t.Helper()
	b, w := q.take(256, now)
	if got := (taking{len(b.units), len(b.lanes), w}); got != want {
		t.Fatalf("%+v, want %+v", got, want)
	}
	return b
}

func TestFewUnitsAreCommittedTogetherAndNotTooOften(t *testing.T) {
	t.Parallel()
	q, now := newQueue(3), time.Now()
	taken(t, q, now, taking{})
	waiting(t, q, 2, 1, 3)
	b := taken(t, q, now, taking{units: 6, lanes: 3}) // the first waits for nobody
	waiting(t, q, 1)
	taken(t, q, now.Add(time.Hour), taking{}) // its lane is busy
	q.done(b)
	taken(t, q, now.Add(alone/4), taking{wait: alone * 3 / 4})
	waiting(t, q, 1)
	taken(t, q, now.Add(alone), taking{wait: pace - alone})
	taken(t, q, now.Add(pace), taking{units: 2, lanes: 1})
	waiting(t, q, 0, 1)
	taken(t, q, now.Add(2*pace), taking{units: 1, lanes: 1}) // one that takes long holds only its own lanes back
	if q.len() != 0 {
		t.Errorf("%d are left", q.len())
	}
}

func TestLanesWithPlentyAreCommittedSideBySide(t *testing.T) {
	t.Parallel()
	q, now := newQueue(3), time.Now()
	waiting(t, q, plenty, plenty+1)
	taken(t, q, now, taking{units: plenty + 1, lanes: 1})
	full := taken(t, q, now, taking{units: plenty, lanes: 1})
	waiting(t, q, plenty, 1)
	taken(t, q, now, taking{})
	q.done(full)
	waiting(t, q, 300)
	full = taken(t, q, now, taking{units: 256, lanes: 1})
	q.done(full)
	if !q.drop(q.lanes[0].units.Front().Value.(*unit)) {
		t.Error("what waits is not dropped")
	}
	if q.drop(full.units[0]) {
		t.Error("what is being committed was dropped")
	}
	taken(t, q, now, taking{units: plenty + 300 - 256 - 1, lanes: 1})
	if left := q.close(); len(left) != 1 || q.put(left[0], 0) {
		t.Errorf("%d left at the end, or one taken in after it", len(left))
	}
}

// TestALaneWithLittleIsNotHeldUpByThoseWithPlenty has commits of two lanes with plenty begin one shortly after the other
// without end.
func TestALaneWithLittleIsNotHeldUpByThoseWithPlenty(t *testing.T) {
	t.Parallel()
	q, now := newQueue(3), time.Now()
	waiting(t, q, plenty, plenty, 1)
	var under []batch
	for n := range 100 {
		b, w := q.take(256, now)
		for ; b.units != nil; b, w = q.take(256, now) {
			if len(b.lanes) > 1 || b.lanes[0] == &q.lanes[2] {
				return
			}
			under = append(under, b)
		}
		if w == 0 || len(under) == 0 {
			t.Fatalf("commit %d: nothing goes on", n)
		}
		now = now.Add(min(w, pace/2))
		q.done(under[0])
		waiting(t, q, plenty, plenty)
		under = under[1:]
	}
	t.Error("it was not committed")
}
