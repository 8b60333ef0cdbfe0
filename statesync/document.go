package statesync

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"rootstream/errs"
	"rootstream/event"
)

// Doc is an entity's state.
type Doc struct {
	Ref     event.Ref
	Version int64          // 0: there is no such entity yet
	Deleted bool           // it was there
	At      time.Time      // of its newest event
	Data    map[string]any // the caller's own copy; numbers are json.Number
}

func (d Doc) clone() Doc {
	d.Data = cloneMap(d.Data)
	return d
}

func cloneMap(m map[string]any) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = cloneValue(v)
	}
	return out
}

func cloneValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		return cloneMap(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = cloneValue(v[i])
		}
		return out
	}
	return v
}

// docOf makes a document of a folded state, which it takes over.
func docOf(ref event.Ref, version int64, at time.Time, state map[string]any) Doc {
	d := Doc{Ref: ref, Version: version, At: at, Data: state}
	if state[deletedField] != nil {
		d.Deleted, d.Data = true, map[string]any{}
	}
	if d.Data == nil {
		d.Data = map[string]any{}
	}
	return d
}

// state is what docOf was given.
func (d Doc) state() map[string]any {
	if d.Deleted {
		return map[string]any{deletedField: true}
	}
	return d.Data
}

var errNoObject = errs.New(errs.Malformed, "malformed_json", "the document is not one JSON object")

// decodeObject reads one JSON object and nothing else.
func decodeObject(b []byte) (map[string]any, error) {
	if m, ok := event.ReadObject(b); ok {
		return m, nil
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		return nil, errs.New(errs.Malformed, "malformed_json", "the document is not a JSON object").WithCause(err)
	}
	if _, err := dec.Token(); err != io.EOF || m == nil {
		return nil, errNoObject
	}
	return m, nil
}

// normal makes a copy of whatever a caller made of a document as PostgreSQL will give it back, or says what is wrong with
// it. It tells about how many bytes it has.
func (t Type) normal(data map[string]any) (map[string]any, int, error) {
	if data == nil {
		return nil, 0, errNoObject
	}
	n := normalizer{keys: maxKeys}
	m := n.object("", data, 1)
	if n.failed != nil {
		return nil, 0, errs.NewInvalid("data", "must be JSON").WithCause(n.failed)
	}
	if n.bytes > t.MaxBytes/maxEscape {
		b, err := json.Marshal(data)
		if err != nil {
			return nil, 0, errs.NewInvalid("data", "must be JSON").WithCause(err)
		}
		if len(b) > t.MaxBytes {
			return nil, 0, errs.NewInvalid("data", fmt.Sprintf("must be at most %d bytes of JSON", t.MaxBytes))
		}
	}
	for k := range m {
		if strings.HasPrefix(k, "_") {
			n.faults.Add(k, "must not begin with _")
		}
	}
	return m, n.bytes, n.faults.Err()
}

// maxEscape is how much longer JSON may make a string: \u0001.
const maxEscape = 6

type normalizer struct {
	keys   int
	bytes  int // of JSON, if nothing has to be escaped
	faults errs.Fields
	full   bool  // one fault of size is enough
	failed error // to make JSON of something
}

func (n *normalizer) object(path string, m map[string]any, depth int) map[string]any {
	out := make(map[string]any, len(m))
	n.bytes += 2
	for k, v := range m {
		k = wellFormed(k)
		n.keys--
		n.bytes += len(k) + 4
		switch {
		case n.keys < 0 || depth > maxDepth:
			if !n.full {
				n.faults.Add("data", fmt.Sprintf("must have at most %d fields, nested at most %d deep", maxKeys, maxDepth))
			}
			n.full = true
			return out
		case len(k) > maxKeyBytes || strings.ContainsRune(k, 0):
			n.faults.Add("data", fmt.Sprintf("field names must be at most %d bytes without NUL", maxKeyBytes))
			return out
		}
		out[k] = n.value(path, k, v, depth)
	}
	return out
}

