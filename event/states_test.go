package event_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// TestTheStatesOfManyAreThoseOfEach compares with State, for entities with and without snapshots, also of another fold, in
// two shapes, erased, and with none of them.
func TestTheStatesOfManyAreThoseOfEach(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	schema := tallied()
	schema.Upcast("stream.renamed", 1, func(data map[string]any) (map[string]any, error) {
		data["title"] = data["name"]
		return data, nil
	})
	l := runLog(t, event.LogConfig{DB: db, Schema: schema, SnapshotEvery: 3})
	store, ctx := event.NewStore(db).With(schema), context.Background()
	var all []event.Ref
	rapid.Check(t, func(rt *rapid.T) {
		ref := newRef("stream")
		n := rapid.IntRange(0, 10).Draw(rt, "events")
		for range n {
			name := rapid.SampledFrom([]string{"stream.changed", "stream.reset", "stream.renamed"}).Draw(rt, "name")
			_, err := l.Append(ctx, event.New{Aggregate: ref, Name: name, Expect: event.Any, Data: map[string]any{"name": "n", "title": n}})
			if err != nil {
				rt.Fatal(err)
			}
		}
		eventuallyRapid(rt, func() bool { return newestSnapshot(t, db, ref) == n/3*3 })
		switch rapid.SampledFrom([]string{"as it is", "another fold", "older snapshot", "erased"}).Draw(rt, "then") {
		case "another fold":
			execute(t, db, "update event_snapshots set fold = 2 where aggregate_id = $1", ref.ID)
		case "older snapshot":
			execute(t, db, "delete from event_snapshots where aggregate_id = $1 and version > 3", ref.ID)
		case "erased":
			err := db.InTx(ctx, func(tx *postgres.Tx) error {
				_, err := event.Erase(ctx, tx, ref, nil)
				return err
			})
			if err != nil {
				rt.Fatal(err)
			}
		}
		all = append(all, ref)
		some := rapid.SliceOfN(rapid.SampledFrom(all), 1, 20).Draw(rt, "asked for")
		states, err := store.States(ctx, some)
		if err != nil || len(states) != len(some) {
			rt.Fatalf("%d states, %v", len(states), err)
		}
		for i, got := range states {
			want, err := store.State(ctx, some[i], event.At{})
			if errors.Is(err, event.ErrNotFound) {
				want, err = event.State{Entity: some[i], Data: map[string]any{}}, nil
			}
			if err != nil || got == nil || cmp.Diff(want, *got) != "" {
				rt.Fatalf("%v: %+v, want %+v, %v", some[i], got, want, err)
			}
		}
	})
}

func eventuallyRapid(t *rapid.T, cond func() bool) {
	for end := time.Now().Add(30 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within 30 s")
		}
	}
}

func TestWhatStatesCannotTellLeavesTheOthersUntouched(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	schema := tallied()
	l := runLog(t, event.LogConfig{DB: db, Schema: schema, SnapshotEvery: 5})
	store := event.NewStore(db).With(schema)
	good, broken, pruned, long := history(t, l, db, 12, 5), history(t, l, db, 12, 5), history(t, l, db, 4, 5), newRef("stream")
	execute(t, db, "update event_snapshots set state = 'nothing' where aggregate_id = $1 and version = 10", broken.ID)
	execute(t, db, "delete from events where aggregate_id = $1 and version < 3", pruned.ID)
	unit := make([]event.New, 1000)
	for i := range unit {
		unit[i] = event.New{Aggregate: long, Name: "stream.changed", Expect: event.Any, Data: map[string]any{"title": i}}
	}
	if _, err := l.Append(t.Context(), unit...); err != nil {
		t.Fatal(err)
	}
	execute(t, db, "delete from event_snapshots where aggregate_id = $1", long.ID)
	states, err := store.States(t.Context(), []event.Ref{broken, good, pruned, long, good})
	if err != nil {
		t.Fatal(err)
	}
	for i, told := range []bool{false, true, false, false, true} {
		if got := states[i] != nil && states[i].Version == 12; got != told {
			t.Errorf("the %d. state is %+v, want one that is told: %v", i+1, states[i], told)
		}
	}
	for ref, want := range map[event.Ref]string{broken: "12 <nil>", pruned: "0 " + event.ErrPruned.Error(), long: "1000 <nil>"} {
		if s, err := store.State(t.Context(), ref, event.At{}); fmt.Sprint(s.Version, " ", err) != want {
			t.Errorf("State: %d %v, want %s", s.Version, err, want)
		}
	}
}

// TestASnapshotIsWrittenAlsoOfWhatIsTooLongToBeReadWithOthers lets three be due at once: one with more events than are read
// together, one with as many, one with few.
func TestASnapshotIsWrittenAlsoOfWhatIsTooLongToBeReadWithOthers(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	writer := runLog(t, event.LogConfig{DB: db, Schema: tallied(), SnapshotEvery: 1 << 30})
	late, err := event.NewLog(event.LogConfig{DB: db, Schema: tallied(), SnapshotEvery: 1})
	if err != nil {
		t.Fatal(err)
	}
	want := map[event.Ref]int{}
	for _, n := range []int{2100, 1000, 7} {
		ref := newRef("stream")
		want[ref] = n
		for rest := n; rest > 0; rest -= 700 {
			unit := make([]event.New, min(rest, 700))
			for i := range unit {
				unit[i] = event.New{Aggregate: ref, Name: "stream.changed", Expect: event.Any, Data: map[string]any{"title": i}}
			}
			events, failed := writer.Append(t.Context(), unit...)
			if failed != nil {
				t.Fatal(failed)
			}
			late.Committed(events)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- late.Run(ctx) }()
	for ref, n := range want {
		eventually(t, func() bool { return newestSnapshot(t, db, ref) == n })
	}
	stop()
	if failed := <-ended; failed != nil {
		t.Error(failed)
	}
	found, err := event.NewStore(db).With(tallied()).Verify(t.Context(), nil)
	if err != nil || !found.OK() || found.Snapshots != 3 {
		t.Errorf("%+v, %v", found, err)
	}
}

// BenchmarkStates reads entities of ten events each, together and one by one.
func BenchmarkStates(b *testing.B) {
	db := postgrestest.New(b)
	l := runLog(b, event.LogConfig{DB: db})
	refs := make([]event.Ref, 250)
	for i := range refs {
		refs[i] = newRef("stream")
		unit := make([]event.New, 10)
		for k := range unit {
			unit[k] = event.New{Aggregate: refs[i], Name: "stream.changed", Expect: event.Any, Data: map[string]any{"title": k}}
		}
		if _, err := l.Append(b.Context(), unit...); err != nil {
			b.Fatal(err)
		}
	}
	store := event.NewStore(db)
	for name, read := range map[string]func() error{
		"together": func() error {
			_, err := store.States(b.Context(), refs)
			return err
		},
		"one by one": func() error {
			for _, r := range refs {
				if _, err := store.State(b.Context(), r, event.At{}); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := read(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(b.Elapsed().Seconds()*1e6/float64(b.N*len(refs)), "µs/entity")
		})
	}
}
