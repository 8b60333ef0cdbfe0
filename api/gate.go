package api

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"rootstream/api/strict"
	"rootstream/auth"
	"rootstream/errs"
	"rootstream/session"
)

// access is who may call an operation.
type access struct {
	public  bool         // anybody
	service bool         // programs on this machine and holders of a service token, instead of people
	role    session.Role // the least role
	partway bool         // those as well who must set up a second factor before they may do anything else
	fresh   bool         // who they are was proven a short while ago, with the second factor if there is one
	body    int          // largest body; 0 means maxBody
	patch   bool         // the body may call itself a merge patch
}

// The kinds of access.
//
//nolint:gochecknoglobals // constants
var (
	anybody     = access{public: true}
	anyUser     = access{role: session.RoleUser}
	enrolling   = access{role: session.RoleUser, partway: true}
	anyOperator = access{role: session.RoleOperator}
	operating   = access{role: session.RoleOperator, fresh: true}
	freshAdmin  = access{role: session.RoleAdmin, fresh: true}
)

// Errors of access.
var (
	errSignIn = errs.New(errs.Unauthenticated, "unauthenticated", "sign in").
			WithHint("send the session token as: Authorization: Bearer sst_…")
	errService = errs.New(errs.Unauthenticated, "service_token_required", "this route is for services").
			WithHint("call it from this machine, or send a token of service_tokens as a bearer token")
)

// handle registers one operation: who may call it, and the function that answers.
func handle[I, O any](s *Server, op huma.Operation, a access, fn func(context.Context, *I) (*O, error)) {
	op.MaxBodyBytes = -1    // the gate has read it
	op.BodyReadTimeout = -1 // likewise; a deadline that passes under a slow handler ends the connection's context for good
	op.Middlewares = append(op.Middlewares, s.gate(a))
	op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusTooManyRequests, http.StatusServiceUnavailable)
	if op.Method != http.MethodGet && op.Method != http.MethodDelete {
		op.Errors = append(op.Errors, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	switch {
	case a.service:
		op.Security = []map[string][]string{{"service": {}}}
		op.Errors = append(op.Errors, http.StatusUnauthorized)
	case !a.public:
		op.Security = []map[string][]string{{"bearer": {}}, {"cookie": {}}}
		op.Errors = append(op.Errors, http.StatusUnauthorized, http.StatusForbidden)
	}
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := fn(ctx, in)
		if err != nil {
			return nil, problemOf(ctx, s.log, err)
		}
		return out, nil
	})
}

// humaContext has a method Context, so it cannot be embedded under that name.
type humaContext = huma.Context

// call is a request behind the gate: its body has been read.
type call struct {
	humaContext
	body io.Reader
}

// BodyReader is the body once more.
func (c *call) BodyReader() io.Reader { return c.body }

// Unwrap leads to the context of the router.
func (c *call) Unwrap() huma.Context { return c.humaContext }

// gate lets through whom a allows, before the body is even read, and refuses
// what no handler could take.
func (s *Server) gate(a access) func(huma.Context, func(huma.Context)) {
	if a.body == 0 {
		a.body = maxBody
	}
	return func(hc huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(hc)
		body, err := s.enter(w, r, hc.Operation(), a)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		next(&call{hc, body})
	}
}

func (s *Server) enter(w http.ResponseWriter, r *http.Request, op *huma.Operation, a access) (io.Reader, error) {
	if err := s.admit(r, a); err != nil {
		return nil, err
	}
	if err := checkQuery(r); err != nil {
		return nil, err
	}
	if op.RequestBody == nil {
		return http.NoBody, nil
	}
	return readJSON(w, r, a)
}

// admit finds out who calls and whether they may.
func (s *Server) admit(r *http.Request, a access) error {
	ctx := r.Context()
	if _, bounded := ctx.Deadline(); !bounded { // what goes on for long begins as soon as others
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.cfg.RequestTimeout)
		defer cancel()
	}
	f := factsOf(ctx)
	switch {
	case a.public:
		return nil
	case a.service:
		if !s.services.admit(r, &f.peer) {
			return errService
		}
		return nil
	case f.token == "":
		return errSignIn
	}
	view, err := s.deps.Sessions.Validate(ctx, f.token, session.ClientHint{})
	if err != nil {
		return err
	}
	f.principal = auth.Principal{View: view}
	if err := f.principal.RequireRole(a.role); err != nil {
		return err
	}
	if r.Method != http.MethodGet {
		if err := s.deps.Auth.AllowWrite(ctx, f.principal); err != nil {
			return err
		}
	}
	if !a.partway {
		if err := s.deps.Auth.RequireFactor(ctx, f.principal); err != nil {
			return err
		}
	}
	if a.fresh {
		return s.deps.Auth.RequireFresh(ctx, f.principal)
	}
	return nil
}

// checkQuery refuses what could not be read, or not be stored, in a query.
func checkQuery(r *http.Request) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return newProblem(r.Context(), http.StatusBadRequest, "the query cannot be read")
	}
	var f errs.Fields
	for name, values := range query {
		switch {
		case !utf8.ValidString(name) || strings.ContainsRune(name, 0):
			f.Add("query", "must be UTF-8 text without NUL")
		case len(values) > 1:
			f.Add(strict.Clip(name), "is given more than once")
		case !utf8.ValidString(values[0]) || strings.ContainsRune(values[0], 0):
			f.Add(strict.Clip(name), "must be UTF-8 text without NUL")
		}
	}
	return f.Err()
}

// fail writes an error outside huma.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(r.Context(), s.log, err)
	h := w.Header()
	maps.Copy(h, p.GetHeaders())
	h.Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

// serviceTokens knows the callers of validate and forward by the hash of their token.
type serviceTokens map[[32]byte]string

func newServiceTokens(byToken map[string]string) serviceTokens {
	known := serviceTokens{}
	for token, name := range byToken {
		known[sha256.Sum256([]byte(token))] = name
	}
	return known
}

// admit reports whether a request may ask about other people's tokens.
func (t serviceTokens) admit(r *http.Request, p *peer) bool {
	if p.onMachine(r) {
		return true
	}
	token, ok := bearer(r.Header)
	return ok && t.knows(token)
}

// knows compares by hash, so the time it takes tells nothing about a token.
func (t serviceTokens) knows(token string) bool {
	if token == "" || len(token) > 512 {
		return false
	}
	_, known := t[sha256.Sum256([]byte(token))]
	return known
}
