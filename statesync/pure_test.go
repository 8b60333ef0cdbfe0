package statesync

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"rootstream/event"
	"rootstream/event/codec"
	"rootstream/statesync/merge"
)

func values(depth int) *rapid.Generator[any] {
	leaves := []*rapid.Generator[any]{
		rapid.Just[any](nil), rapid.Just[any]("s"), rapid.Just[any](true), rapid.Just[any](json.Number("1.5")),
		rapid.Custom(func(t *rapid.T) any { return []any{nil, rapid.StringMatching(`[a-c]`).Draw(t, "item")} }),
	}
	if depth > 0 {
		leaves = append(leaves, rapid.Custom(func(t *rapid.T) any { return objects(depth-1).Draw(t, "object") }))
	}
	return rapid.OneOf(leaves...)
}

func objects(depth int) *rapid.Generator[map[string]any] {
	return rapid.MapOfN(rapid.StringMatching(`[a-d]`), values(depth), 0, 4)
}

func TestAPatchMakesTheSecondDocumentOfTheFirst(t *testing.T) {
	t.Parallel()
	said := 0
	rapid.Check(t, func(t *rapid.T) {
		from, to := objects(2).Draw(t, "from"), objects(2).Draw(t, "to")
		before := cloneMap(from)
		patch, ok := diff(from, to)
		if !ok {
			return // the whole document is sent
		}
		said++
		if d := cmp.Diff(to, mergePatch(from, patch)); d != "" {
			t.Fatalf("patch %v: %s", patch, d)
		}
		if d := cmp.Diff(before, from); d != "" {
			t.Fatalf("the first document was changed: %s", d)
		}
	})
	if said == 0 {
		t.Error("no patch was ever enough")
	}
}

// TestMergePatchFollowsItsStandard uses the examples of RFC 7396, appendix A, that are about objects.
func TestMergePatchFollowsItsStandard(t *testing.T) {
	t.Parallel()
	for _, tt := range [][3]string{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"e":null}`, `{"a":1}`, `{"e":null,"a":1}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
	} {
		doc, err1 := decodeObject([]byte(tt[0]))
		patch, err2 := decodeObject([]byte(tt[1]))
		want, err3 := decodeObject([]byte(tt[2]))
		if err1 != nil || err2 != nil || err3 != nil {
			t.Fatal(err1, err2, err3)
		}
		if d := cmp.Diff(want, mergePatch(doc, patch)); d != "" {
			t.Errorf("%s on %s: %s", tt[1], tt[0], d)
		}
	}
}

