package feed

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"rootstream/event"
)

func TestAFrameComesBackAsItWas(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		epoch := rapid.Int64Range(1, 1<<60).Draw(t, "epoch")
		var in []event.Event
		for range rapid.IntRange(1, 20).Draw(t, "n") {
			e := event.Event{
				Seq: rapid.Int64Range(1, 1<<60).Draw(t, "seq"), AggregateType: "thing", AggregateID: uuid.New(),
				Version: rapid.Int64Range(1, 1<<62).Draw(t, "version"), Name: rapid.StringN(1, 40, 100).Draw(t, "name"),
				Data: json.RawMessage(`"` + rapid.StringMatching(`[a-z]{0,200}`).Draw(t, "data") + `"`),
				At:   time.UnixMicro(rapid.Int64Range(-1<<50, 1<<50).Draw(t, "at")).UTC(),
			}
			if rapid.Bool().Draw(t, "user") {
				id := uuid.New()
				e.UserID = &id
			}
			if rapid.Bool().Draw(t, "actor") {
				id := uuid.New()
				e.ActorID = &id
			}
			e.Shard = e.Ref().Shard()
			in = append(in, e)
		}
		b := appendEvents(nil, epoch, in)
		var d decoder
		read := func(b []byte) (int64, []event.Event, error) {
			r := reader{b: b}
			said := int64(r.uvarint())
			out, err := d.events(&r, nil)
			return said, out, err
		}
		said, out, err := read(b)
		if err != nil || said != epoch {
			t.Fatalf("epoch %d of %d: %v", said, epoch, err)
		}
		if diff := cmp.Diff(in, out); diff != "" {
			t.Fatal(diff)
		}
		cut := rapid.IntRange(0, len(b)-1).Draw(t, "cut")
		if _, _, err := read(b[:cut]); err == nil {
			t.Fatalf("%d of %d bytes were taken for the frame", cut, len(b))
		}
	})
}

func FuzzFrame(f *testing.F) {
	f.Add(appendEvents(nil, 1, []event.Event{{AggregateType: "thing", AggregateID: uuid.New(), Seq: 1, Version: 1, Name: "thing.changed", Data: json.RawMessage("{}")}})[1:])
	f.Add([]byte{1, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		var d decoder
		events, err := d.events(&reader{b: b}, make([]event.Event, 1))
		if err != nil && len(events) != 1 {
			t.Errorf("%v of a frame that is none", events)
		}
		for _, e := range events[1:] {
			if e.Seq < 1 || e.Version < 1 || e.Shard != e.Ref().Shard() {
				t.Errorf("%+v", e)
			}
		}
	})
}

func TestRunsAreContiguous(t *testing.T) {
	t.Parallel()
	var in []event.Event
	for _, seq := range []int64{5, 4, 4, 9, 6} {
		in = append(in, event.Event{Seq: seq})
	}
	var got [][]int64
	for _, r := range runs(in) {
		var seqs []int64
		for _, e := range r {
			seqs = append(seqs, e.Seq)
		}
		got = append(got, seqs)
	}
	if diff := cmp.Diff([][]int64{{4, 5, 6}, {9}}, got); diff != "" {
		t.Error(diff)
	}
	if runs(nil) != nil {
		t.Error("nothing makes a run")
	}
}

func TestFramesAreBounded(t *testing.T) {
	t.Parallel()
	var in []event.Event
	big := json.RawMessage(make([]byte, 60<<10))
	for seq := range int64(600) {
		e := event.Event{Seq: 1000 - seq}
		if seq < 10 {
			e.Data = big
		}
		in = append(in, e)
	}
	var lens []int
	for _, r := range frames(in) {
		lens = append(lens, len(r))
	}
	if diff := cmp.Diff([]int{4, 4, 256, 256, 80}, lens); diff != "" {
		t.Error(diff)
	}
	if frames(nil) != nil {
		t.Error("nothing makes a frame")
	}
}

func TestTooMuchThatWaitsIsForgotten(t *testing.T) {
	t.Parallel()
	var s shard
	hand := func([]event.Event) { t.Error("handed on over a hole") }
	for i := range int64(maxParked + 2) {
		s.deliver([]event.Event{{Seq: 2 * (i + 1)}}, hand)
		s.deliver([]event.Event{{Seq: 2 * (i + 1)}}, hand) // again
	}
	if s.waiting != 2 || len(s.parked) != 2 {
		t.Errorf("%d events wait in %d frames", s.waiting, len(s.parked))
	}
}

// TestWhatWasHandedOnTakesLittleRoom has a shard of large events, and one of small ones that came in large frames.
func TestWhatWasHandedOnTakesLittleRoom(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"large": 60 << 10, "small": 100} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var s shard
			const many = 3 * recentEvents
			for seq := range int64(many) {
				frame := make([]byte, max(size, 8<<10))
				s.deliver([]event.Event{{Seq: seq + 1, Data: frame[:size]}}, func([]event.Event) {})
			}
			room, bytes := 0, 0
			for i := range s.recent {
				room, bytes = room+cap(s.recent[i].Data), bytes+len(s.recent[i].Data)
			}
			if room > 2*recentBytes || bytes != s.data || bytes < min(recentEvents*size, recentBytes-size) {
				t.Errorf("%d bytes of data, said to be %d, take %d", bytes, s.data, room)
			}
			if newest := s.recent[many%recentEvents]; newest.Seq != many || len(newest.Data) != size {
				t.Errorf("the newest is number %d with %d bytes", newest.Seq, len(newest.Data))
			}
			s.reset(many)
			s.deliver([]event.Event{{Seq: many + 1, Data: make([]byte, size)}}, func([]event.Event) {})
			if s.data != size {
				t.Errorf("%d bytes after a reset", s.data)
			}
		})
	}
}

func TestBlocksDifferWhereEventsDo(t *testing.T) {
	t.Parallel()
	digestOf := func(from int64, change int64) *shard {
		var s shard
		s.reset(from - 1)
		for seq := from; seq <= 2*blockSize+5; seq++ {
			e := event.Event{Seq: seq, Version: seq, Name: "thing.changed"}
			if seq == change {
				e.Name = "thing.deleted"
			}
			s.deliver([]event.Event{e}, func([]event.Event) {})
		}
		return &s
	}
	one, same, late, other := digestOf(1, 0), digestOf(1, 0), digestOf(5, 0), digestOf(1, blockSize+7)
	b := one.newest()
	if b.Number != 2 || same.differs(b) || late.differs(b) || !other.differs(b) || other.differs(one.blocks[1]) {
		t.Errorf("block %v, others %v %v %v", b, same.newest(), late.newest(), other.newest())
	}
	if one.differs(Block{}) || one.differs(Block{Number: -3}) {
		t.Error("no block differs from none")
	}
}
