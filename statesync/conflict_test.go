package statesync_test

import (
	"encoding/json"
	"errors"
	"sync"
	"testing"

	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/statesync"
)

func TestALostRaceIsDecidedByTheType(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	base := map[string]any{"status": "offline", "peak": 5, "total": 10, "title": "base", "gone": 1}
	theirs := map[string]any{"status": "ended", "peak": 9, "total": 12, "title": "base", "gone": 1, "theirs": 1}
	mine := map[string]any{"status": "live", "peak": 7, "total": 11, "title": "mine"}
	for _, tt := range []struct {
		kind, want, rule string
		err              error
	}{
		{"thing", `{"gone":1,"peak":9,"status":"ended","theirs":1,"title":"base","total":12}`, "", event.ErrVersion},
		{"mine", `{"peak":7,"status":"live","title":"mine","total":11}`, "rebase:retry", nil},
		{"theirs", `{"gone":1,"peak":9,"status":"ended","theirs":1,"title":"base","total":12}`, "rebase:keep_theirs", nil},
		{"strict", `{"gone":1,"peak":9,"status":"ended","theirs":1,"title":"base","total":12}`, "rebase:reject", statesync.ErrRejected},
		{"held", `{"peak":9,"status":"ended","theirs":1,"title":"mine","total":13}`, "rebase:retry", nil},
	} {
		r := ref(tt.kind)
		put := func(data map[string]any, o statesync.UpdateOptions) (statesync.Result, error) {
			return a.Update(t.Context(), r, func(d *statesync.Doc) error { d.Data = data; return nil }, o)
		}
		for _, data := range []map[string]any{base, theirs} {
			if _, err := put(data, statesync.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		_, err := put(mine, statesync.UpdateOptions{Expect: new(int64(1))})
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, want %v", tt.kind, err, tt.err)
		}
		d, err := a.Get(t.Context(), r, statesync.Latest())
		if err != nil || asJSON(t, d.Data) != tt.want {
			t.Errorf("%s became %s, %v; want %s", tt.kind, asJSON(t, d.Data), err, tt.want)
		}
		list, _, err := a.Conflicts(t.Context(), statesync.ConflictPage{Ref: &r, Open: true})
		if err != nil || len(list) != min(1, len(tt.rule)) || len(list) == 1 && list[0].Rule != tt.rule {
			t.Errorf("%s: conflicts %+v, %v", tt.kind, list, err)
		}
		if _, err := put(mine, statesync.UpdateOptions{Expect: new(int64(77))}); !errors.Is(err, event.ErrVersion) {
			t.Errorf("%s: a version that is not there yet: %v", tt.kind, err)
		}
		if _, err := put(mine, statesync.UpdateOptions{Expect: new(int64(0))}); tt.kind == "thing" && !errors.Is(err, event.ErrVersion) {
			t.Errorf("%s: it is there: %v", tt.kind, err)
		}
	}
}

func TestTheLoserIsRestored(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	r := ref("theirs")
	a.set(t, r, "n", 1)
	a.set(t, r, "n", 2)
	_, err := a.Update(t.Context(), r, func(d *statesync.Doc) error { d.Data["n"] = 3; return nil }, statesync.UpdateOptions{Expect: new(int64(1))})
	if err != nil {
		t.Fatal(err)
	}
	list, _, err := a.Conflicts(t.Context(), statesync.ConflictPage{})
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	actor := uuid.New()
	for range 2 { // the second time changes nothing
		res, e := a.RestoreLoser(t.Context(), list[0].ID, &actor)
		if e != nil || asJSON(t, res.Doc.Data) != `{"n":3}` || res.Version != 3 {
			t.Errorf("%+v, %v", res, e)
		}
	}
	open, _, err := a.Conflicts(t.Context(), statesync.ConflictPage{Open: true})
	if err != nil || len(open) != 0 {
		t.Errorf("still open: %+v, %v", open, err)
	}
	if _, err := a.RestoreLoser(t.Context(), uuid.New(), nil); !errors.Is(err, statesync.ErrNoConflict) {
		t.Errorf("no such conflict: %v", err)
	}
}

func TestConflictsComeInPages(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	r := ref("theirs")
	a.set(t, r, "n", -1)
	for i := range 5 {
		a.set(t, r, "n", i)
		_, err := a.Update(t.Context(), r, func(d *statesync.Doc) error { d.Data["m"] = i; return nil }, statesync.UpdateOptions{Expect: new(int64(1))})
		if err != nil {
			t.Fatal(err)
		}
	}
	var seen []string
	for cursor := ""; ; {
		list, next, err := a.Conflicts(t.Context(), statesync.ConflictPage{Cursor: cursor, Limit: 2})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			seen = append(seen, string(c.Loser))
		}
		if cursor = next; next == "" {
			break
		}
	}
	if want := `["{\"m\": 4, \"n\": -1}","{\"m\": 3, \"n\": -1}","{\"m\": 2, \"n\": -1}","{\"m\": 1, \"n\": -1}","{\"m\": 0, \"n\": -1}"]`; asJSON(t, seen) != want {
		t.Errorf("%s, want %s", asJSON(t, seen), want)
	}
	for _, p := range []statesync.ConflictPage{{Limit: -1}, {Limit: 1001}, {Cursor: "x"}} {
		if _, _, err := a.Conflicts(t.Context(), p); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

// TestCommitsThatPostgresLostAreInTheConflictLog removes the last events, as an older copy of the database would.
func TestCommitsThatPostgresLostAreInTheConflictLog(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	a, b := start(t, db, nil), start(t, db, nil)
	r := ref("thing")
	a.set(t, r, "n", 1)
	last := a.set(t, r, "n", 2)
	if _, err := b.Get(t.Context(), r, statesync.AtLeast(last.Token)); err != nil {
		t.Fatal(err)
	}
	if err := a.WaitAll(t.Context(), last.Token); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b has it", func() bool { return b.Status().Applied == a.Status().Applied })
	if _, err := db.Exec(t.Context(), "delete from events where aggregate_id = $1 and version = 2", r.ID); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*instance{a, b} {
		eventually(t, "a new epoch begins", func() bool { return n.Status().Epoch == 2 })
		d, err := n.Get(t.Context(), r, statesync.Local())
		if err != nil || d.Version != 1 || d.Data["n"] != json.Number("1") {
			t.Errorf("%+v, %v", d, err)
		}
		if _, err := n.Get(t.Context(), r, statesync.AtLeast(last.Token)); err != nil {
			t.Errorf("a token of the old epoch: %v", err)
		}
		if err := n.WaitAll(t.Context(), last.Token); err == nil {
			t.Error("all have applied what is lost")
		}
	}
	var list []statesync.Conflict
	eventually(t, "what was lost is on record", func() bool {
		var err error
		list, _, err = b.Conflicts(t.Context(), statesync.ConflictPage{Ref: &r})
		return err == nil && len(list) == 1
	})
	if list[0].Rule != "orphan" || string(list[0].Loser) != `{"n": 2}` {
		t.Errorf("%+v", list[0])
	}
	if res, err := b.RestoreLoser(t.Context(), list[0].ID, nil); err != nil || asJSON(t, res.Doc.Data) != `{"n":2}` {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestWhatCannotBeNotedIsNotDecided(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	a := start(t, db, nil)
	late := func(r event.Ref) error {
		_, err := a.Update(t.Context(), r, func(d *statesync.Doc) error {
			d.Data["n"] = 3
			return nil
		}, statesync.UpdateOptions{Expect: new(int64(1)), IdempotencyKey: "late:" + r.String()})
		return err
	}
	for _, kind := range []string{"mine", "theirs", "strict"} {
		r := ref(kind)
		a.set(t, r, "n", 1)
		a.set(t, r, "n", 2)
		if _, err := db.Exec(t.Context(), "alter table sync_conflicts rename to elsewhere"); err != nil {
			t.Fatal(err)
		}
		if err := late(r); err == nil || errors.Is(err, postgres.ErrCommitUnknown) || errors.Is(err, statesync.ErrRejected) {
			t.Errorf("%s: there is no conflict log: %v", kind, err)
		}
		if d, err := a.Get(t.Context(), r, statesync.Latest()); err != nil || d.Version != 2 {
			t.Errorf("%s: version %d, %v", kind, d.Version, err)
		}
		if _, err := db.Exec(t.Context(), "alter table elsewhere rename to sync_conflicts"); err != nil {
			t.Fatal(err)
		}
		if err := late(r); err != nil && !errors.Is(err, statesync.ErrRejected) {
			t.Errorf("%s: the log is there again: %v", kind, err)
		}
		list, _, err := a.Conflicts(t.Context(), statesync.ConflictPage{Ref: &r})
		if err != nil || len(list) != 1 {
			t.Errorf("%s: conflicts %+v, %v", kind, list, err)
		}
	}
}

// TestARebaseUnderOneKeyHappensOnceWhoeverAsks has two instances decide about the same update at the same time.
func TestARebaseUnderOneKeyHappensOnceWhoeverAsks(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	nodes := []*instance{start(t, db, nil), start(t, db, nil)}
	for range 20 {
		r := ref("mine")
		nodes[0].set(t, r, "n", 1)
		nodes[0].set(t, r, "n", 2)
		versions := make(chan int64, 8)
		var wg sync.WaitGroup
		for i := range cap(versions) {
			wg.Go(func() {
				res, err := nodes[i%2].Update(t.Context(), r, func(d *statesync.Doc) error { d.Data["n"] = 3; return nil },
					statesync.UpdateOptions{Expect: new(int64(1)), IdempotencyKey: "once:" + r.String()})
				if err != nil {
					t.Error(err)
				}
				versions <- res.Version
			})
		}
		wg.Wait()
		for range cap(versions) {
			if v := <-versions; v != 3 {
				t.Errorf("it became version %d, want 3", v)
			}
		}
		list, _, err := nodes[0].Conflicts(t.Context(), statesync.ConflictPage{Ref: &r})
		if err != nil || len(list) != 1 {
			t.Errorf("%d conflicts, %v", len(list), err)
		}
	}
}
