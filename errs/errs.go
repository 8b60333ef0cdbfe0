// Package errs says what a caller can do about an error.
//
// A room makes its sentinels with [New]: a [Kind], a stable code that clients
// may test for, and a sentence for people. Faults of input are collected by
// field in [Fields]. The faces turn a Kind into an HTTP status or an exit
// code; nothing here knows either.
package errs

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind says what a caller can do about an error.
type Kind uint8

// The kinds of errors. An error without one is Internal.
const (
	Internal        Kind = iota // a fault of ours: report it
	Malformed                   // the input cannot be read at all
	Invalid                     // the input was read and breaks a rule: correct it
	Unauthenticated             // sign in
	Forbidden                   // signed in, but not allowed
	NotFound                    // there is no such thing, for this caller
	Conflict                    // the state of things forbids it: look again
	Precondition                // a stated condition no longer holds: read again
	Gone                        // it was there and is used up or expired: start over
	RateLimited                 // too often: wait
	Unavailable                 // a part is down or busy: retry
)

// Error is an error with a kind, a stable code and, optionally, a field and a remedy.
type Error struct {
	Kind    Kind
	Code    string        // snake_case, part of the public contract
	Message string        // a sentence for people, free of internals and secrets
	Hint    string        // what to do next; may be empty
	Faults  []Fault       // the fields that are wrong, for Malformed and Invalid
	After   time.Duration // when a retry makes sense; 0 means unknown
	cause   error
}

// Fault is one field of an input that breaks a rule.
type Fault struct {
	Field   string `json:"field"`   // JSON path without the leading $
	Message string `json:"message"` // the rule, and how to meet it
}

// New makes a sentinel.
func New(kind Kind, code, message string) *Error {
	return &Error{Kind: kind, Code: code, Message: message}
}

// Error returns the message, the faults and the cause.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Message)
	for i, f := range e.Faults {
		if i == 0 && b.Len() > 0 {
			b.WriteString(": ")
		} else if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s %s", f.Field, f.Message)
	}
	if e.cause != nil {
		fmt.Fprintf(&b, ": %v", e.cause)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is the sentinel e was made from: same kind and code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Kind == e.Kind && t.Code == e.Code
}

// WithCause returns a copy of e that wraps cause.
func (e *Error) WithCause(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// WithHint returns a copy of e with a remedy.
func (e *Error) WithHint(hint string) *Error {
	c := *e
	c.Hint = hint
	return &c
}

// WithRetryAfter returns a copy of e that tells when to retry.
func (e *Error) WithRetryAfter(d time.Duration) *Error {
	c := *e
	c.After = d
	return &c
}

// Of returns the outermost *Error in err's chain, or nil.
func Of(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return nil
}

// KindOf returns err's kind; Internal where none was given.
func KindOf(err error) Kind {
	if e := Of(err); e != nil {
		return e.Kind
	}
	return Internal
}

// CodeOf returns err's code; "internal" where none was given.
func CodeOf(err error) string {
	if e := Of(err); e != nil {
		return e.Code
	}
	return "internal"
}

// RetryAfter returns when to retry; 0 means unknown.
func RetryAfter(err error) time.Duration {
	if e := Of(err); e != nil {
		return e.After
	}
	return 0
}

// FieldsOf returns the faults err names.
func FieldsOf(err error) []Fault {
	if e := Of(err); e != nil {
		return e.Faults
	}
	return nil
}

// NewInvalid is the error of one wrong field.
func NewInvalid(field, message string) *Error {
	return &Error{Kind: Invalid, Code: "invalid", Faults: []Fault{{field, message}}}
}

// Fields collects wrong fields. The zero value is ready.
type Fields struct{ faults []Fault }

// Add notes that field breaks the rule in message.
func (f *Fields) Add(field, message string) {
	f.faults = append(f.faults, Fault{field, message})
}

// Err returns one error with all faults, or nil.
func (f *Fields) Err() error {
	if len(f.faults) == 0 {
		return nil
	}
	return &Error{Kind: Invalid, Code: "invalid", Message: "some fields are not valid", Faults: f.faults}
}
