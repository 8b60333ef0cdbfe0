package statesync_test

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/errs"
	"rootstream/event"
	"rootstream/postgres/postgrestest"
	"rootstream/statesync"
)

func TestAnUpdateIsReadEverywhere(t *testing.T) {
	t.Parallel()
	db, redis := postgrestest.New(t), cachetest.Server(t)
	a, b := start(t, db, redis.Client(t, cache.Config{})), start(t, db, redis.Client(t, cache.Config{}))
	r := ref("thing")
	if _, err := b.Get(t.Context(), r, statesync.Local()); !errors.Is(err, statesync.ErrNotFound) {
		t.Errorf("before it is made: %v", err)
	}
	for i := range 20 { // b has it in memory from the first round on
		res := a.set(t, r, "n", i)
		if res.Version != int64(i+1) || !res.Changed || asJSON(t, res.Doc.Data["n"]) != asJSON(t, i) {
			t.Fatalf("update %d: %+v", i, res)
		}
		d, err := b.Get(t.Context(), r, statesync.AtLeast(res.Token))
		if err != nil || d.Version < res.Version || asJSON(t, d.Data) != asJSON(t, res.Doc.Data) {
			t.Fatalf("read elsewhere: %+v, %v; want %v", d, err, res.Doc.Data)
		}
		d.Data["n"] = "spoilt" // a copy
	}
	latest, err := b.Get(t.Context(), r, statesync.Latest())
	if err != nil || latest.Version != 20 {
		t.Errorf("latest: %+v, %v", latest, err)
	}
	old, err := b.GetAt(t.Context(), r, event.At{Version: 5})
	if err != nil || old.Version != 5 || old.Data["n"] != json.Number("4") {
		t.Errorf("at version 5: %+v, %v", old, err)
	}
	if _, err := b.GetAt(t.Context(), r, event.At{Version: 99}); !errors.Is(err, statesync.ErrNotFound) {
		t.Errorf("at a version that is not: %v", err)
	}
	again := a.set(t, r, "n", 19)
	if again.Changed || again.Version != 20 {
		t.Errorf("nothing to change: %+v", again)
	}
	if err := a.WaitAll(t.Context(), again.Token); err != nil {
		t.Error(err)
	}
	if s := b.Status(); s.Documents == 0 || s.Bytes == 0 || s.Epoch != 1 || b.Token().IsZero() {
		t.Errorf("status %+v", s)
	}
}