// value is that of a field of the object at path.
func (n *normalizer) value(path, field string, v any, depth int) any {
	n.bytes++
	switch v := v.(type) {
	case nil:
		n.bytes += 4
		return nil
	case bool:
		n.bytes += 5
		return v
	case string:
		if strings.ContainsRune(v, 0) {
			n.faults.Add(below(path, field), "must not hold the character NUL")
		}
		n.bytes += len(v) + 2
		return wellFormed(v)
	case json.Number:
		if strings.Trim(string(v), "0123456789") != "" || v == "" || v[0] == '0' { // it may be none
			b, err := json.Marshal(v)
			if err != nil {
				n.failed = err
				return nil
			}
			v = json.Number(b)
		}
		return n.number(path, field, v)
	case int:
		return n.number(path, field, json.Number(strconv.Itoa(v)))
	case int64:
		return n.number(path, field, json.Number(strconv.FormatInt(v, 10)))
	case map[string]any:
		if v != nil {
			return n.object(below(path, field), v, depth+1)
		}
	case []any:
		if v != nil {
			return n.list(path, field, v, depth)
		}
	}
	return n.decoded(path, field, v, depth)
}

func (n *normalizer) list(path, field string, v []any, depth int) []any {
	if depth >= maxDepth {
		n.object(path, map[string]any{"": nil}, maxDepth+1)
		return v
	}
	out := make([]any, len(v))
	n.bytes += 2
	for i := range v {
		out[i] = n.value(path, field, v[i], depth+1)
	}
	return out
}

// decoded is a value of any other type as it reads from JSON.
func (n *normalizer) decoded(path, field string, v any, depth int) any {
	b, err := json.Marshal(v)
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.UseNumber()
		v = nil
		err = dec.Decode(&v)
	}
	if err != nil {
		n.failed = err
		return nil
	}
	return n.value(path, field, v, depth)
}

func below(path, field string) string { return strings.TrimPrefix(path+"."+field, ".") }

// wellFormed is s as JSON has it: what is not UTF-8 is replaced.
func wellFormed(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

// number writes a number as PostgreSQL does: no exponent, no negative zero.
func (n *normalizer) number(path, field string, v json.Number) json.Number {
	f, err := v.Float64()
	if err != nil || len(v) > 400 {
		n.faults.Add(below(path, field), "must be a number that fits 64-bit floating point")
		return v
	}
	if f == 0 && strings.HasPrefix(string(v), "-") {
		v, f = v[1:], 0
	}
	if strings.ContainsAny(string(v), "eE") {
		v = json.Number(strconv.FormatFloat(f, 'f', -1, 64))
	}
	n.bytes += len(v)
	return v
}

// mergePatch applies an RFC 7396 patch. Neither argument is changed; the result shares what did not change.
func mergePatch(doc, patch map[string]any) map[string]any {
	out := make(map[string]any, len(doc)+len(patch))
	maps.Copy(out, doc)
	for k, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(out, k)
		case map[string]any:
			below, _ := out[k].(map[string]any)
			out[k] = mergePatch(below, v)
		default:
			out[k] = v
		}
	}
	return out
}

// diff finds the patch that makes to of from; false if only the whole document can say it, since it holds a null.
func diff(from, to map[string]any) (map[string]any, bool) {
	patch := map[string]any{}
	for k := range from {
		if _, stays := to[k]; !stays {
			patch[k] = nil
		}
	}
	for k, v := range to {
		old, had := from[k]
		if had && same(old, v) {
			continue
		}
		was, wasMap := old.(map[string]any)
		is, isMap := v.(map[string]any)
		switch {
		case wasMap && isMap:
			below, ok := diff(was, is)
			if !ok {
				return nil, false
			}
			patch[k] = below
		case hasNull(v):
			return nil, false
		default:
			patch[k] = v
		}
	}
	return patch, true
}

// same reports whether two values are equal.
func same(a, b any) bool {
	switch a := a.(type) {
	case string, bool, json.Number, nil:
		return a == b
	case map[string]any:
		m, ok := b.(map[string]any)
		if !ok || len(a) != len(m) {
			return false
		}
		for k, v := range a {
			if w, there := m[k]; !there || !same(v, w) {
				return false
			}
		}
		return true
	case []any:
		l, ok := b.([]any)
		return ok && slices.EqualFunc(a, l, same)
	}
	return reflect.DeepEqual(a, b) // a fold has put it there
}

func hasNull(v any) bool {
	if v == nil {
		return true
	}
	m, ok := v.(map[string]any)
	if !ok {
		return false // a patch replaces lists as they are
	}
	for _, below := range m {
		if hasNull(below) {
			return true
		}
	}
	return false
}
