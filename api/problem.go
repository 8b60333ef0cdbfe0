package api

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"

	"rootstream/api/strict"
	"rootstream/errs"
)

// Problem is an error answer: RFC 9457, with a stable code and the request's id.
//
//nolint:errname // the name of the schema that clients see
type Problem struct {
	Type      string       `json:"type" doc:"Always about:blank; code tells problems apart."`
	Title     string       `json:"title" doc:"The status in words."`
	Status    int          `json:"status" doc:"The HTTP status."`
	Code      string       `json:"code" doc:"Stable, for programs to test."`
	Detail    string       `json:"detail,omitempty" doc:"What happened, for people."`
	Hint      string       `json:"hint,omitempty" doc:"What to do next."`
	RequestID string       `json:"request_id,omitempty" doc:"Names this request in the logs."`
	Errors    []errs.Fault `json:"errors,omitempty" doc:"The fields that are wrong."`
	after     time.Duration
	header    http.Header
}

// newProblem is a problem of the transport.
func newProblem(ctx context.Context, status int, detail string) *Problem {
	return &Problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status, Code: codeOf(status),
		Detail: detail, RequestID: requestID(ctx),
	}
}

// Error is the detail.
func (p *Problem) Error() string { return p.Detail }

// GetStatus is the HTTP status; huma asks for it.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders are the headers that go with the problem; huma asks for them.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.after > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(p.after.Seconds()))))
	}
	maps.Copy(h, p.header)
	return h
}

// ContentType is that of problems.
func (*Problem) ContentType(string) string { return "application/problem+json" }

// statusOf is the one place that maps kinds to HTTP.
func statusOf(kind errs.Kind) int {
	switch kind {
	case errs.Malformed:
		return http.StatusBadRequest
	case errs.Invalid:
		return http.StatusUnprocessableEntity
	case errs.Unauthenticated:
		return http.StatusUnauthorized
	case errs.Forbidden:
		return http.StatusForbidden
	case errs.NotFound:
		return http.StatusNotFound
	case errs.Conflict:
		return http.StatusConflict
	case errs.Precondition:
		return http.StatusPreconditionFailed
	case errs.Gone:
		return http.StatusGone
	case errs.RateLimited:
		return http.StatusTooManyRequests
	case errs.Unavailable:
		return http.StatusServiceUnavailable
	case errs.Internal:
		return http.StatusInternalServerError
	}
	return http.StatusInternalServerError
}

// problemOf turns an error into the answer a client may see. What an internal
// error says goes to the log only.
func problemOf(ctx context.Context, logger *slog.Logger, err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	kind, e := errs.KindOf(err), errs.Of(err)
	if kind == errs.Internal && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		kind, e = errs.Unavailable, errTimeout
	}
	if kind == errs.Unauthenticated && e.Code == errSignIn.Code {
		e = errSignIn // one body, whatever is wrong with a token
	}
	p := newProblem(ctx, statusOf(kind), "")
	if e != nil {
		p.Code, p.Detail, p.Hint, p.Errors, p.after = e.Code, e.Message, e.Hint, e.Faults, e.After
	}
	switch kind { //nolint:exhaustive // the others need nothing more
	case errs.Internal:
		logger.ErrorContext(ctx, "request failed", "err", err, "request_id", p.RequestID)
		p.Code, p.Detail, p.Hint, p.Errors = errPanic.Code, errPanic.Message, "", nil
	case errs.Unavailable:
		logger.WarnContext(ctx, "request refused", "err", err, "request_id", p.RequestID)
		p.after = max(p.after, time.Second)
	case errs.RateLimited:
		p.after = max(p.after, time.Second)
	case errs.Invalid:
		if p.Detail == "" {
			p.Detail = "some fields are not valid"
		}
	case errs.Unauthenticated:
		p.header = http.Header{"Www-Authenticate": {"Bearer"}}
	case errs.Forbidden:
		if p.Code == "aal_required" { // RFC 9470
			p.header = http.Header{"Www-Authenticate": {`Bearer error="insufficient_user_authentication", acr_values="aal2", max_age=900`}}
		}
	}
	return p
}

// renamed is err with the field of a domain under the name that the request has for it.
func renamed(err error, field, name string) error {
	e := errs.Of(err)
	if e == nil || len(e.Faults) == 0 {
		return err
	}
	c := *e
	c.Faults = slices.Clone(e.Faults)
	for i := range c.Faults {
		if c.Faults[i].Field == field {
			c.Faults[i].Field = name
		}
	}
	return &c
}

var errTimeout = errs.New(errs.Unavailable, "timeout", "this took too long, try again")

//nolint:gochecknoglobals // huma keeps its error constructor, its texts and its strictness in package variables
var teachHuma sync.Once

// useProblems makes huma answer its own findings in our form. Values are never
// echoed: they may be passwords.
func useProblems() {
	teachHuma.Do(func() {
		huma.ValidateStrictCasing = true // else two spellings of one name could say two things
		validation.MsgExpectedRequiredProperty = "%s" + fieldMark + "is required"
		validation.MsgUnexpectedProperty = "is not a field of this request"
		huma.NewErrorWithContext = func(hc huma.Context, status int, msg string, found ...error) huma.StatusError {
			ctx := context.Background()
			if hc != nil {
				ctx = hc.Context()
			}
			p := newProblem(ctx, status, msg)
			for _, err := range found {
				p.Errors = append(p.Errors, faultOf(err))
			}
			return p
		}
		huma.NewError = func(status int, msg string, found ...error) huma.StatusError {
			return huma.NewErrorWithContext(nil, status, msg, found...)
		}
	})
}

// codeOf is the code of problems that the transport or huma finds.
func codeOf(status int) string {
	switch status {
	case http.StatusUnprocessableEntity:
		return "invalid"
	case http.StatusBadRequest:
		return "malformed"
	case http.StatusRequestEntityTooLarge:
		return "too_large"
	case http.StatusUnsupportedMediaType:
		return "unsupported_media_type"
	case http.StatusMethodNotAllowed:
		return "method_not_allowed"
	default:
		return "internal"
	}
}

// fieldMark separates the field from the message in errors that cross huma as text.
const fieldMark = "\x1f"

// faultOf names a field as the client knows it, wherever it stood.
func faultOf(err error) errs.Fault {
	d, ok := errors.AsType[*huma.ErrorDetail](err)
	if !ok {
		return errs.Fault{Field: "body", Message: "cannot be read"}
	}
	place, field, _ := strings.Cut(d.Location, ".")
	message := d.Message
	switch at, rest, marked := strings.Cut(message, fieldMark); {
	case marked && field != "":
		field, message = field+"."+at, rest
	case marked:
		field, message = at, rest
	case field == "":
		field = place
	}
	if place == "path" {
		message = "must be a UUID"
	}
	return errs.Fault{Field: strict.Clip(field), Message: message}
}
