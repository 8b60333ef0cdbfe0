package strict_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"rootstream/api/strict"
	"rootstream/errs"
)

// fine is the kind of no error.
const fine errs.Kind = 255

func check(text []byte) (errs.Kind, string) {
	err := strict.Check(text)
	if err == nil {
		return fine, ""
	}
	faults := errs.FieldsOf(err)
	if len(faults) != 1 {
		return errs.KindOf(err), ""
	}
	return errs.KindOf(err), faults[0].Field
}

func TestWhatIsWrongIsNamed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text  string
		kind  errs.Kind
		field string
	}{
		{`{}`, fine, ""},
		{` {"a":[1,{"b":"c"}],"d":null} `, fine, ""},
		{`{"a":{"b":1},"b":1,"c":[{"b":1},{"b":2}]}`, fine, ""},
		{`{"a":"\ufffd�"}`, fine, ""},
		{`"text"`, fine, ""},
		{``, errs.Malformed, "body"},
		{`{"a":1`, errs.Malformed, "body"},
		{`{"a":1}}`, errs.Malformed, "body"},
		{`{"a":1} 2`, errs.Malformed, "body"},
		{`{"a":1,}`, errs.Malformed, "body"},
		{`{"a":01}`, errs.Malformed, "body"},
		{`{"a":1,"a":1}`, errs.Malformed, "a"},
		{`{"a":{"b":1,"b":2}}`, errs.Malformed, "a.b"},
		{`{"a":[0,{"b":1,"\u0062":2}]}`, errs.Malformed, "a[1].b"},
		{`{"a":"x\u0000"}`, errs.Invalid, "a"},
		{`{"a":[["x\u0000"]]}`, errs.Invalid, "a[0][0]"},
		{`{"\u0000":1}`, errs.Malformed, "body"},
		{"{\"a\":\"\xff\"}", errs.Malformed, "a"},
		{"{\"a\":{\"\xff\":1}}", errs.Malformed, "a"},
		{"{\"a\":1}\xff", errs.Malformed, "body"},
		{`{"a":1e999}`, errs.Invalid, "a"},
		{strings.Repeat("[", 16) + strings.Repeat("]", 16), fine, ""},
		{strings.Repeat("[", 17) + strings.Repeat("]", 17), errs.Malformed, strings.Repeat("[0]", 16)},
		{`{"` + strings.Repeat("é", 300) + `":"\u0000"}`, errs.Invalid, strings.Repeat("é", 51) + "…"},
	} {
		if kind, field := check([]byte(tt.text)); kind != tt.kind || field != tt.field {
			t.Errorf("%.60q: %v %q, want %v %q", tt.text, kind, field, tt.kind, tt.field)
		}
	}
}

// A text that passes is JSON, and says one thing only.
func FuzzCheck(f *testing.F) {
	for _, s := range []string{`{"a":1}`, `{"a":{"b":[1,"x"]},"a":2}`, "{\"a\":\"\xff\"}", `{"a":"\u0000"}`, `[[[[]]]]`, `{"a":1} x`, `1e999`, `{"":""}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		kind, field := check(body)
		switch {
		case kind == fine && (!json.Valid(body) || !utf8.Valid(body)):
			t.Fatalf("taken: %q", body)
		case kind != fine && (kind != errs.Malformed && kind != errs.Invalid || field == "" || len(field) > 120):
			t.Fatalf("%q: %v %q", body, kind, field)
		case kind != fine:
			return
		}
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			t.Fatalf("taken, and then %v: %q", err, body)
		}
		if keys(v) != bytes.Count(tokens(t, body), []byte("k")) {
			t.Fatalf("a key was given twice: %q", body)
		}
	})
}

func keys(v any) int {
	n := 0
	switch x := v.(type) {
	case map[string]any:
		for _, item := range x {
			n += 1 + keys(item)
		}
	case []any:
		for _, item := range x {
			n += keys(item)
		}
	}
	return n
}

// tokens writes k for every key of a body, by counting colons outside texts.
func tokens(t *testing.T, body []byte) []byte {
	t.Helper()
	var out []byte
	inText := false
	for i := 0; i < len(body); i++ {
		switch {
		case inText && body[i] == '\\':
			i++
		case body[i] == '"':
			inText = !inText
		case !inText && body[i] == ':':
			out = append(out, 'k')
		}
	}
	return out
}