func TestNumbersAreWrittenAsPostgresDoes(t *testing.T) {
	t.Parallel()
	typ := Type{MaxBytes: 1000}
	got, _, err := typ.normal(map[string]any{"a": json.Number("1e3"), "b": json.Number("-0"), "c": 1.5, "d": json.Number("1.50"), "e": []any{json.Number("1E-2"), json.Number("-0.0e5")}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"a": json.Number("1000"), "b": json.Number("0"), "c": json.Number("1.5"), "d": json.Number("1.50"), "e": []any{json.Number("0.01"), json.Number("0")},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// anything is what a caller may put into a document.
func anything(depth int) *rapid.Generator[any] {
	kinds := []*rapid.Generator[any]{
		values(1), rapid.String().AsAny(), rapid.Int().AsAny(), rapid.Int64().AsAny(), rapid.Uint16().AsAny(), rapid.Bool().AsAny(),
		rapid.SampledFrom([]any{
			"a\xffb\xfe\xfd", "<&>\u2028", 1.5, float32(0.25),
			[]string{"a"},
			map[string]int{"b": 1},
			struct{ A any }{"x"},
			time.Unix(0, 0).UTC(),
			map[string]any(nil), []any(nil), (*int)(nil), json.RawMessage(`{"raw": [1, null]}`), json.Number("0"), json.Number("-7"), json.Number(""),
		}),
	}
	if depth > 0 {
		kinds = append(kinds, rapid.SliceOfN(anything(depth-1), 0, 3).AsAny(), rapid.MapOfN(rapid.StringN(0, 5, -1), anything(depth-1), 0, 3).AsAny())
	}
	return rapid.OneOf(kinds...)
}

func TestADocumentIsNormalAsJSONMakesIt(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.MapOfN(rapid.StringN(0, 5, -1).Filter(func(k string) bool { return k == "" || k[0] != '_' }), anything(2), 0, 5).Draw(t, "data")
		typ := Type{MaxBytes: rapid.IntRange(2, 300).Draw(t, "most")}
		b, err := json.Marshal(data)
		if err != nil {
			t.Fatal(err)
		}
		before := string(b)
		got, size, err := typ.normal(data)
		if tooLong := len(b) > typ.MaxBytes; tooLong || bytes.Contains(b, []byte(`\u0000`)) {
			if err == nil {
				t.Fatalf("%d bytes, of at most %d, passed for normal: %s", len(b), typ.MaxBytes, b)
			}
			return
		}
		want, failed := decodeObject(b)
		if d := cmp.Diff(want, got); err != nil || failed != nil || d != "" {
			t.Fatalf("%v, %v: %s", err, failed, d)
		}
		if size*maxEscape < len(b) || size > 2*len(b)+8 {
			t.Fatalf("%d bytes count as %d", len(b), size)
		}
		if after, _ := json.Marshal(data); string(after) != before {
			t.Fatal("the caller's document was changed")
		}
	})
}

func TestWhatIsNoJSONIsNoDocument(t *testing.T) {
	t.Parallel()
	typ := Type{MaxBytes: 1000}
	for _, v := range []any{
		math.NaN(), math.Inf(1), make(chan int), json.Number("0x10"), json.Number("+1"), json.Number("Inf"), json.Number("01"), json.Number("1e999"),
		json.RawMessage("{"),
		[]any{func() {}},
	} {
		if got, _, err := typ.normal(map[string]any{"a": map[string]any{"b": v}}); err == nil {
			t.Errorf("%v became %v", v, got)
		}
	}
	if _, _, err := typ.normal(nil); err == nil {
		t.Error("nothing is a document")
	}
}

func TestEqualValuesAreTheSame(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := objects(2).Draw(t, "a"), objects(2).Draw(t, "b")
		if same(a, b) != reflect.DeepEqual(a, b) || !same(a, cloneMap(a)) {
			t.Fatalf("%v and %v", a, b)
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add(tokenAt(1, 3, 77).String())
	f.Add(tokenOf(1<<40, [event.Shards]int64{1, 2, 3, 15: 1 << 61}).String())
	f.Add("AQ")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err == nil && (tok.String() != s || len(s) > maxToken) {
			t.Errorf("%q reads as %+v", s, tok)
		}
	})
}

func FuzzPatch(f *testing.F) {
	for _, seed := range [][2]string{
		{`{"a":1,"b":{"c":[1,{}]}}`, `{"a":null,"b":{"c":"x","d":{}}}`},
		{`{}`, `{"_a":1}`},
		{`{"a":null}`, `{"n":-0.0e5}`},
		{`{"a":{}}`, `{"a":{"b":{"c":null}}}`},
		{`{}`, `[]`},
		{`{"":"\u0000"}`, `{"":{"":1e400}}`},
	} {
		f.Add(seed[0], seed[1])
	}
	kind := Type{Name: "thing", MaxBytes: maxDocBytes}
	f.Fuzz(func(t *testing.T, base, change string) {
		doc, err := decodeObject([]byte(base))
		if err != nil {
			return
		}
		patch, err := decodeObject([]byte(change))
		if err != nil {
			return
		}
		from, _, err := kind.normal(doc)
		if err != nil {
			return
		}
		was := cloneMap(from)
		to, _, err := kind.normal(mergePatch(from, patch))
		if !same(was, from) {
			t.Fatalf("%s changed what it was applied to: %v", change, from)
		}
		if err != nil {
			return
		}
		if b, err := json.Marshal(to); err != nil || len(b) > kind.MaxBytes {
			t.Fatalf("a document of %d bytes, %v", len(b), err)
		}
		if again, _, err := kind.normal(to); err != nil || !same(again, to) {
			t.Fatalf("%v is not as it was stored: %v, %v", again, to, err)
		}
		if smallest, ok := diff(from, to); ok && !same(mergePatch(from, smallest), to) {
			t.Fatalf("%v does not make %v of %v", smallest, to, from)
		}
	})
}

