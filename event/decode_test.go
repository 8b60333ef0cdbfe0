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

// TestDataIsReadAsTheStandardLibraryReadsIt reads values of all kinds as they are written, and with a fault or a turn in them.
func TestDataIsReadAsTheStandardLibraryReadsIt(t *testing.T) {
	t.Parallel()
	text := rapid.OneOf(rapid.StringMatching(`"[a-z ]{0,9}"`), rapid.Map(rapid.String(), func(s string) string {
		b, _ := json.Marshal(s) //nolint:errchkjson // a string
		return string(b)
	}), rapid.SampledFrom([]string{`""`, `"é"`, "\"\xff\"", "\"\u2028\"", "\"\x7f\"", "\"\n\"", `"\u0041"`, `"<"`, `"`, `"a`}))
	space := rapid.SampledFrom([]string{"", "", "", " ", "\n\t", "\r", "\v", "\u00a0"})
	leaf := rapid.OneOf(text, rapid.SampledFrom([]string{"true", "false", "null", "nul", "True", "{}", "[]", "[", "]", ",", ""}),
		rapid.SampledFrom([]string{"0", "-0", "01", "-", "+1", "1.", ".5", "1.05", "1e9", "1E+2", "-1.5", "1.5.5", "--1", "1-", strings.Repeat("9", 400)}),
		rapid.StringMatching(`-?[1-9][0-9]{0,20}(\.[0-9]{1,9})?`))
	var value func(depth int) *rapid.Generator[string]
	value = func(depth int) *rapid.Generator[string] {
		return rapid.Custom(func(t *rapid.T) string {
			s := func() string { return space.Draw(t, "space") }
			kind := rapid.SampledFrom([]string{"leaf", "object", "list"}).Draw(t, "kind")
			if depth == 4 {
				kind = "object"
			}
			if kind == "leaf" || depth == 0 {
				return s() + leaf.Draw(t, "leaf") + s()
			}
			parts := make([]string, rapid.IntRange(0, 4).Draw(t, "parts"))
			for i := range parts {
				parts[i] = value(depth-1).Draw(t, "value")
				if kind == "object" {
					parts[i] = s() + text.Draw(t, "key") + s() + ":" + parts[i]
				}
			}
			if kind == "object" {
				return s() + "{" + s() + strings.Join(parts, ",") + "}" + s()
			}
			return "[" + s() + strings.Join(parts, ",") + "]" + s()
		})
	}
	rapid.Check(t, func(t *rapid.T) {
		b := []byte(value(4).Draw(t, "JSON"))
		switch at := rapid.IntRange(0, len(b)-1).Draw(t, "at"); rapid.IntRange(0, 4).Draw(t, "then") {
		case 0:
			b = b[:at]
		case 1:
			b[at] = rapid.Byte().Draw(t, "byte")
		case 2:
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
