package api

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rootstream/auth"
	"rootstream/errs"
	"rootstream/session"
)

// access is who may call an operation.
type access struct {
	public bool         // anybody
	role   session.Role // the least role
	fresh  bool         // a second factor proven a short while ago, if the account has one
}

// Errors of access.
var (
	errSignIn = errs.New(errs.Unauthenticated, "unauthenticated", "sign in").
			WithHint("send the session token as: Authorization: Bearer sst_…")
	errService = errs.New(errs.Unauthenticated, "unauthenticated", "this route is for services").
			WithHint("call it from this machine, or send a token of service_tokens as a bearer token")
)

// handle registers one operation: who may call it, and the function that answers.
func handle[I, O any](s *Server, op huma.Operation, a access, fn func(context.Context, *I) (*O, error)) {
	op.MaxBodyBytes = maxBody
	op.Middlewares = append(op.Middlewares, s.gate(a))
	op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusTooManyRequests, http.StatusServiceUnavailable)
	if !a.public {
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

// gate lets through whom a allows, before the input is even read.
func (s *Server) gate(a access) func(huma.Context, func(huma.Context)) {
	return func(hc huma.Context, next func(huma.Context)) {
		ctx := hc.Context()
		cookies, _ := http.ParseCookie(hc.Header("Cookie"))
		ctx = context.WithValue(ctx, requestKey, requestFacts{
			token: tokenOf(hc.Header("Authorization"), cookies), device: deviceOf(hc.Header(deviceHeader), cookies),
			userAgent: hc.Header("User-Agent"),
		})
		if !a.public {
			p, err := s.principal(ctx)
			if err == nil {
				err = s.allowed(ctx, p, a)
			}
			if err != nil {
				s.refuse(hc, problemOf(ctx, s.log, err))
				return
			}
			ctx = context.WithValue(ctx, principalKey, p)
		}
		next(huma.WithContext(hc, ctx))
	}
}

func (s *Server) allowed(ctx context.Context, p auth.Principal, a access) error {
	if err := p.RequireRole(a.role); err != nil {
		return err
	}
	if a.fresh {
		return s.deps.Auth.RequireFresh(ctx, p)
	}
	return nil
}

func (s *Server) refuse(hc huma.Context, p *Problem) {
	for k, v := range p.GetHeaders() {
		hc.SetHeader(k, v[0])
	}
	hc.SetHeader("Content-Type", p.ContentType(""))
	hc.SetStatus(p.Status)
	_ = json.NewEncoder(hc.BodyWriter()).Encode(p)
}

// requestFacts is what a handler may want to know of the request itself.
type requestFacts struct {
	token     string
	device    string
	userAgent string
}

func factsOf(ctx context.Context) requestFacts {
	f, _ := ctx.Value(requestKey).(requestFacts)
	return f
}

// principal validates the request's token.
func (s *Server) principal(ctx context.Context) (auth.Principal, error) {
	token := factsOf(ctx).token
	if token == "" {
		return auth.Principal{}, errSignIn
	}
	view, err := s.deps.Sessions.Validate(ctx, token, session.ClientHint{})
	if err != nil {
		return auth.Principal{}, err
	}
	return auth.Principal{View: view}, nil
}

// caller is who made an authenticated request.
func caller(ctx context.Context) auth.Principal {
	p, _ := ctx.Value(principalKey).(auth.Principal)
	return p
}

// client describes where a request comes from, for limits and for the record.
func client(ctx context.Context) auth.Client {
	f := factsOf(ctx)
	p, _ := ctx.Value(clientKey).(peer)
	return auth.Client{IP: p.addr, UserAgent: f.userAgent, DeviceID: f.device, RequestID: requestID(ctx)}
}

// tokenOf takes the bearer token, else the cookie's.
func tokenOf(authorization string, cookies []*http.Cookie) string {
	if scheme, token, ok := strings.Cut(authorization, " "); ok && strings.EqualFold(scheme, "bearer") {
		return strings.TrimSpace(token)
	}
	for _, c := range cookies {
		if c.Name == hostCookie || c.Name == plainCookie {
			return c.Value
		}
	}
	return ""
}

func deviceOf(header string, cookies []*http.Cookie) string {
	if header != "" {
		return header
	}
	for _, c := range cookies {
		if c.Name == hostDeviceCookie || c.Name == plainDeviceCookie {
			return c.Value
		}
	}
	return ""
}

const (
	hostCookie        = "__Host-rootstream"
	plainCookie       = "rootstream"
	hostDeviceCookie  = "__Host-rootstream-device"
	plainDeviceCookie = "rootstream-device"
	deviceHeader      = "X-Device-Id"
)

// cookies are those a sign-in sets. Over plain http, which is served on
// loopback only, the __Host- prefix would make browsers drop them.
func sessionCookies(ctx context.Context, token, device string, until time.Time) []http.Cookie {
	p, _ := ctx.Value(clientKey).(peer)
	name, deviceName := hostCookie, hostDeviceCookie
	if !p.https {
		name, deviceName = plainCookie, plainDeviceCookie
	}
	base := http.Cookie{Path: "/", HttpOnly: true, Secure: p.https, SameSite: http.SameSiteLaxMode}
	signIn, known := base, base
	signIn.Name, signIn.Value, signIn.Expires = name, token, until
	if token == "" {
		signIn.MaxAge = -1
		return []http.Cookie{signIn}
	}
	known.Name, known.Value, known.MaxAge = deviceName, device, int((365 * 24 * time.Hour).Seconds())
	return []http.Cookie{signIn, known}
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

// admits reports whether a request may ask about other people's tokens.
func (t serviceTokens) admits(r *http.Request, p peer) bool {
	if p.loopback {
		return true
	}
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	return ok && strings.EqualFold(scheme, "bearer") && t.knows(token)
}

// knows compares by hash, so the time it takes tells nothing about a token.
func (t serviceTokens) knows(token string) bool {
	if token == "" || len(token) > 512 {
		return false
	}
	_, known := t[sha256.Sum256([]byte(token))]
	return known
}
