// Package strict refuses JSON that two readers could understand in two ways.
//
// The door is [Check]; it decides, keeps nothing and knows no HTTP. What a
// decoder makes of a text that passes is up to that decoder.
package strict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"rootstream/errs"
)

// maxDepth is more than any request of ours nests.
const maxDepth = 16

// Errors of a text that cannot be taken; the fault names the value.
var (
	errMalformed = errs.New(errs.Malformed, "malformed", "the body cannot be taken")
	errInvalid   = errs.New(errs.Invalid, "invalid", "the body cannot be taken")
)

// Check refuses what encoding/json would let pass and two readers could
// understand in two ways, or PostgreSQL could not store: bytes that are not
// UTF-8, NUL, keys given twice, numbers beyond any range, what follows the value.
// The error is of kind Malformed, or Invalid where only a value is at fault.
func Check(data []byte) error {
	in := inspector{d: json.NewDecoder(bytes.NewReader(data)), broken: !utf8.Valid(data)}
	in.d.UseNumber()
	for {
		t, err := in.d.Token()
		switch {
		case errors.Is(err, io.EOF) && in.done:
			if in.broken { // where nothing is text
				return malformed("is not UTF-8")
			}
			return nil
		case in.done:
			return malformed("holds more than one value")
		case err != nil:
			return syntax(err)
		}
		if err := in.token(t); err != nil {
			return err
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

func (in *inspector) token(t json.Token) error {
	if d, ok := t.(json.Delim); ok {
		return in.bracket(d)
	}
	if top := in.top(); top != nil && top.keys != nil && !top.named {
		return in.name(t.(string)) //nolint:forcetypeassert // the decoder checks that keys are strings
	}
	var err error
	switch v := t.(type) {
	case string:
		if !in.fits(v) {
			kind := errInvalid
			if in.broken {
				kind = errMalformed
			}
			err = at(kind, in.path(), "must be UTF-8 text without NUL")
		}
	case json.Number:
		if _, out := strconv.ParseFloat(v.String(), 64); out != nil {
			err = at(errInvalid, in.path(), "is a number out of every range")
		}
	}
	in.next()
	return err
}

func (in *inspector) bracket(d json.Delim) error {
	switch d {
	case '{', '[':
		if len(in.stack) == maxDepth {
			return at(errMalformed, in.path(), fmt.Sprintf("is nested more than %d deep", maxDepth))
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
func (in *inspector) name(key string) error {
	top := in.top()
	if !in.fits(key) {
		return at(errMalformed, in.path(), "has a name that is not UTF-8 text without NUL")
	}
	top.key, top.named = key, true
	if _, twice := top.keys[key]; twice {
		return at(errMalformed, in.path(), "is given twice")
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
	return Clip(b.String())
}

func syntax(err error) error {
	if s, ok := errors.AsType[*json.SyntaxError](err); ok {
		return malformed(fmt.Sprintf("is not JSON at byte %d", s.Offset))
	}
	return malformed("ends too early to be JSON")
}

// malformed is what is wrong with the text as a whole.
func malformed(message string) error { return at(errMalformed, "body", message) }

// at says which value is at fault.
func at(kind *errs.Error, field, message string) error {
	e := *kind
	e.Faults = []errs.Fault{{Field: field, Message: message}}
	return &e
}

// Clip bounds what an answer repeats of a name that a client made up.
func Clip(name string) string {
	const longest = 100
	for i := range name {
		if i > longest {
			return name[:i] + "…"
		}
	}
	return name
}
