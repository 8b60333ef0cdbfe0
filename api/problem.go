package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rootstream/errs"
)

// Problem is an error answer: RFC 9457, with a stable code and the request's id.
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
	for k, v := range p.header {
		h[k] = v
	}
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
func problemOf(ctx context.Context, log *slog.Logger, err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	kind := errs.KindOf(err)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		kind = errs.Unavailable
	}
	p := &Problem{Type: "about:blank", Status: statusOf(kind), RequestID: requestID(ctx), Code: errs.CodeOf(err)}
	p.Title = http.StatusText(p.Status)
	if e := errs.Of(err); e != nil {
		p.Detail, p.Hint, p.Errors, p.after = e.Message, e.Hint, e.Faults, e.After
	}
	switch kind { //nolint:exhaustive // the others need nothing more
	case errs.Internal:
		log.ErrorContext(ctx, "request failed", "err", err, "request_id", p.RequestID)
		p.Detail, p.Code = "something went wrong on our side", "internal"
	case errs.Unavailable:
		log.WarnContext(ctx, "request refused", "err", err, "request_id", p.RequestID)
		p.after = max(p.after, time.Second)
		if p.Detail == "" {
			p.Detail, p.Code = "this took too long, try again", "timeout"
		}
	case errs.RateLimited:
		p.after = max(p.after, time.Second)
	case errs.Unauthenticated:
		p.header = http.Header{"Www-Authenticate": {"Bearer"}}
	case errs.Forbidden:
		if p.Code == "aal_required" { // RFC 9470
			p.header = http.Header{"Www-Authenticate": {`Bearer error="insufficient_user_authentication", acr_values="aal2", max_age=900`}}
		}
	}
	return p
}

// write sends a problem outside huma.
func (p *Problem) write(w http.ResponseWriter) {
	for k, v := range p.GetHeaders() {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

//nolint:gochecknoglobals // huma keeps its error constructor in a package variable
var teachHuma sync.Once

// useProblems makes huma answer its own findings in our form. Values are never
// echoed: they may be passwords.
func useProblems() {
	teachHuma.Do(func() {
		huma.NewErrorWithContext = func(ctx huma.Context, status int, msg string, found ...error) huma.StatusError {
			p := &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: codeOf(status), Detail: msg}
			if ctx != nil {
				p.RequestID = requestID(ctx.Context())
			}
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
	case http.StatusNotFound:
		return "not_found"
	case http.StatusMethodNotAllowed:
		return "method_not_allowed"
	default:
		return "internal"
	}
}

// fieldMark separates the field from the message in errors that cross huma as text.
const fieldMark = "\x1f"

func faultOf(err error) errs.Fault {
	d, ok := errors.AsType[*huma.ErrorDetail](err)
	if !ok {
		return errs.Fault{Field: "body", Message: "cannot be read"}
	}
	field, message := strings.TrimPrefix(d.Location, "body."), d.Message
	if at, rest, marked := strings.Cut(message, fieldMark); marked {
		field, message = at, rest
	}
	return errs.Fault{Field: field, Message: message}
}
