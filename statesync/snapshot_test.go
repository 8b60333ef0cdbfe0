package statesync_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/statesync"
)

var states = rapid.Custom(func(t *rapid.T) statesync.State {
	s := statesync.State{Format: 1, Epoch: 1, Vector: [event.Shards]int64{0: rapid.Int64Range(0, 9).Draw(t, "seq")}}
	for i := range byte(5) {
		if rapid.Bool().Draw(t, "there") {
			s.Docs = append(s.Docs, statesync.StateDoc{
				Type: "thing", ID: uuid.UUID{0: i + 1}, Version: rapid.Int64Range(1, 3).Draw(t, "version"), At: time.Unix(1, 0).UTC(),
				Deleted: rapid.Bool().Draw(t, "deleted"), Data: map[string]any{"n": json.Number(rapid.SampledFrom([]string{"1", "2"}).Draw(t, "n"))},
			})
		}
	}
	return s
})

func TestADeltaMakesTheSecondStateOfTheFirst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := states.Draw(t, "from"), states.Draw(t, "to")
		d, err := statesync.Diff(from, to)
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.Apply(from)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(to, got); diff != "" {
			t.Fatal(diff)
		}
		other := states.Draw(t, "other")
		if _, err := d.Apply(other); (err == nil) != cmp.Equal(from, other) {
			t.Fatalf("applied to %v: %v", other, err)
		}
	})
}