func FuzzPattern(f *testing.F) {
	for _, seed := range []string{"*.*", "stream.*", "*.0198c0de-0000-7000-8000-000000000000", "stream.0198C0DE-0000-7000-8000-000000000000", "a.b.c", "."} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePattern(s)
		if err != nil {
			return
		}
		kind, id, other := "*", "*", uuid.New()
		ref := event.Ref{Type: "any", ID: other}
		if p.kind != "" {
			kind, ref.Type = p.kind, p.kind
		}
		if p.id != uuid.Nil {
			id, ref.ID = p.id.String(), p.id
		}
		if !strings.EqualFold(kind+"."+id, s) || !p.matches(ref) {
			t.Errorf("%q reads as %+v", s, p)
		}
		if p.id != uuid.Nil && p.matches(event.Ref{Type: ref.Type, ID: other}) || p.kind != "" && p.matches(event.Ref{Type: p.kind + "x", ID: ref.ID}) {
			t.Errorf("%q matches others", s)
		}
	})
}

// FuzzSnapshot reads what somebody has written in the place of a snapshot.
func FuzzSnapshot(f *testing.F) {
	id := uuid.New()
	one := State{Format: snapshotFormat, Epoch: 1, Docs: []StateDoc{{Type: "thing", ID: id, Version: 1, Data: map[string]any{"a": json.Number("1")}}}}
	two := State{Format: snapshotFormat, Epoch: 1, Docs: []StateDoc{{Type: "thing", ID: id, Version: 2, Data: map[string]any{}}}}
	d, err := Diff(one, two)
	if err != nil {
		f.Fatal(err)
	}
	for _, v := range []any{one, two, d, "nothing"} {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s State
		if readContent(b, &s) == nil {
			written, err := s.Bytes()
			var again State
			if err != nil || readContent(written, &again) != nil {
				t.Fatalf("%q is not read again: %v", written, err)
			}
			if rewritten, err := again.Bytes(); err != nil || !bytes.Equal(written, rewritten) {
				t.Fatalf("%q, and then %q, %v", written, rewritten, err)
			}
		}
		var d Delta
		if readContent(b, &d) == nil {
			if made, err := d.Apply(one); err == nil {
				if sum, failed := made.Bytes(); failed != nil || !bytes.Equal(d.Result, codec.Sum(sum)) {
					t.Fatalf("a delta made another state than it says: %v", failed)
				}
			}
		}
	})
}

