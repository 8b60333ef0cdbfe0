package event_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/event/codec"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// tally counts events by name, keeps the newest title and a list: a fold whose state grows and shrinks.
func tally(state map[string]any, e event.Event) (map[string]any, error) {
	fields, err := e.Fields()
	if err != nil {
		return nil, err
	}
	var n int64
	if count, ok := state["count"].(json.Number); ok {
		if n, err = count.Int64(); err != nil {
			return nil, err
		}
	}
	state["count"] = json.Number(fmt.Sprint(n + 1))
	if title, ok := fields["title"]; ok {
		state["title"] = title
	}
	if e.Name == "stream.reset" {
		delete(state, "title")
	}
	return state, nil
}

func tallied() *event.Schema {
	s := event.NewSchema()
	s.Fold("stream", 1, tally)
	return s
}

func text(t testing.TB, state map[string]any) string { //nolint:thelper // for benchmarks too
	t.Helper()
	b, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func snapshots(t testing.TB, db *postgres.DB, r event.Ref) (n int) { //nolint:thelper // for benchmarks too
	t.Helper()
	err := db.QueryRow(context.Background(), "select count(*) from event_snapshots where aggregate_type = $1 and aggregate_id = $2", r.Type, r.ID).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func newestSnapshot(t testing.TB, db *postgres.DB, r event.Ref) (v int) { //nolint:thelper // for benchmarks too
	t.Helper()
	err := db.QueryRow(context.Background(), `select coalesce(max(version), 0) from event_snapshots
		where aggregate_type = $1 and aggregate_id = $2`, r.Type, r.ID).Scan(&v)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func execute(t testing.TB, db *postgres.DB, sql string, args ...any) { //nolint:thelper // for benchmarks too
	t.Helper()
	if _, err := db.Exec(context.Background(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// history appends n events of one entity, one commit each, and waits for the snapshots that makes.
func history(t testing.TB, l *event.Log, db *postgres.DB, n, every int) event.Ref { //nolint:thelper // for benchmarks too
	t.Helper()
	ref := newRef("stream")
	for i := range n {
		e := event.New{Aggregate: ref, Name: "stream.changed", Expect: event.Any, Data: map[string]any{"title": fmt.Sprint("title ", i+1)}}
		if i%7 == 6 {
			e.Name, e.Data = "stream.reset", nil
		}
		if _, err := l.Append(context.Background(), e); err != nil {
			t.Fatal(err)
		}
		if (i+1)%every == 0 { // one after the other, so that none finds the list of what is due full
			for deadline := time.Now().Add(30 * time.Second); newestSnapshot(t, db, ref) < i+1; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("the newest snapshot is at %d, want %d", newestSnapshot(t, db, ref), i+1)
				}
			}
		}
	}
	return ref
}

func TestReplayEqualsSnapshotsAtEveryVersion(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	schema := tallied()
	l := runLog(t, event.LogConfig{DB: db, Schema: schema, SnapshotEvery: 3, KeepSnapshots: 1000})
	store := event.NewStore(db).With(schema)
	rapid.Check(t, func(rt *rapid.T) {
		ref, ctx := newRef("stream"), context.Background()
		n := rapid.IntRange(1, 14).Draw(rt, "events")
		var model []string // the state at version i+1
		state := map[string]any{}
		for i := range n {
			e := event.New{Aggregate: ref, Name: rapid.SampledFrom([]string{"stream.changed", "stream.reset"}).Draw(rt, "name"), Expect: int64(i)}
			if rapid.Bool().Draw(rt, "with a title") {
				e.Data = map[string]any{"title": rapid.SampledFrom([]any{"a", "<&>\u2028", nil, 1.5, int64(1) << 60, []any{}, map[string]any{"x": map[string]any{}}}).Draw(rt, "title")}
			}
			got, err := l.Append(ctx, e)
			if err != nil {
				rt.Fatal(err)
			}
			if state, err = tally(state, got[0]); err != nil {
				rt.Fatal(err)
			}
			b, err := json.Marshal(state)
			if err != nil {
				rt.Fatal(err)
			}
			model = append(model, string(b))
			eventuallyRapid(rt, func() bool { return snapshots(t, db, ref) == len(model)/3 })
		}
		for _, with := range []string{"with", "without"} {
			for i, want := range model {
				got, err := store.State(ctx, ref, event.At{Version: int64(i + 1)})
				if err != nil || got.Version != int64(i+1) || got.Entity != ref || text(t, got.Data) != want {
					rt.Fatalf("version %d %s snapshots is %+v, %v; want %s", i+1, with, got, err, want)
				}
			}
			execute(t, db, "delete from event_snapshots where aggregate_id = $1 and version % 2 = 0", ref.ID)
		}
	})
	if found, err := store.Verify(t.Context(), nil); err != nil || !found.OK() || found.Snapshots == 0 {
		t.Errorf("verification found %+v, %v", found, err)
	}
}

func TestStateAtATime(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	l := runLog(t, event.LogConfig{DB: db, Schema: tallied(), SnapshotEvery: 4})
	store, ref := event.NewStore(db).With(tallied()), history(t, l, db, 10, 4)
	events, err := store.Read(t.Context(), event.Page{Entity: ref})
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range events {
		for after, want := range map[time.Duration]int64{0: int64(i + 1), -time.Microsecond: int64(i)} {
			got, missing := store.State(t.Context(), ref, event.At{Time: e.At.Add(after)})
			if want == 0 && errors.Is(missing, event.ErrNotFound) {
				continue
			}
			if missing != nil || got.Version != want || !got.At.Equal(events[want-1].At) || text(t, got.Data) == "{}" {
				t.Errorf("%v after version %d: %+v, %v; want version %d", after, i+1, got, missing, want)
			}
		}
	}
	now, err := store.State(t.Context(), ref, event.At{})
	if err != nil || now.Version != 10 {
		t.Errorf("now: %+v, %v", now, err)
	}
	for name, err := range map[string]error{
		"a later version":   func() error { _, err := store.State(t.Context(), ref, event.At{Version: 11}); return err }(),
		"no such entity":    func() error { _, err := store.State(t.Context(), newRef("stream"), event.At{}); return err }(),
		"before everything": func() error { _, err := store.State(t.Context(), ref, event.At{Time: time.Unix(1, 0)}); return err }(),
	} {
		if !errors.Is(err, event.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", name, err)
		}
	}
	if n := snapshots(t, db, ref); n != 2 {
		t.Errorf("%d snapshots, want 2", n)
	}
}

func TestOnlyTheNewestSnapshotsAreKept(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	l := runLog(t, event.LogConfig{DB: db, SnapshotEvery: 2, KeepSnapshots: 2})
	ref := newRef("stream")
	for i := range 10 {
		if _, err := l.Append(t.Context(), event.New{Aggregate: ref, Name: "stream.changed", Expect: int64(i)}); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { return newestSnapshot(t, db, ref) == (i+1)/2*2 })
	}
	if n := snapshots(t, db, ref); n != 2 {
		t.Errorf("%d snapshots, want 2", n)
	}
}

func TestSnapshotsDueTogetherAreAllWrittenButForOneThatCannotBe(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	schema := event.NewSchema()
	schema.Fold("stream", 1, func(state map[string]any, e event.Event) (map[string]any, error) {
		if strings.Contains(string(e.Data), "bad") {
			return nil, errors.New("that cannot be read")
		}
		return tally(state, e)
	})
	l := runLog(t, event.LogConfig{DB: db, Schema: schema, SnapshotEvery: 2, KeepSnapshots: 1})
	var unit []event.New
	for i := range 150 {
		ref, data := newRef("stream"), map[string]any{}
		if i == 75 {
			data["bad"] = true
		}
		for version := range int64(4) {
			unit = append(unit, event.New{Aggregate: ref, Name: "stream.changed", Data: data, Expect: version})
		}
	}
	if _, err := l.Append(t.Context(), unit...); err != nil {
		t.Fatal(err)
	}
	kept := func(where string) (n int) {
		if err := db.QueryRow(t.Context(), "select count(*) from event_snapshots where "+where).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, func() bool { return kept("version = 4") == 149 })
	if all := kept("true"); all != 149 {
		t.Errorf("%d snapshots, want those of 149 entities alone", all)
	}
}

func TestABrokenSnapshotIsNotUsedAndIsFound(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	schema := tallied()
	l := runLog(t, event.LogConfig{DB: db, Schema: schema, SnapshotEvery: 5, KeepSnapshots: 9})
	store, ref := event.NewStore(db).With(schema), history(t, l, db, 12, 5)
	want, err := store.State(t.Context(), ref, event.At{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := codec.New(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	lie := []byte(`{"count":77}`)
	for name, tt := range map[string]struct {
		sql    string
		args   []any
		wrong  bool // it can be read, so only Verify can tell
		reason string
	}{
		"altered":         {sql: "update event_snapshots set state = set_byte(state, 50, 255 - get_byte(state, 50)) where version = 10", reason: ""},
		"another hash":    {sql: "update event_snapshots set sha256 = '\\x00' where version = 10", reason: "does not hold"},
		"another codec":   {sql: "update event_snapshots set codec = 9 where version = 10", reason: "not a snapshot"},
		"a lie":           {sql: "update event_snapshots set state = $1, sha256 = $2 where version = 10", args: []any{c.Encode(codec.Aggregate, lie), codec.Sum(lie)}, wrong: true, reason: "not what the events make"},
		"of no event":     {sql: "insert into event_snapshots select aggregate_type, aggregate_id, 99, fold, codec, sha256, state, at from event_snapshots where version = 10", reason: "no such event"},
		"of another fold": {sql: "update event_snapshots set fold = 2, state = $1, sha256 = $2 where version = 10", args: []any{c.Encode(codec.Aggregate, lie), codec.Sum(lie)}, reason: "-"},
	} {
		execute(t, db, "create table kept as table event_snapshots")
		execute(t, db, tt.sql, tt.args...)
		if got, err := store.State(t.Context(), ref, event.At{}); !tt.wrong && (err != nil || cmp.Diff(want, got) != "") {
			t.Errorf("%s: the state is %+v, %v; want %+v", name, got, err, want)
		}
		found, err := store.Verify(t.Context(), nil)
		ok := len(found.Mismatches) == 1 && strings.Contains(found.Mismatches[0].Reason, tt.reason) && found.Mismatches[0].Entity == ref.String()
		if tt.reason == "-" {
			ok = found.OK()
		}
		if err != nil || !ok || found.Snapshots < 2 || found.Events != 12 || found.Entities != 1 {
			t.Errorf("%s: verification found %+v, %v", name, found, err)
		}
		execute(t, db, "truncate event_snapshots")
		execute(t, db, "insert into event_snapshots table kept")
		execute(t, db, "drop table kept")
	}
}

func TestOldShapesAreReadAsTheNewest(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	schema := event.NewSchema()
	schema.Upcast("stream.changed", 1, func(d map[string]any) (map[string]any, error) {
		d["title"] = d["name"]
		delete(d, "name")
		return d, nil
	})
	schema.Upcast("stream.changed", 2, func(d map[string]any) (map[string]any, error) {
		if d["title"] == "broken" {
			return nil, errors.New("no such title")
		}
		d["titles"] = []any{d["title"]}
		delete(d, "title")
		return d, nil
	})
	l := runLog(t, event.LogConfig{DB: db, Schema: schema})
	ref, store := newRef("stream"), event.NewStore(db).With(schema)
	changed := func(d map[string]any) event.New {
		return event.New{Aggregate: ref, Name: "stream.changed", Expect: event.Any, Data: d}
	}
	if _, err := l.Append(t.Context(), changed(map[string]any{"name": "a", "n": int64(1) << 60}), changed(map[string]any{"title": "a", "_v": 2}),
		changed(map[string]any{"titles": []string{"a"}, "_v": 3}), changed(map[string]any{"x": "y", "_v": 4}),
		event.New{Aggregate: ref, Name: "stream.other", Expect: event.Any, Data: map[string]any{"name": "a"}}); err != nil {
		t.Fatal(err)
	}
	for doing, read := range map[string]func(*event.Store) ([]event.Event, error){
		"Read":  func(s *event.Store) ([]event.Event, error) { return s.Read(t.Context(), event.Page{Entity: ref}) },
		"Shard": func(s *event.Store) ([]event.Event, error) { return s.Shard(t.Context(), ref.Shard(), 0, 0) },
		"Since": func(s *event.Store) ([]event.Event, error) { return s.Since(t.Context(), [event.Shards]int64{}, 0) },
		"Between": func(s *event.Store) ([]event.Event, error) {
			return s.Between(t.Context(), event.Span{To: time.Now().Add(time.Hour)})
		},
	} {
		events, err := read(store)
		if err != nil || len(events) != 5 {
			t.Fatalf("%s: %d events, %v", doing, len(events), err)
		}
		for i, want := range []string{`{"_v":3,"n":1152921504606846976,"titles":["a"]}`, `{"_v":3,"titles":["a"]}`, `{"_v":3,"titles":["a"]}`, `{"x":"y","_v":4}`, `{"name":"a"}`} {
			if got := strings.ReplaceAll(string(events[i].Data), " ", ""); got != want {
				t.Errorf("%s: event %d is %s, want %s", doing, i+1, got, want)
			}
		}
	}
	if state, err := store.State(t.Context(), ref, event.At{}); err != nil || text(t, state.Data) != `{"n":1152921504606846976,"name":"a","titles":["a"],"x":"y"}` {
		t.Errorf("the state is %v, %v", state, err)
	}
	var old string
	if err := db.QueryRow(t.Context(), "select data->>'name' from events where version = 1").Scan(&old); err != nil || old != "a" {
		t.Errorf("the table holds %q, %v: the old shape stays", old, err)
	}
	if _, err := l.Append(t.Context(), changed(map[string]any{"title": "broken", "_v": 2})); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Read(t.Context(), event.Page{Entity: ref}); err == nil || !strings.Contains(err.Error(), "from shape 2 to 3") {
		t.Errorf("what cannot be brought up: %v", err)
	}
	for _, v := range []any{1, 0, -1, "2", 1.5, 1 << 20, nil} {
		_, err := l.Append(t.Context(), changed(map[string]any{"_v": v}))
		if faults := errs.FieldsOf(err); v != nil && (len(faults) != 1 || faults[0].Field != "data._v") {
			t.Errorf("shape %v: %v, want a fault of data._v", v, err)
		}
	}
	if _, err := l.Append(t.Context(), changed(map[string]any{"erased": true})); len(errs.FieldsOf(err)) != 1 {
		t.Errorf("a reserved name: %v", err)
	}
}

func TestBetweenPagesThroughATime(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	for range 5 {
		mustAppend(t, db, anyOf(newRef("user")), anyOf(newRef("stream")), anyOf(newRef("user")))
	}
	execute(t, db, "update events set at = '2026-01-01Z' where seq = 1 and shard % 2 = 0") // many at the same time
	store := event.NewStore(db)
	all, err := store.Between(t.Context(), event.Span{To: time.Now().Add(time.Hour), Limit: 1000})
	if err != nil || len(all) != 15 {
		t.Fatalf("%d events, %v", len(all), err)
	}
	var paged []event.Event
	for span := (event.Span{From: all[0].At, To: all[14].At, Limit: 2}); ; {
		page, err := store.Between(t.Context(), span)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		paged = append(paged, page...)
		span.After = page[len(page)-1].Position()
	}
	if diff := cmp.Diff(all[:14], paged); diff != "" {
		t.Errorf("(-at once +in pages):\n%s", diff)
	}
	if _, err := store.Between(t.Context(), event.Span{Limit: -1}); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a bad limit: %v", err)
	}
}

func TestShardsAreReadTogether(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	for range 20 {
		mustAppend(t, db, anyOf(newRef("user")), anyOf(newRef("stream")))
	}
	execute(t, db, "update events set at = at - interval '1 hour' where shard = 3") // a clock that was set back
	store := event.NewStore(db)
	heads, err := store.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var after [event.Shards]int64
	total := 0
	for {
		page, failed := store.Since(t.Context(), after, 7)
		if failed != nil {
			t.Fatal(failed)
		}
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			if total++; e.Seq != after[e.Shard]+1 {
				t.Errorf("shard %d goes from %d to %d", e.Shard, after[e.Shard], e.Seq)
			}
			after[e.Shard] = e.Seq
		}
	}
	if total != 40 || after != heads {
		t.Errorf("%d events up to %v, want 40 up to %v", total, after, heads)
	}
	// Those of the shard whose clock was set back are older than all others, and not asked for.
	half, want := heads, 0
	half[3] = 0
	for _, head := range half {
		want += int(head)
	}
	first, err := store.Within(t.Context(), [event.Shards]int64{}, half, 1000)
	if err != nil || len(first) != want || slices.ContainsFunc(first, func(e event.Event) bool { return e.Shard == 3 }) {
		t.Errorf("%d events up to %v, want %d; %v", len(first), half, want, err)
	}
	if _, err := store.Since(t.Context(), after, 1001); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a bad limit: %v", err)
	}
}

func TestRetentionRemovesWhatASnapshotMakesDispensable(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	schema := tallied()
	l := runLog(t, event.LogConfig{DB: db, Schema: schema, SnapshotEvery: 5})
	store := event.NewStore(db).With(schema)
	ref := history(t, l, db, 20, 5) // snapshots at 10, 15, 20 are the newest three
	short := history(t, l, db, 4, 5)
	want := map[int64]event.State{}
	for v := int64(10); v <= 20; v++ {
		var err error
		if want[v], err = store.State(t.Context(), ref, event.At{Version: v}); err != nil {
			t.Fatal(err)
		}
	}
	later := time.Now().Add(time.Hour)
	events, err := store.Read(t.Context(), event.Page{Entity: ref})
	if err != nil {
		t.Fatal(err)
	}
	before := events[16].At // the snapshot at 15 is older
	dry, err := store.Prune(t.Context(), before, true)
	if err != nil || dry.Events != 15 || dry.Snapshots != 1 || len(allEvents(t, db)) != 24 {
		t.Errorf("a dry run tells %+v, %v and leaves %d events", dry, err, len(allEvents(t, db)))
	}
	execute(t, db, "insert into event_cursors values ('slow', $1, 3)", ref.Shard())
	if got, err := store.Prune(t.Context(), before, false); err != nil || got.Events > 3 {
		t.Errorf("with a consumer at 3: %+v, %v", got, err)
	}
	execute(t, db, "delete from event_cursors")
	if _, err := store.Prune(t.Context(), before, false); err != nil {
		t.Errorf("pruned: %v", err)
	}
	if found, err := store.Verify(t.Context(), nil); err != nil || !found.OK() || found.Events != 9 {
		t.Errorf("verification found %+v, %v", found, err)
	}
	for v := int64(1); v <= 20; v++ {
		got, err := store.State(t.Context(), ref, event.At{Version: v})
		if v < 15 && !errors.Is(err, event.ErrPruned) || v >= 15 && (err != nil || cmp.Diff(want[v], got) != "") {
			t.Errorf("version %d: %+v, %v; want %+v", v, got, err, want[v])
		}
	}
	_, timeErr := store.State(t.Context(), ref, event.At{Time: events[3].At})
	_, readErr := store.Read(t.Context(), event.Page{Entity: ref, FromVersion: 3})
	_, shardErr := store.Shard(t.Context(), ref.Shard(), 0, 0)
	_, sinceErr := store.Since(t.Context(), [event.Shards]int64{}, 0)
	for name, err := range map[string]error{"State": timeErr, "Read": readErr, "Shard": shardErr, "Since": sinceErr} {
		if !errors.Is(err, event.ErrPruned) {
			t.Errorf("%s: %v, want ErrPruned", name, err)
		}
	}
	if kept, err := store.Read(t.Context(), event.Page{Entity: ref}); err != nil || len(kept) != 5 || kept[0].Version != 16 {
		t.Errorf("what is kept: %d events, %v", len(kept), err)
	}
	if _, err := store.Prune(t.Context(), later, false); err != nil {
		t.Error(err)
	}
	if v, err := store.Version(t.Context(), ref); err != nil || v != 20 {
		t.Errorf("version %d, %v: the last event stays", v, err)
	}
	if s, err := store.State(t.Context(), short, event.At{Version: 2}); err != nil || s.Version != 2 {
		t.Errorf("an entity without a snapshot: %+v, %v", s, err)
	}
	for version := 21; version <= 50; version++ { // the base stays, however many snapshots follow
		if _, err := l.Append(t.Context(), event.New{Aggregate: ref, Name: "stream.changed", Expect: event.Any}); err != nil {
			t.Fatal(err)
		}
		if version%5 == 0 { // one after the other: of those that are due together the newest is taken
			eventually(t, func() bool { return newestSnapshot(t, db, ref) == version })
		}
	}
	if s, err := store.State(t.Context(), ref, event.At{Version: 21}); err != nil || s.Version != 21 {
		t.Errorf("version 21: %+v, %v", s, err)
	}
	eventually(t, func() bool {
		found, err := store.Verify(t.Context(), nil)
		return err == nil && found.OK() && found.Snapshots >= 4
	})
	execute(t, db, "delete from events where seq = (select max(seq) - 2 from events where shard = $1) and shard = $1", ref.Shard())
	if found, err := store.Verify(t.Context(), nil); err != nil || len(found.Gaps) == 0 {
		t.Errorf("a hole above the horizon: %+v, %v", found, err)
	}
}

func FuzzFields(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":1e999,"_v":2}`, `{"erased": true, "fields": ["a"]}`, `[]`, `null`, `{"a":`, "{\"a\":\"\\ud800\"}", strings.Repeat("[", 20000)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e := event.Event{AggregateType: "stream", AggregateID: uuid.Nil, Name: "stream.changed", Data: data}
		fields, err := e.Fields()
		if err != nil {
			return
		}
		again, err := json.Marshal(fields)
		if err != nil {
			t.Fatalf("%q reads as what is not JSON: %v", data, err)
		}
		e.Data = again
		if twice, err := e.Fields(); err != nil || cmp.Diff(fields, twice) != "" {
			t.Errorf("%q does not come back: %v", data, err)
		}
	})
}

// BenchmarkState asks for the state of an entity with 10,000 events.
func BenchmarkState(b *testing.B) {
	for _, which := range []string{"snapshots", "replay"} {
		b.Run(which, func(b *testing.B) {
			db := postgrestest.New(b)
			l := runLog(b, event.LogConfig{DB: db, SnapshotEvery: 100})
			ref := newRef("stream")
			unit := make([]event.New, 100)
			for i := range 100 {
				for k := range unit {
					unit[k] = event.New{Aggregate: ref, Name: "stream.changed", Expect: event.Any, Data: map[string]any{"title": fmt.Sprint("title ", i), "viewers": k}}
				}
				if _, err := l.Append(context.Background(), unit...); err != nil {
					b.Fatal(err)
				}
			}
			for deadline := time.Now().Add(time.Minute); newestSnapshot(b, db, ref) < 10_000 && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
			if which == "replay" {
				execute(b, db, "delete from event_snapshots")
			}
			store := event.NewStore(db)
			for b.Loop() {
				if s, err := store.State(context.Background(), ref, event.At{}); err != nil || s.Version != 10_000 {
					b.Fatal(s.Version, err)
				}
			}
			b.ReportMetric(10_000*float64(b.N)/b.Elapsed().Seconds(), "versions/s")
		})
	}
}