func TestSnapshotsEqualWhatTheLogSays(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	a := start(t, db, nil)
	var refs []event.Ref
	for range 12 {
		refs = append(refs, ref("thing"), ref("held"))
	}
	change := func() {
		for i, r := range refs {
			a.set(t, r, "n", uuid.NewString())
			a.set(t, r, "list", []any{i, nil, 1.25, map[string]any{"x": nil}})
		}
		if _, err := a.Delete(t.Context(), refs[3], statesync.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	bytesOf := func(s statesync.State, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		b, err := s.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	change()
	full, err := a.SnapshotFull(t.Context())
	if err != nil || full.Entities != 24 || full.Kind != "full" || full.Bytes == 0 {
		t.Fatalf("%+v, %v", full, err)
	}
	before := bytesOf(a.LoadSnapshot(t.Context(), full.ID))
	if before != bytesOf(a.Rebuild(t.Context())) {
		t.Error("the snapshot is not what the log says")
	}
	refs = append(refs, ref("thing"))
	change()
	delta, err := a.SnapshotDelta(t.Context(), full.ID)
	if err != nil || delta.Kind != "delta" || *delta.Base != full.ID {
		t.Fatalf("%+v, %v", delta, err)
	}
	now := bytesOf(a.Rebuild(t.Context()))
	if now == before || bytesOf(a.LoadSnapshot(t.Context(), delta.ID)) != now || bytesOf(a.Current(t.Context())) != now {
		t.Error("snapshot and delta are not what the log says")
	}
	change()
	second, err := a.SnapshotDelta(t.Context(), delta.ID)
	if err != nil {
		t.Fatal(err)
	}
	last := bytesOf(a.Rebuild(t.Context()))
	if bytesOf(a.LoadSnapshot(t.Context(), second.ID)) != last {
		t.Error("a chain of deltas is not what the log says")
	}
	list, err := a.Snapshots(t.Context(), 10)
	if err != nil || len(list) != 3 || list[0].ID != second.ID {
		t.Errorf("%+v, %v", list, err)
	}

	b := start(t, db, nil) // holds a type from the snapshot on
	eventually(t, "it holds what it should", func() bool { return b.Status().Documents >= 12 })

	n, err := a.RestoreSnapshot(t.Context(), full.ID, nil, true)
	if err != nil || n != 23 {
		t.Errorf("%d entities differ, %v; want 23: one was deleted then and now", n, err)
	}
	if n, err = a.RestoreSnapshot(t.Context(), full.ID, nil, false); err != nil || n != 23 {
		t.Errorf("%d entities were restored, %v", n, err)
	}
	if n, err = a.RestoreSnapshot(t.Context(), full.ID, nil, true); err != nil || n != 0 {
		t.Errorf("%d entities still differ, %v", n, err)
	}
}

func TestSnapshotsThatAreNotAreRefused(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	a := start(t, db, nil)
	a.set(t, ref("thing"), "n", 1)
	if _, err := a.LoadSnapshot(t.Context(), uuid.New()); !errors.Is(err, statesync.ErrNoSnapshot) {
		t.Error(err)
	}
	if _, err := a.Snapshots(t.Context(), 0); errs.KindOf(err) != errs.Invalid {
		t.Error(err)
	}
	s, err := a.SnapshotFull(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, damage := range []string{"overlay(content placing '\\x00' from 60)", "substr(content, 1, 50)", "'\\x'"} {
		if _, err := db.Exec(t.Context(), "update sync_snapshots set content = "+damage); err != nil {
			t.Fatal(err)
		}
		if _, err := a.LoadSnapshot(t.Context(), s.ID); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", damage, err)
		}
	}
}

func TestSnapshotsAreTakenOnSchedule(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil, func(c *statesync.Config) {
		c.SnapshotEvery, c.KeepSnapshots = 30*time.Millisecond, 2
	})
	a.set(t, ref("thing"), "n", 1)
	seen := map[uuid.UUID]bool{}
	eventually(t, "five snapshots, of which the newest are kept", func() bool {
		list, err := a.Snapshots(t.Context(), 10)
		for _, s := range list {
			seen[s.ID] = true
		}
		return err == nil && len(seen) >= 5 && len(list) <= 3 // one may have just come
	})
}

func TestErasureReachesEverySnapshot(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	a := start(t, db, nil)
	gone, stays := ref("thing"), ref("thing")
	a.set(t, gone, "word", "secret-1")
	a.set(t, stays, "word", "kept-1")
	keep := func(s statesync.SnapshotInfo, err error) uuid.UUID {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s.ID
	}
	ids := []uuid.UUID{keep(a.SnapshotFull(t.Context()))}
	for n := range 2 {
		a.set(t, gone, "more", []any{"secret-2", n})
		a.set(t, stays, "n", n)
		ids = append(ids, keep(a.SnapshotDelta(t.Context(), ids[n])))
	}
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		_, failed := a.Erase(t.Context(), tx, gone)
		return failed
	})
	if err != nil {
		t.Fatal(err)
	}
	start(t, db, nil) // who starts looks
	for n, id := range ids {
		eventually(t, "a snapshot holds only what was not erased", func() bool {
			s, failed := a.LoadSnapshot(t.Context(), id)
			text := asJSON(t, s)
			return failed == nil && !strings.Contains(text, "secret") && strings.Contains(text, "kept-1") && len(s.Docs) == 2 &&
				(n == 0 || strings.Contains(text, fmt.Sprintf(`"n":%d`, n-1)))
		})
	}
	s, err := a.LoadSnapshot(t.Context(), keep(a.SnapshotDelta(t.Context(), ids[2]))) // what was rewritten can be gone on from
	if err != nil {
		t.Fatal(err)
	}
	if want, err := a.Rebuild(t.Context()); err != nil || asJSON(t, s) != asJSON(t, want) {
		t.Errorf("the state is %v, rebuilt %v, %v", s, want, err)
	}
	if d, err := a.Get(t.Context(), gone, statesync.Latest()); err != nil || len(d.Data) != 0 {
		t.Errorf("what was erased is %v, %v", d.Data, err)
	}
}

func TestOneInstanceTakesTheSnapshotOfAll(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	var all []*instance
	for range 3 {
		all = append(all, start(t, db, nil, func(c *statesync.Config) { c.SnapshotEvery = time.Hour }))
	}
	var wg sync.WaitGroup
	for _, n := range all {
		for range 4 {
			wg.Go(func() {
				if err := n.Scheduled(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if list, err := all[0].Snapshots(t.Context(), 10); err != nil || len(list) != 1 {
		t.Errorf("%d snapshots, %v", len(list), err)
	}
}