func TestTokensHaveOneForm(t *testing.T) {
	t.Parallel()
	full := tokenOf(1<<62, [event.Shards]int64{})
	for i := range full.seq {
		full.seq[i] = 1 << 62
	}
	s := full.String()
	if back, err := ParseToken(s); err != nil || back != full || len(s) > maxToken {
		t.Errorf("%d characters, %v", len(s), err)
	}
	for _, bad := range []string{"x", "AA", s + "A", s[:len(s)-1], s + "=", "AQEAAYCA", string(make([]byte, 300))} {
		if _, err := ParseToken(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
	var none Token
	if back, err := ParseToken(""); err != nil || back != none || none.String() != "" {
		t.Errorf("nothing reads as %+v, %v", back, err)
	}
}

// TestContributionsArriveAsTheyWereSaid would else be missed: what is taken back in a way nobody understands expires.
func TestContributionsArriveAsTheyWereSaid(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		type line struct {
			Ref  event.Ref
			At   merge.HLC
			Gone bool
			Raw  string
		}
		var want, got []line
		var b []byte
		for range rapid.IntRange(1, 5).Draw(t, "contributions") {
			l := line{Ref: event.Ref{Type: rapid.StringMatching(`[a-z]{1,50}`).Draw(t, "type"), ID: uuid.New()}, At: merge.HLC(rapid.Int64Min(0).Draw(t, "at"))}
			if l.Gone = rapid.Bool().Draw(t, "gone"); !l.Gone {
				raw, err := json.Marshal(objects(1).Draw(t, "value"))
				if err != nil {
					t.Fatal(err)
				}
				l.Raw = string(raw)
			}
			want = append(want, l)
			b = appendSaid(b, l.Ref, said{at: l.At, gone: l.Gone, raw: json.RawMessage(l.Raw)})
		}
		for len(b) > 0 {
			ref, s, rest, ok := parseSaid(b)
			if !ok {
				t.Fatalf("after %v nothing can be read", got)
			}
			got, b = append(got, line{ref, s.at, s.gone, string(s.raw)}), rest
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

func TestTheLastThatAnInstanceSaidInItsLastLifeCounts(t *testing.T) {
	t.Parallel()
	v, r, node := newVolatile(nil), event.Ref{Type: "viewers", ID: uuid.New()}, uuid.New()
	for _, step := range []struct {
		life  int64
		at    merge.HLC
		gone  bool
		raw   string
		taken bool
		have  string
	}{
		{1, 10, true, "", false, ""},
		{1, 20, false, "a", true, "a"},
		{1, 20, false, "a", false, "a"},
		{1, 15, false, "late", false, "a"},
		{1, 15, true, "", false, "a"},
		{2, 5, false, "b", true, "b"}, // its clock was set back meanwhile
		{1, 30, false, "of the old life", false, "b"},
		{1, 30, true, "", false, "b"},
		{2, 6, true, "", true, ""},
	} {
		h := heard{said{at: step.at, gone: step.gone, raw: json.RawMessage(step.raw)}, step.life, time.Time{}}
		if taken := v.take(r, node, h); taken != step.taken {
			t.Errorf("%+v is taken: %v", step, taken)
		}
		have := ""
		if j := v.seen[r]; j != nil {
			have = string(j.by[node].raw)
		}
		if have != step.have {
			t.Errorf("after %+v it says %q", step, have)
		}
	}
}

func FuzzContributions(f *testing.F) {
	f.Add(appendSaid(nil, event.Ref{Type: "viewers", ID: uuid.New()}, said{at: 7, raw: json.RawMessage(`{"n":1}`)}))
	f.Add([]byte{3})
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			ref, s, rest, ok := parseSaid(b)
			if !ok {
				return
			}
			if len(rest) >= len(b) || (!s.gone && !json.Valid(s.raw)) || len(ref.Type) > 255 {
				t.Fatalf("%v %v", ref, s)
			}
			b = rest
		}
	})
}

// TestWhatWasReadBeforeAChangeIsNotKept holds a read of PostgreSQL up while the feed tells of newer versions.
// put puts a document into memory at once.
func put(m *memory, d Doc, size int, hold bool) { m.finish(m.begin(d.Ref), d, size, hold, true) }

func TestWhatWasReadBeforeAChangeIsNotKept(t *testing.T) {
	t.Parallel()
	m := newMemory(1<<20, map[string]Type{"thing": {Name: "thing"}})
	r := event.Ref{Type: "thing", ID: uuid.New()}
	changed := func(v int64, n string) event.Event {
		return event.Event{
			AggregateType: "thing", AggregateID: r.ID, Version: v, Name: "thing.changed", Data: json.RawMessage(`{"patch":{"n":` + n + `}}`),
		}
	}
	place := m.begin(r)
	m.apply(r.Shard(), []event.Event{changed(2, "2")})
	if m.finish(place, Doc{Ref: r, Version: 1}, 10, false, true) {
		t.Error("an old version passed for current")
	}
	if _, there := m.get(r); there {
		t.Error("an old version was kept")
	}
	put(m, Doc{Ref: r, Version: 2, Data: map[string]any{"n": json.Number("2")}}, 10, false)
	m.apply(r.Shard(), []event.Event{changed(1, "9"), changed(3, "3")})
	if d, there := m.get(r); !there || d.Version != 3 || d.Data["n"] != json.Number("3") {
		t.Errorf("%+v, %v", d, there)
	}
	put(m, Doc{Ref: r, Version: 2}, 10, false)
	if d, _ := m.get(r); d.Version != 3 {
		t.Errorf("version %d replaced a newer one", d.Version)
	}
	m.apply(r.Shard(), []event.Event{changed(5, "5")})
	if d, there := m.get(r); there {
		t.Errorf("over a gap it became %+v", d)
	}
	place = m.begin(r)
	m.clear()
	m.finish(place, Doc{Ref: r, Version: 9}, 10, false, true)
	if _, there := m.get(r); there {
		t.Error("what was read before everything was forgotten was kept")
	}
}

// TestWhatIsLateIsFoldedWhenItIsAskedFor has a document come to every version in every way: told, put, or read.
func TestWhatIsLateIsFoldedWhenItIsAskedFor(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newMemory(1<<20, map[string]Type{"thing": {Name: "thing"}})
		r := event.Ref{Type: "thing", ID: uuid.New()}
		doc := Doc{Ref: r, Version: 1, Data: map[string]any{"n": json.Number("1")}}
		put(m, doc, 10, false)
		told := int64(1)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "way") {
			case 0, 1:
				told++
				n := json.Number(strconv.FormatInt(told, 10))
				m.apply(r.Shard(), []event.Event{{
					AggregateType: "thing", AggregateID: r.ID, Version: told, Name: "thing.changed", Data: json.RawMessage(`{"patch":{"n":` + n + `}}`),
				}})
			case 2:
				v := told - rapid.Int64Range(0, told-1).Draw(t, "older")
				put(m, Doc{Ref: r, Version: v, Data: map[string]any{"n": json.Number(strconv.FormatInt(v, 10))}}, 10, false)
			default:
				d, there := m.get(r)
				if want := json.Number(strconv.FormatInt(told, 10)); !there || d.Version != told || d.Data["n"] != want {
					t.Fatalf("version %d of %v, %v; want %d", d.Version, d.Data, there, told)
				}
			}
		}
		if _, bytes := m.size(); bytes < entryOverhead || bytes > entryOverhead+maxLate*(lateOverhead+100) {
			t.Fatalf("it counts %d bytes", bytes)
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	const limit = 16 * 10_000
	m := newMemory(limit, nil)
	var first event.Ref
	for i := range 2000 {
		r := event.Ref{Type: "thing", ID: uuid.New()}
		if i == 0 {
			first = r
		}
		put(m, Doc{Ref: r, Version: 1}, 500, i == 0)
	}
	if n, bytes := m.size(); bytes > limit || n > 16*13 || n < 16*5 {
		t.Errorf("%d documents in %d bytes", n, bytes)
	}
	if _, there := m.get(first); !there {
		t.Error("what is held was dropped")
	}
}

func TestWhoGivesUpItsTurnHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	g := gates{held: map[event.Ref][]chan struct{}{}}
	r := event.Ref{Type: "thing", ID: uuid.New()}
	if err := g.enter(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.enter(over, r); !errors.Is(err, ErrBusy) {
		t.Errorf("whose context is over: %v, want ErrBusy", err)
	}
	in := make(chan int)
	for i := range 3 {
		go func() {
			if err := g.enter(t.Context(), r); err != nil {
				t.Error(err)
			}
			in <- i
			g.leave(r)
		}()
	}
	waiting := func() int {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.held[r])
	}
	for waiting() < 3 {
		runtime.Gosched()
	}
	select {
	case <-in:
		t.Error("two are in")
	default:
	}
	g.leave(r)
	<-in
	<-in
	<-in
	if n := waiting(); n != 0 {
		t.Errorf("%d still wait", n)
	}
}
