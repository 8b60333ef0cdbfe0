package event_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// The log against a model: whatever units are appended one after the other, and told to be the case, is what the model says.
func TestTheLogAgreesWithAModel(t *testing.T) {
	t.Parallel()
	l, db := newLog(t)
	rapid.Check(t, func(rt *rapid.T) {
		refs := []event.Ref{newRef("stream"), newRef("stream"), newRef("stream")}
		versions, keys := map[event.Ref]int64{}, map[string][]event.Event{}
		run := uuid.NewString()
		for range rapid.IntRange(1, 8).Draw(rt, "units") {
			unit := make([]event.New, rapid.IntRange(1, 4).Draw(rt, "size"))
			after, want := map[event.Ref]int64{}, true
			for i := range unit {
				ref := refs[rapid.IntRange(0, 2).Draw(rt, "entity")]
				now := versions[ref] + after[ref]
				unit[i] = event.New{Aggregate: ref, Name: "stream.updated", Expect: rapid.SampledFrom([]int64{event.Any, now, now, now, now + 1}).Draw(rt, "expect")}
				want = want && (unit[i].Expect == event.Any || unit[i].Expect == now)
				after[ref]++
			}
			if rapid.Bool().Draw(rt, "with a key") {
				unit[0].IdempotencyKey = fmt.Sprintf("%s-%d", run, rapid.IntRange(0, 1).Draw(rt, "key"))
			}
			got, err := l.Append(context.Background(), unit...)
			if original, used := keys[unit[0].IdempotencyKey]; used {
				same := len(original) >= len(unit)
				for i := 0; same && i < len(unit); i++ {
					same = original[i].Ref() == unit[i].Aggregate
				}
				if same && (err != nil || cmp.Diff(original[:len(unit)], got, sameEvents) != "") || !same && !errors.Is(err, event.ErrDuplicate) {
					rt.Fatalf("repeat %+v = %+v, %v; the original is %+v", unit, got, err, original)
				}
				continue
			}
			if want != (err == nil) || !want && !errors.Is(err, event.ErrVersion) {
				rt.Fatalf("%+v at %v = %v, want success: %v", unit, versions, err, want)
			}
			if err != nil {
				continue
			}
			for _, e := range got {
				if versions[e.Ref()]++; e.Version != versions[e.Ref()] {
					rt.Fatalf("%s got version %d, want %d", e.Ref(), e.Version, versions[e.Ref()])
				}
			}
			if key := unit[0].IdempotencyKey; key != "" {
				keys[key] = got
			}
		}
	})
	mustVerify(t, db)
}

// BenchmarkLogAppend appends one event a call, from many callers.
func BenchmarkLogAppend(b *testing.B) {
	for _, callers := range []int{1, 16, 256, 1024} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			srv := postgrestest.Server(b)
			l := runLog(b, event.LogConfig{DB: postgrestest.Open(b, postgres.Config{DSN: srv.DSN()})})
			var n atomic.Int64
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					ref := newRef("stream")
					for i := 0; n.Add(1) <= int64(b.N); i++ {
						if i%50 == 0 {
							ref = newRef("stream")
						}
						_, err := l.Append(context.Background(), event.New{
							Aggregate: ref, Name: "stream.updated", Expect: event.Any,
							Data: map[string]any{"patch": map[string]any{"title": "a title of some length", "viewers": i}},
						})
						if err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
