package statesync

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"strconv"
	"strings"
	"time"

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

// decodeObject reads one JSON object and nothing else.
func decodeObject(b []byte) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		return nil, errs.New(errs.Malformed, "malformed_json", "the document is not a JSON object").WithCause(err)
	}
	if _, err := dec.Token(); err != io.EOF || m == nil {
		return nil, errs.New(errs.Malformed, "malformed_json", "the document is not one JSON object")
	}
	return m, nil
}

// normal turns whatever a caller made of a document into what PostgreSQL will give back, or says what is wrong with it.
func (t Type) normal(data map[string]any) (map[string]any, int, error) {
	b, err := json.Marshal(data)
	if err != nil {
		return nil, 0, errs.NewInvalid("data", "must be JSON").WithCause(err)
	}
	if len(b) > t.MaxBytes {
		return nil, 0, errs.NewInvalid("data", fmt.Sprintf("must be at most %d bytes of JSON", t.MaxBytes))
	}
	m, err := decodeObject(b)
	if err != nil {
		return nil, 0, err
	}
	n := normalizer{keys: maxKeys}
	for k := range m {
		if strings.HasPrefix(k, "_") {
			n.faults.Add(k, "must not begin with _")
		}
	}
	n.object("", m, 1)
	return m, len(b), n.faults.Err()
}

type normalizer struct {
	keys   int
	faults errs.Fields
	full   bool // one fault of size is enough
}

func (n *normalizer) object(path string, m map[string]any, depth int) {
	for k, v := range m {
		n.keys--
		at := strings.TrimPrefix(path+"."+k, ".")
		switch {
		case n.keys < 0 || depth > maxDepth:
			if !n.full {
				n.faults.Add("data", fmt.Sprintf("must have at most %d fields, nested at most %d deep", maxKeys, maxDepth))
			}
			n.full = true
			return
		case len(k) > maxKeyBytes || strings.ContainsRune(k, 0):
			n.faults.Add("data", fmt.Sprintf("field names must be at most %d bytes without NUL", maxKeyBytes))
			return
		}
		m[k] = n.value(at, v, depth)
	}
}

func (n *normalizer) value(path string, v any, depth int) any {
	switch v := v.(type) {
	case map[string]any:
		n.object(path, v, depth+1)
	case []any:
		if depth >= maxDepth {
			n.object(path, map[string]any{"": nil}, maxDepth+1)
			return v
		}
		for i := range v {
			v[i] = n.value(path, v[i], depth+1)
		}
	case string:
		if strings.ContainsRune(v, 0) {
			n.faults.Add(path, "must not hold the character NUL")
		}
	case json.Number:
		return n.number(path, v)
	}
	return v
}

// number writes a number as PostgreSQL does: no exponent, no negative zero.
func (n *normalizer) number(path string, v json.Number) json.Number {
	f, err := v.Float64()
	if err != nil || len(v) > 400 {
		n.faults.Add(path, "must be a number that fits 64-bit floating point")
		return v
	}
	if f == 0 && strings.HasPrefix(string(v), "-") {
		v = v[1:]
	}
	if strings.ContainsAny(string(v), "eE") {
		return json.Number(strconv.FormatFloat(f, 'f', -1, 64))
	}
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
		if had && reflect.DeepEqual(old, v) {
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