func TestUpdatesOfManyInstancesAllCount(t *testing.T) {
	t.Parallel()
	db, redis := postgrestest.New(t), cachetest.Server(t)
	nodes := []*instance{start(t, db, redis.Client(t, cache.Config{})), start(t, db, redis.Client(t, cache.Config{})), start(t, db, nil)}
	r := ref("thing")
	var wg sync.WaitGroup
	for _, n := range nodes {
		for range 2 {
			wg.Go(func() {
				for done := 0; done < 15; {
					_, err := n.Update(t.Context(), r, func(d *statesync.Doc) error {
						have, _ := d.Data["n"].(json.Number)
						i, _ := have.Int64()
						d.Data["n"] = i + 1
						return nil
					}, statesync.UpdateOptions{})
					if err == nil {
						done++
					} else if !errors.Is(err, statesync.ErrBusy) {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	for _, n := range nodes {
		d, err := n.Get(t.Context(), r, statesync.Latest())
		if err != nil || d.Data["n"] != json.Number("90") || d.Version != 90 {
			t.Errorf("%+v, %v", d, err)
		}
	}
}

// TestAllInstancesConverge makes random changes on all of them and compares what they have in memory with the fold of
// the log.
func TestAllInstancesConverge(t *testing.T) {
	t.Parallel()
	db, redis := postgrestest.New(t), cachetest.Server(t)
	nodes := []*instance{start(t, db, redis.Client(t, cache.Config{})), start(t, db, redis.Client(t, cache.Config{}))}
	var refs []event.Ref
	for range 8 {
		refs = append(refs, ref("thing"), ref("held"))
	}
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 7))
			for range 150 {
				at := refs[r.IntN(len(refs))]
				var err error
				switch r.IntN(8) {
				case 0:
					_, err = n.Delete(t.Context(), at, statesync.UpdateOptions{})
				case 1:
					_, err = n.Get(t.Context(), at, statesync.Local())
				case 2:
					redis.FlushAll()
				default:
					patch := map[string]any{string(rune('a' + r.IntN(3))): []any{nil, r.IntN(5), 1.5e3, map[string]any{"x": r.IntN(3)}}[r.IntN(4)]}
					_, err = n.Patch(t.Context(), at, json.RawMessage(asJSON(t, patch)), statesync.UpdateOptions{})
				}
				if err != nil && !errors.Is(err, statesync.ErrNotFound) && !errors.Is(err, statesync.ErrBusy) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	want, err := nodes[0].Rebuild(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		eventually(t, "everything is applied", func() bool { return n.Status().Applied == want.Vector })
		for _, d := range want.Docs {
			got, err := n.Get(t.Context(), d.Ref(), statesync.Local())
			if d.Deleted != errors.Is(err, statesync.ErrNotFound) || (err == nil && (got.Version != d.Version || asJSON(t, got.Data) != asJSON(t, d.Data))) {
				t.Errorf("%v: %v version %d, %v; want %v version %d", d.Ref(), got.Data, got.Version, err, d.Data, d.Version)
			}
		}
	}
}

func TestTheSameUpdateHappensOnce(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	r := ref("thing")
	a.set(t, r, "n", 1)
	add := func(d *statesync.Doc) error {
		d.Data["list"] = append(d.Data["list"].([]any), len(d.Data["list"].([]any)))
		return nil
	}
	a.set(t, r, "list", []any{})
	for _, o := range []statesync.UpdateOptions{
		{IdempotencyKey: "k1"}, {IdempotencyKey: "k2", Expect: new(int64(3))},
	} {
		first, err := a.Update(t.Context(), r, add, o)
		if err != nil {
			t.Fatal(err)
		}
		again, err := a.Update(t.Context(), r, add, o)
		if err != nil || again.Version != first.Version || again.Token != first.Token || asJSON(t, again.Doc.Data) != asJSON(t, first.Doc.Data) {
			t.Errorf("again: %+v, %v; want %+v", again, err, first)
		}
	}
	d, err := a.Get(t.Context(), r, statesync.Latest())
	if err != nil || asJSON(t, d.Data["list"]) != "[0,1]" {
		t.Errorf("%v, %v", d.Data, err)
	}
}

// TestAnUpdateIsAnsweredAsThenThoughNothingIsLeftToDo has one asked for again that is in the state already, which somebody
// else has changed in another field since.
func TestAnUpdateIsAnsweredAsThenThoughNothingIsLeftToDo(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	r, o := ref("thing"), statesync.UpdateOptions{IdempotencyKey: "mine"}
	mine := func(d *statesync.Doc) error { d.Data["mine"] = 1; return nil }
	first, err := a.Update(t.Context(), r, mine, o)
	if err != nil {
		t.Fatal(err)
	}
	theirs := a.set(t, r, "theirs", 1)
	again, err := a.Update(t.Context(), r, mine, o)
	if err != nil || again.Version != first.Version || again.Token != first.Token || !again.Changed || asJSON(t, again.Doc.Data) != `{"mine":1}` {
		t.Errorf("again: %+v, %v; want %+v", again, err, first)
	}
	other, err := a.Update(t.Context(), r, mine, statesync.UpdateOptions{IdempotencyKey: "new"})
	if err != nil || other.Version != theirs.Version || other.Changed {
		t.Errorf("under a key that is new: %+v, %v; want version %d, unchanged", other, err, theirs.Version)
	}
}

// TestAnotherUpdateUnderAUsedKeyIsNotTakenForIt has somebody use a key twice, the second time where the first has not been heard of.
func TestAnotherUpdateUnderAUsedKeyIsNotTakenForIt(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	a, b := start(t, db, nil), start(t, db, nil)
	r, o := ref("thing"), statesync.UpdateOptions{IdempotencyKey: "one"}
	before := a.set(t, r, "n", "none")
	if _, err := b.Get(t.Context(), r, statesync.AtLeast(before.Token)); err != nil {
		t.Fatal(err)
	}
	to := func(value string) func(*statesync.Doc) error {
		return func(d *statesync.Doc) error {
			d.Data["n"] = value
			return nil
		}
	}
	var once sync.Once
	got, err := b.Update(t.Context(), r, func(d *statesync.Doc) error {
		once.Do(func() {
			if _, err := a.Update(t.Context(), r, to("first"), o); err != nil {
				t.Error(err)
			}
		})
		return to("second")(d)
	}, o)
	if err != nil || got.Version != 2 || got.Doc.Data["n"] != "first" {
		t.Errorf("the second is answered with %+v, %v", got, err)
	}
	for name, n := range map[string]*instance{"a": a, "b": b} {
		for _, read := range []statesync.Read{statesync.AtLeast(got.Token), statesync.Local(), statesync.Latest()} {
			if d, err := n.Get(t.Context(), r, read); err != nil || d.Version != 2 || d.Data["n"] != "first" {
				t.Errorf("%s has %+v, %v", name, d, err)
			}
		}
	}
}

func TestWhatCannotBeADocumentIsRefused(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	deep := map[string]any{}
	for range 40 {
		deep = map[string]any{"a": deep}
	}
	deepList := []any{}
	for range 40 {
		deepList = []any{deepList}
	}
	many := map[string]any{}
	for range 5000 {
		many[uuid.NewString()[:8]] = 1
	}
	for name, data := range map[string]map[string]any{
		"too long":             {"a": strings.Repeat("x", 64<<10)},
		"too deep":             deep,
		"too deep, in lists":   {"a": deepList},
		"too many fields":      many,
		"our own field":        {"_deleted": true},
		"NUL":                  {"a": "x\x00"},
		"NUL in a name":        {"a\x00": 1},
		"a number too large":   {"a": json.Number("1e400")},
		"a long name":          {strings.Repeat("a", 300): 1},
		"what is not JSON":     {"a": func() {}},
		"a number of no sense": {"a": json.Number("one")},
	} {
		r := ref("thing")
		_, err := a.Update(t.Context(), r, func(d *statesync.Doc) error { d.Data = data; return nil }, statesync.UpdateOptions{})
		if errs.KindOf(err) != errs.Invalid || len(errs.FieldsOf(err)) == 0 {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := a.Get(t.Context(), r, statesync.Latest()); !errors.Is(err, statesync.ErrNotFound) {
			t.Errorf("%s left something: %v", name, err)
		}
	}
	for _, patch := range []string{"", "[]", "null", `{"a":1} 2`, `{"a":`, "{}{}"} {
		if _, err := a.Patch(t.Context(), ref("thing"), json.RawMessage(patch), statesync.UpdateOptions{}); errs.KindOf(err) != errs.Malformed {
			t.Errorf("patch %q: %v", patch, err)
		}
	}
}

func TestWhoMayChangeWhat(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	nothing := func(*statesync.Doc) error { return nil }
	change := func(d *statesync.Doc) error { d.Data["status"] = "x"; return nil }
	for _, tt := range []struct {
		name string
		ref  event.Ref
		o    statesync.UpdateOptions
		fn   func(*statesync.Doc) error
		kind errs.Kind
	}{
		{"unknown type", ref("nothing"), statesync.UpdateOptions{}, nothing, errs.NotFound},
		{"volatile", ref("viewers"), statesync.UpdateOptions{}, nothing, errs.Invalid},
		{"no id", event.Ref{Type: "thing"}, statesync.UpdateOptions{}, nothing, errs.Invalid},
		{"read-only", ref("session"), statesync.UpdateOptions{}, change, errs.Forbidden},
		{"reserved", ref("stream"), statesync.UpdateOptions{}, change, errs.Invalid},
		{"negative version", ref("thing"), statesync.UpdateOptions{Expect: new(int64(-1))}, change, errs.Invalid},
		{"our name", ref("thing"), statesync.UpdateOptions{Name: "thing.deleted"}, change, errs.Invalid},
		{"no name", ref("thing"), statesync.UpdateOptions{Name: "Ä"}, change, errs.Invalid},
	} {
		if _, err := a.Update(t.Context(), tt.ref, tt.fn, tt.o); errs.KindOf(err) != tt.kind {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	sentinel := errors.New("no")
	if _, err := a.Update(t.Context(), ref("thing"), func(*statesync.Doc) error { return sentinel }, statesync.UpdateOptions{}); !errors.Is(err, sentinel) {
		t.Errorf("fn's error became %v", err)
	}
	if _, err := a.Delete(t.Context(), ref("session"), statesync.UpdateOptions{}); !errors.Is(err, statesync.ErrReadOnly) {
		t.Error(err)
	}
	if _, err := a.Publish(t.Context(), ref("thing"), "thing.changed", nil, statesync.UpdateOptions{}); errs.KindOf(err) != errs.Invalid {
		t.Error(err)
	}
	if _, err := a.Publish(t.Context(), ref("thing"), "thing.told", map[string]any{"_change": 1}, statesync.UpdateOptions{}); errs.KindOf(err) != errs.Invalid {
		t.Error(err)
	}
}

func TestEventsOfARoomChangeItsEntities(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	r := ref("stream")
	a.set(t, r, "title", "one")
	if _, err := a.log.Append(t.Context(), event.New{Aggregate: r, Name: "stream.started", Expect: event.Any}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is live", func() bool {
		d, err := a.Get(t.Context(), r, statesync.Local())
		return err == nil && d.Data["status"] == "live" && d.Data["title"] == "one"
	})
	a.set(t, r, "title", "two")
	named, err := a.Update(t.Context(), r, func(d *statesync.Doc) error { d.Data["title"] = "three"; return nil },
		statesync.UpdateOptions{Name: "stream.renamed"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Publish(t.Context(), r, "stream.raided", map[string]any{"by": "x"}, statesync.UpdateOptions{Expect: new(named.Version)}); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"title": "three", "status": "live"}
	for name, read := range map[string]statesync.Read{"local": statesync.AtLeast(a.Token()), "latest": statesync.Latest()} {
		d, err := a.Get(t.Context(), r, read)
		if err != nil || d.Version < 4 || cmp.Diff(want, d.Data) != "" {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}

func TestWhatIsPublishedIsNoChangeWhateverItQuotes(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	a := start(t, db, nil)
	r := ref("stream")
	a.set(t, r, "title", "mine")
	for _, data := range []map[string]any{
		{"about": map[string]any{"_change": 1}, "patch": map[string]any{"title": "theirs"}},
		{"about": "_change", "patch": map[string]any{"title": "theirs"}},
		{"about": []any{"_change"}, "doc": map[string]any{"title": "theirs"}},
	} {
		if _, err := a.Publish(t.Context(), r, "stream.quoted", data, statesync.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		d, err := a.Get(t.Context(), r, statesync.Latest())
		if err != nil || d.Data["title"] != "mine" {
			t.Errorf("after %s: %v, %v", asJSON(t, data), d.Data, err)
		}
	}
}

func TestADeletedEntityMayComeBack(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	a, b := start(t, db, nil), start(t, db, nil)
	r := ref("thing")
	a.set(t, r, "old", nil) // a null is kept
	d, err := b.Get(t.Context(), r, statesync.Latest())
	if v, there := d.Data["old"]; err != nil || v != nil || !there {
		t.Errorf("%v, %v", d.Data, err)
	}
	gone, err := a.Delete(t.Context(), r, statesync.UpdateOptions{Expect: new(int64(1))})
	if err != nil || gone.Version != 2 || !gone.Doc.Deleted {
		t.Fatalf("%+v, %v", gone, err)
	}
	for _, n := range []*instance{a, b} {
		if _, err = n.Get(t.Context(), r, statesync.AtLeast(gone.Token)); !errors.Is(err, statesync.ErrNotFound) {
			t.Errorf("after it was deleted: %v", err)
		}
		if _, err = n.Delete(t.Context(), r, statesync.UpdateOptions{}); !errors.Is(err, statesync.ErrNotFound) {
			t.Errorf("deleted twice: %v", err)
		}
	}
	back := b.set(t, r, "new", 1)
	if back.Version != 3 || asJSON(t, back.Doc.Data) != `{"new":1}` {
		t.Errorf("back as %+v", back)
	}
	d, err = a.Get(t.Context(), r, statesync.AtLeast(back.Token))
	if err != nil || asJSON(t, d.Data) != `{"new":1}` {
		t.Errorf("%v, %v", d.Data, err)
	}
}

// TestWhatMustBeThereIsNotMadeAnew has an entity end while somebody changes it.
func TestWhatMustBeThereIsNotMadeAnew(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	r, o := ref("thing"), statesync.UpdateOptions{There: true}
	patch := []byte(`{"n":2}`)
	if _, err := a.Patch(t.Context(), r, patch, o); !errors.Is(err, statesync.ErrNotFound) {
		t.Errorf("what was never there: %v", err)
	}
	a.set(t, r, "n", 1)
	if res, err := a.Patch(t.Context(), r, patch, o); err != nil || res.Version != 2 {
		t.Errorf("what is there: %+v, %v", res, err)
	}
	release := a.occupy(t, r)
	done := make(chan error, 1)
	go func() {
		_, err := a.Patch(t.Context(), r, patch, o)
		done <- err
	}()
	if _, err := a.log.Append(t.Context(), event.New{Aggregate: r, Name: "thing.deleted", Expect: 2}); err != nil {
		t.Fatal(err)
	}
	release()
	if err := <-done; !errors.Is(err, statesync.ErrNotFound) {
		t.Errorf("what has ended: %v", err)
	}
	if d, err := a.Get(t.Context(), r, statesync.Latest()); !errors.Is(err, statesync.ErrNotFound) {
		t.Errorf("it is %+v, %v", d, err)
	}
}

func TestADeletionUnderTheSameKeyHappensOnce(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	r := ref("thing")
	a.set(t, r, "x", 1)
	o := statesync.UpdateOptions{IdempotencyKey: "end"}
	first, err := a.Delete(t.Context(), r, o)
	if err != nil || !first.Doc.Deleted || first.Version != 2 {
		t.Fatalf("the first: version %d, deleted %v, %v", first.Version, first.Doc.Deleted, err)
	}
	if again, err := a.Delete(t.Context(), r, o); err != nil || again.Version != 2 || !again.Doc.Deleted {
		t.Errorf("once more: version %d, deleted %v, %v", again.Version, again.Doc.Deleted, err)
	}
	if _, err := a.Delete(t.Context(), r, statesync.UpdateOptions{IdempotencyKey: "another"}); !errors.Is(err, statesync.ErrNotFound) {
		t.Errorf("under another key: %v", err)
	}
	if _, err := a.Delete(t.Context(), ref("thing"), o); !errors.Is(err, statesync.ErrNotFound) {
		t.Errorf("of what was never there: %v", err)
	}
	a.set(t, r, "x", 2)
	if again, err := a.Delete(t.Context(), r, o); err != nil || again.Version != 2 {
		t.Errorf("after it came back: version %d, %v", again.Version, err)
	}
	if d, err := a.Get(t.Context(), r, statesync.Latest()); err != nil || d.Version != 3 {
		t.Errorf("what came back is at version %d, %v", d.Version, err)
	}
}

func TestAnUpdateOfAnyVersionIsMadeHoweverManyRace(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	var all []*instance
	for range 4 {
		all = append(all, start(t, db, nil))
	}
	r := ref("thing")
	const each = 15
	var wg sync.WaitGroup
	for i, n := range all {
		wg.Go(func() {
			for range each {
				_, err := n.Update(t.Context(), r, func(d *statesync.Doc) error {
					count, _ := d.Data["n"].(json.Number)
					v, _ := count.Int64()
					d.Data["n"] = v + 1
					<-time.After(time.Duration(i) * time.Millisecond) // the others come in between
					return nil
				}, statesync.UpdateOptions{})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	d, err := all[0].Get(t.Context(), r, statesync.Latest())
	if want := json.Number(strconv.Itoa(each * len(all))); err != nil || d.Data["n"] != want {
		t.Errorf("%v, %v, want %s", d.Data, err, want)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = all[0].Update(ctx, r, func(d *statesync.Doc) error { // who is always outrun gives up when its time is over
		all[1].set(t, r, "by", uuid.NewString())
		d.Data["late"] = true
		return nil
	}, statesync.UpdateOptions{})
	if errs.KindOf(err) != errs.Unavailable {
		t.Errorf("always outrun: %v", err)
	}
}

func TestWhatIsThereOnceDoesNotComeBack(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	r := ref("once")
	a.set(t, r, "n", 1)
	s, err := a.SnapshotFull(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Delete(t.Context(), r, statesync.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, o := range []statesync.UpdateOptions{{}, {Expect: new(int64(1))}, {Expect: new(int64(2))}} {
		_, err := a.Update(t.Context(), r, func(d *statesync.Doc) error { d.Data["n"] = 2; return nil }, o)
		if !errors.Is(err, statesync.ErrNotFound) && !errors.Is(err, event.ErrVersion) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if n, err := a.RestoreSnapshot(t.Context(), s.ID, nil, false); n != 0 || err != nil {
		t.Errorf("restored %d, %v", n, err)
	}
	if d, err := a.Get(t.Context(), r, statesync.Latest()); !errors.Is(err, statesync.ErrNotFound) || d.Version != 2 {
		t.Errorf("it is at version %d, %v", d.Version, err)
	}
}
