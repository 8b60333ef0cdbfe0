package event

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// ReadObject reads what is one JSON object and nothing else, as a decoder of encoding/json does that leaves numbers as they are
// written, but without looking at types, which would take most of the time. False leaves to that what has escapes, exponents
// or very deep values in it, which events seldom hold, and whatever is wrong.
func ReadObject(b []byte) (map[string]any, bool) {
	r := reader{rest: b}
	if r.next() != '{' {
		return nil, false
	}
	object, ok := r.object(1)
	return object, ok && r.next() == 0 && len(r.rest) == 0
}

// reader is at the beginning of the rest.
type reader struct{ rest []byte }

// next skips white space and tells what comes then; 0 if nothing does.
func (r *reader) next() byte {
	for i, c := range r.rest {
		if c != ' ' && c != '\n' && c != '\r' && c != '\t' {
			r.rest = r.rest[i:]
			return c
		}
	}
	r.rest = nil
	return 0
}

// value reads what is nested that deep.
func (r *reader) value(depth int) (any, bool) {
	switch c := r.next(); {
	case c == '"':
		return r.text()
	case c == '{' && depth < maxNested:
		return r.object(depth + 1)
	case c == '[' && depth < maxNested:
		return r.list(depth + 1)
	case c == '-' || '0' <= c && c <= '9':
		return r.number()
	case c == 't':
		return true, r.word("true")
	case c == 'f':
		return false, r.word("false")
	default:
		return nil, r.word("null")
	}
}

func (r *reader) object(depth int) (map[string]any, bool) {
	object := map[string]any{}
	return object, r.items('}', func() bool {
		if r.next() != '"' {
			return false
		}
		key, ok := r.text()
		if !ok || r.next() != ':' {
			return false
		}
		r.rest = r.rest[1:]
		object[key], ok = r.value(depth)
		return ok
	})
}

func (r *reader) list(depth int) ([]any, bool) {
	list := []any{}
	ok := r.items(']', func() bool {
		v, ok := r.value(depth)
		list = append(list, v)
		return ok
	})
	return list, ok
}

// items reads from the bracket that opens to the one that closes.
func (r *reader) items(last byte, item func() bool) bool {
	r.rest = r.rest[1:]
	if r.next() == last {
		r.rest = r.rest[1:]
		return true
	}
	for item() {
		sep := r.next()
		if sep != ',' && sep != last {
			return false
		}
		if r.rest = r.rest[1:]; sep == last {
			return true
		}
	}
	return false
}

func (r *reader) word(w string) bool {
	if len(r.rest) < len(w) || string(r.rest[:len(w)]) != w {
		return false
	}
	r.rest = r.rest[len(w):]
	return true
}

// text reads a string. It is a copy: nobody is to hold all that was read for the sake of a part.
func (r *reader) text() (string, bool) {
	ascii := true
	for i, c := range r.rest[1:] {
		switch {
		case c == '"':
			s := r.rest[1 : 1+i]
			r.rest = r.rest[2+i:]
			return string(s), ascii || utf8.Valid(s)
		case c < ' ' || c == '\\':
			return "", false
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	return "", false
}

// number reads one without an exponent. What it leaves, nothing takes.
func (r *reader) number() (json.Number, bool) {
	n := 0
	for n < len(r.rest) && (r.rest[n] == '-' || r.rest[n] == '.' || '0' <= r.rest[n] && r.rest[n] <= '9') {
		n++
	}
	number := string(r.rest[:n])
	r.rest = r.rest[n:]
	whole, fraction, point := strings.Cut(strings.TrimPrefix(number, "-"), ".")
	return json.Number(number), digits(whole) && (!point || digits("1"+fraction) && fraction != "")
}
