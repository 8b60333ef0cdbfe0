package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"rootstream/errs"
)

// maxDepth is more than any request of ours nests.
const maxDepth = 16

// unfit says why a body cannot be taken.
type unfit struct {
	errs.Fault
	status int
}

// inspect refuses JSON that encoding/json would let pass and that two readers
// could understand in two ways, or that PostgreSQL could not store: bytes that
// are not UTF-8, NUL, keys given twice, numbers beyond any range, what follows
// the value. It returns nil for a body that is fine.
func inspect(data []byte) *unfit {
	in := inspector{d: json.NewDecoder(bytes.NewReader(data)), broken: !utf8.Valid(data)}
	in.d.UseNumber()
	for {
		t, err := in.d.Token()
		switch {
		case errors.Is(err, io.EOF) && in.done:
			if in.broken { // where nothing is text
				return in.malformed("is not UTF-8")
			}
			return nil
		case in.done:
			return in.malformed("holds more than one value")
		case err != nil:
			return in.syntax(err)
		}
		if f := in.token(t); f != nil {
			return f
		}
	}
}

// inspector walks over the tokens of a body.
type inspector struct {
	d      *json.Decoder
	broken bool // not UTF-8, somewhere
	done   bool // the value is complete
	stack  []level
}

// level is an object or an array that is open.
type level struct {
	keys  map[string]struct{} // nil for an array
	key   string              // whose value comes next; "" if a key does
	named bool
	n     int
}

func (in *inspector) token(t json.Token) *unfit {
	if d, ok := t.(json.Delim); ok {
		return in.bracket(d)
	}
	if top := in.top(); top != nil && top.keys != nil && !top.named {
		return in.name(t.(string)) //nolint:forcetypeassert // the decoder checks that keys are strings
	}
	var f *unfit
	switch v := t.(type) {
	case string:
		if !in.fits(v) {
			f = in.unfit(http.StatusUnprocessableEntity, in.path(), "must be UTF-8 text without NUL")
			if in.broken {
				f.status = http.StatusBadRequest
			}
		}
	case json.Number:
		if _, err := strconv.ParseFloat(v.String(), 64); err != nil {
			f = in.unfit(http.StatusUnprocessableEntity, in.path(), "is a number out of every range")
		}
	}
	in.next()
	return f
}

func (in *inspector) bracket(d json.Delim) *unfit {
	switch d {
	case '{', '[':
		if len(in.stack) == maxDepth {
			return in.unfit(http.StatusBadRequest, in.path(), fmt.Sprintf("is nested more than %d deep", maxDepth))
		}
		l := level{}
		if d == '{' {
			l.keys = map[string]struct{}{}
		}
		in.stack = append(in.stack, l)
	default:
		in.stack = in.stack[:len(in.stack)-1]
		in.next()
	}
	return nil
}

// name notes the key of an object.
func (in *inspector) name(key string) *unfit {
	top := in.top()
	if !in.fits(key) {
		return in.unfit(http.StatusBadRequest, in.path(), "has a name that is not UTF-8 text without NUL")
	}
	top.key, top.named = key, true
	if _, twice := top.keys[key]; twice {
		return in.unfit(http.StatusBadRequest, in.path(), "is given twice")
	}
	top.keys[key] = struct{}{}
	return nil
}

// next is called after each value.
func (in *inspector) next() {
	top := in.top()
	if top == nil {
		in.done = true
		return
	}
	top.named = false
	top.n++
}

func (in *inspector) top() *level {
	if len(in.stack) == 0 {
		return nil
	}
	return &in.stack[len(in.stack)-1]
}

// fits reports whether a text can be stored. The decoder has put U+FFFD in place of broken bytes.
func (in *inspector) fits(s string) bool {
	return strings.IndexByte(s, 0) < 0 && (!in.broken || !strings.ContainsRune(s, utf8.RuneError))
}

// path names the value that is being read.
func (in *inspector) path() string {
	var b strings.Builder
	for _, l := range in.stack {
		switch {
		case l.keys == nil:
			fmt.Fprintf(&b, "[%d]", l.n)
		case l.named:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(l.key)
		}
	}
	if b.Len() == 0 {
		return "body"
	}
	return clip(b.String())
}

func (in *inspector) syntax(err error) *unfit {
	if s, ok := errors.AsType[*json.SyntaxError](err); ok {
		return in.malformed(fmt.Sprintf("is not JSON at byte %d", s.Offset))
	}
	return in.malformed("ends too early to be JSON")
}

func (in *inspector) malformed(message string) *unfit {
	return in.unfit(http.StatusBadRequest, "body", message)
}

func (*inspector) unfit(status int, field, message string) *unfit {
	return &unfit{errs.Fault{Field: field, Message: message}, status}
}

// clip bounds what an answer repeats of a name that a client made up.
func clip(name string) string {
	const longest = 100
	for i := range name {
		if i > longest {
			return name[:i] + "…"
		}
	}
	return name
}
