package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"rootstream/errs"
)

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func usageOf(cmd *cobra.Command, err error) error {
	return usageError{hintedError{err, "see: " + cmd.CommandPath() + " --help"}}
}

// hintedError adds what to do next.
type hintedError struct {
	error
	hint string
}

func (e hintedError) Unwrap() error { return e.error }

// unknownCommand names what comes closest.
func unknownCommand(c *cobra.Command, word string) error {
	err := fmt.Errorf("%s has no command %q", c.CommandPath(), word)
	c.SuggestionsMinimumDistance = 2
	if near := c.SuggestionsFor(word); len(near) > 0 {
		best := slices.MaxFunc(near, func(a, b string) int { return cmp.Compare(alike(a, word), alike(b, word)) })
		return usageError{hintedError{err, "did you mean: " + c.CommandPath() + " " + best}}
	}
	return usageOf(c, err)
}

// alike counts the letters with which both begin.
func alike(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// exitError ends a command with a code of its own, after it has said why.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// exitCode is the contract: 0 ok, 1 failure, 2 usage or configuration, 3 not
// found, 4 permission or wrong key, 5 conflict or precondition, 6 unavailable
// (retry), 7 partial, 8 a check failed.
func exitCode(err error) int {
	if code, ok := errors.AsType[exitError](err); ok {
		return int(code)
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return 6
	}
	switch errs.KindOf(err) {
	case errs.Malformed, errs.Invalid:
		return 2
	case errs.NotFound:
		return 3
	case errs.Unauthenticated, errs.Forbidden:
		return 4
	case errs.Conflict, errs.Precondition, errs.Gone:
		return 5
	case errs.RateLimited, errs.Unavailable:
		return 6
	case errs.Internal:
		return 1
	}
	return 1
}

// report writes an error for people: what, every field, and what to do next.
func report(w io.Writer, err error) {
	if _, quiet := errors.AsType[exitError](err); quiet {
		return
	}
	if faults := errs.FieldsOf(err); len(faults) > 0 {
		for _, f := range faults {
			_, _ = fmt.Fprintf(w, "rootstream: %s %s\n", f.Field, f.Message)
		}
	} else {
		_, _ = fmt.Fprintf(w, "rootstream: %s\n", strings.TrimSpace(err.Error()))
	}
	if hint := hintOf(err); hint != "" {
		_, _ = fmt.Fprintf(w, "  %s\n", hint)
	}
}

// hintOf returns the first hint in err's tree.
func hintOf(err error) string {
	switch e := err.(type) { //nolint:errorlint // each link is looked at
	case *errs.Error:
		if e.Hint != "" {
			return e.Hint
		}
	case hintedError:
		return e.hint
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			if hint := hintOf(one); hint != "" {
				return hint
			}
		}
	}
	if inner := errors.Unwrap(err); inner != nil {
		return hintOf(inner)
	}
	return ""
}
