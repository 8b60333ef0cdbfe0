package event

import (
	"encoding/json"
	"slices"
)

// maxNested is how deep values may be before json.Marshal is asked, which notices those that hold themselves.
const maxNested = 64

// appendJSON appends v, which is nested at that depth, as json.Marshal writes it. What events mostly hold it writes without looking at types and fields by
// name, which would take most of the time; all else it leaves to json.Marshal.
func appendJSON(b []byte, v any, depth int) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		if v {
			return append(b, "true"...), nil
		}
		return append(b, "false"...), nil
	case string:
		if plain(v) {
			return append(append(append(b, '"'), v...), '"'), nil
		}
	case json.Number:
		if digits(string(v)) {
			return append(b, v...), nil
		}
	case map[string]any:
		if v != nil && depth < maxNested {
			return appendObject(b, v, depth+1)
		}
	case []any:
		if v != nil && depth < maxNested {
			return appendList(b, v, depth+1)
		}
	}
	other, err := json.Marshal(v)
	return append(b, other...), err
}

func appendObject(b []byte, m map[string]any, depth int) (_ []byte, err error) {
	var few [8]string
	keys := few[:0]
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	b = append(b, '{')
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendJSON(b, k, depth); err != nil {
			return b, err
		}
		if b, err = appendJSON(append(b, ':'), m[k], depth); err != nil {
			return b, err
		}
	}
	return append(b, '}'), nil
}

func appendList(b []byte, l []any, depth int) (_ []byte, err error) {
	b = append(b, '[')
	for i, v := range l {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendJSON(b, v, depth); err != nil {
			return b, err
		}
	}
	return append(b, ']'), nil
}

// plain reports whether nothing in s has to be escaped.
func plain(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c > '~', c == '"', c == '\\', c == '<', c == '>', c == '&':
			return false
		}
	}
	return true
}

// digits reports whether s is a whole number of at least one digit that is not negative.
func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != "" && (s[0] != '0' || s == "0")
}
