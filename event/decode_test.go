package event

import (
	"bytes"
	"encoding/json"
	"io"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// compareRead holds what ReadObject takes against what encoding/json makes of it, which must be all there is.
func compareRead(t interface{ Fatalf(string, ...any) }, b []byte) (taken bool) {
	before := string(b)
	got, ok := ReadObject(b)
	if string(b) != before {
		t.Fatalf("%q was changed", before)
	}
	if !ok {
		return false
	}
	var want map[string]any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	err := d.Decode(&want)
	if _, more := d.Token(); err != nil || more != io.EOF || want == nil {
		t.Fatalf("%q was taken: %v, then %v", b, err, more)
	}
	if !reflect.DeepEqual(want, got) {
		t.Fatalf("%q is %v, want %v", b, got, want)
	}
	return true
}

// jsonText writes JSON of that depth, sound or odd.
func jsonText(odd bool, depth int) *rapid.Generator[string] {
	text, space := rapid.StringMatching(`"[a-zé< ]{0,9}"`), rapid.SampledFrom([]string{"", "", " ", "\n\t", "\r"})
	leaf := rapid.OneOf(text, rapid.SampledFrom([]string{"true", "false", "null", "{}", "[ ]", "0", "-0", "1.05"}),
		rapid.StringMatching(`-?[1-9][0-9]{0,20}(\.[0-9]{1,9})?`))
	if odd {
		text = rapid.OneOf(text, rapid.Map(rapid.String(), func(s string) string {
			b, _ := json.Marshal(s) //nolint:errchkjson // a string
			return string(b)
		}), rapid.SampledFrom([]string{"\"\xff\"", "\"\u2028\"", "\"\x7f\"", "\"\n\"", `"\u0041"`, `"`, `"a`}))
		space = rapid.OneOf(space, space, space, rapid.SampledFrom([]string{"\v", "\u00a0"}))
		leaf = rapid.OneOf(leaf, text, rapid.SampledFrom([]string{
			"nul", "True", "[", "]", ",", "", "01", "-", "+1", "1.", ".5", "1e9", "1E+2", "1.5.5", "--1", "1-", strings.Repeat("9", 400),
		}))
	}
	var value func(depth int) *rapid.Generator[string]
	list := func(t *rapid.T, depth int) []string { return rapid.SliceOfN(value(depth), 0, 4).Draw(t, "items") }
	object := func(t *rapid.T, depth int) string {
		items := list(t, depth)
		for i := range items {
			items[i] = space.Draw(t, "space") + text.Draw(t, "key") + space.Draw(t, "space") + ":" + items[i]
		}
		return "{" + strings.Join(items, ",") + "}"
	}
	value = func(depth int) *rapid.Generator[string] {
		return rapid.Custom(func(t *rapid.T) string {
			before, after := space.Draw(t, "space"), space.Draw(t, "space")
			switch kind := rapid.IntRange(0, 3).Draw(t, "kind"); {
			case depth == 0 || kind > 1:
				return before + leaf.Draw(t, "leaf") + after
			case kind == 0:
				return before + "[" + strings.Join(list(t, depth-1), ",") + "]" + after
			default:
				return before + object(t, depth-1) + after
			}
		})
	}
	return rapid.Custom(func(t *rapid.T) string {
		return space.Draw(t, "space") + object(t, depth) + space.Draw(t, "space")
	})
}

// TestDataIsReadAsTheStandardLibraryReadsIt reads objects of all kinds as they are written, and with a fault in them.
func TestDataIsReadAsTheStandardLibraryReadsIt(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		if b := jsonText(false, 3).Draw(t, "sound"); !compareRead(t, []byte(b)) {
			t.Fatalf("%q was left to the standard library", b)
		}
		b := []byte(jsonText(true, 3).Draw(t, "odd"))
		compareRead(t, b)
		b = []byte(jsonText(rapid.Bool().Draw(t, "kind"), 3).Draw(t, "JSON"))
		switch at := rapid.IntRange(0, len(b)-1).Draw(t, "at"); rapid.IntRange(0, 2).Draw(t, "then") {
		case 0:
			b = b[:at]
		case 1:
			b[at] = rapid.Byte().Draw(t, "byte")
		default:
			b = append(b, b[at:]...)
		}
		compareRead(t, b)
	})
}

func TestWhatEventsMostlyHoldIsReadWithoutTheStandardLibrary(t *testing.T) {
	t.Parallel()
	deep := func(n int) string { return `{"a":` + strings.Repeat("[", n) + strings.Repeat("]", n) + "}" }
	for text, want := range map[string]bool{
		`{}`: true,
		`{"patch": {"sent": "1790000000000000000"}}`:                                        true,
		` {"a" : [ 1 , -2.50, true,false , null, {} , [ ] ], "title": "Übung <&>" }` + "\n": true,
		`{"a": 1, "a": 2}`:  true,
		deep(maxNested - 1): true,
		deep(maxNested):     false,
		`{"a": "\u0041"}`:   false,
		`{"a": 1e9}`:        false,
		`{} {}`:             false,
		"{}\x00":            false,
		`null`:              false,
		`[]`:                false,
		``:                  false,
		`{,}`:               false,
		`{"a":1,}`:          false,
		`{"a":[1,]}`:        false,
	} {
		if got := compareRead(t, []byte(text)); got != want {
			t.Errorf("%q was taken: %v", text, got)
		}
	}
}

func FuzzReadObject(f *testing.F) {
	for _, seed := range []string{
		`{"patch": {"sent": "1", "n": -1.5, "l": [true, false, null, {}, []]}}`, `{"a":1,"a":[}`, `{"a":01}`, "{\"\xff\":\"\\\"\"}", `{"é":"\u00e9"} x`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) { compareRead(t, b) })
}

func BenchmarkDecode(b *testing.B) {
	for name, data := range map[string]string{
		"small": `{"patch": {"sent": "1790000000000000000"}}`,
		"large": `{"doc": {"title": "a title", "tags": ["one", "two"], "viewers": 12, "rate": 12.5, "live": true, "of": {"id": null, "name": "Ä"}}}`,
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := decode([]byte(data)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
