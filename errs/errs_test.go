package errs_test

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rootstream/errs"
)

var errTaken = errs.New(errs.Conflict, "username_taken", "that user name is taken")

func TestAnErrorKeepsItsKindAndCodeHoweverItIsWrapped(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"as it is":     errTaken,
		"wrapped":      fmt.Errorf("create user: %w", errTaken),
		"with a cause": errTaken.WithCause(io.EOF),
		"with a hint":  fmt.Errorf("sign up: %w", errTaken.WithHint("choose another").WithCause(io.EOF).WithRetryAfter(time.Second)),
		"joined":       errors.Join(io.ErrUnexpectedEOF, errTaken),
	} {
		if errs.KindOf(err) != errs.Conflict || errs.CodeOf(err) != "username_taken" {
			t.Errorf("%s: kind %v, code %s", name, errs.KindOf(err), errs.CodeOf(err))
		}
		if !errors.Is(err, errTaken) {
			t.Errorf("%s: not the sentinel it was made from", name)
		}
		if errors.Is(err, errs.New(errs.Conflict, "other", "")) || errors.Is(err, errs.New(errs.Gone, "username_taken", "")) {
			t.Errorf("%s: it is another sentinel too", name)
		}
	}
}

func TestAnErrorWithoutAKindIsInternal(t *testing.T) {
	t.Parallel()
	for _, err := range []error{nil, io.EOF, fmt.Errorf("read: %w", io.EOF)} {
		if errs.KindOf(err) != errs.Internal || errs.CodeOf(err) != "internal" || errs.RetryAfter(err) != 0 ||
			errs.FieldsOf(err) != nil || errs.Of(err) != nil {
			t.Errorf("%v has kind %v, code %s", err, errs.KindOf(err), errs.CodeOf(err))
		}
	}
}

func TestTheOutermostKindCounts(t *testing.T) {
	t.Parallel()
	busy := errs.New(errs.Unavailable, "busy", "busy").WithRetryAfter(time.Second)
	err := fmt.Errorf("sign in: %w", errTaken.WithCause(busy))
	if errs.KindOf(err) != errs.Conflict || errs.RetryAfter(err) != 0 || !errors.Is(err, busy) {
		t.Errorf("%v has kind %v, retry %v", err, errs.KindOf(err), errs.RetryAfter(err))
	}
}

func TestCopiesLeaveTheSentinelAlone(t *testing.T) {
	t.Parallel()
	err := errTaken.WithCause(io.EOF).WithHint("choose another").WithRetryAfter(time.Minute)
	if errTaken.Hint != "" || errTaken.After != 0 || errors.Unwrap(errTaken) != nil {
		t.Errorf("the sentinel became %+v", errTaken)
	}
	if err.Hint != "choose another" || errs.RetryAfter(err) != time.Minute || !errors.Is(err, io.EOF) {
		t.Errorf("the copy is %+v", err)
	}
}

func TestTheTextSaysEverythingForTheLog(t *testing.T) {
	t.Parallel()
	var fields errs.Fields
	fields.Add("email", "must be an address")
	fields.Add("password", "must have 15 characters")
	for want, err := range map[string]error{
		"that user name is taken":       errTaken,
		"that user name is taken: EOF":  errTaken.WithCause(io.EOF),
		"email must be an address":      errs.NewInvalid("email", "must be an address"),
		"email must be an address: EOF": errs.NewInvalid("email", "must be an address").WithCause(io.EOF),
		"create: some fields are not valid: email must be an address; password must have 15 characters": fmt.Errorf("create: %w", fields.Err()),
	} {
		if err.Error() != want {
			t.Errorf("text %q\nwant %q", err.Error(), want)
		}
	}
}

func TestFieldsAreCollected(t *testing.T) {
	t.Parallel()
	var f errs.Fields
	if err := f.Err(); err != nil {
		t.Errorf("no fault is %v", err)
	}
	f.Add("a", "is wrong")
	f.Add("b.0", "is worse")
	err := fmt.Errorf("check: %w", f.Err())
	want := []errs.Fault{{Field: "a", Message: "is wrong"}, {Field: "b.0", Message: "is worse"}}
	if diff := cmp.Diff(want, errs.FieldsOf(err)); diff != "" || errs.KindOf(err) != errs.Invalid || errs.CodeOf(err) != "invalid" {
		t.Errorf("kind %v, code %s, faults (-want +got):\n%s", errs.KindOf(err), errs.CodeOf(err), diff)
	}
	one := errs.FieldsOf(errs.NewInvalid("c", "is odd"))
	if diff := cmp.Diff([]errs.Fault{{Field: "c", Message: "is odd"}}, one); diff != "" {
		t.Error(diff)
	}
}
