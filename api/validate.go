package api

import (
	"context"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/session"
)

const (
	validatePath = "/v1/sessions/validate"
	batchPath    = "/v1/sessions/validate-batch"
	forwardPath  = "/v1/auth/forward"
)

// validateRequest is the body of /v1/sessions/validate.
type validateRequest struct {
	Token     string `json:"token" doc:"The token to validate."`
	IP        string `json:"ip,omitempty" doc:"Address of the client that showed it."`
	UserAgent string `json:"user_agent,omitempty" doc:"What the client calls itself; compared with the session's."`
	DeviceID  string `json:"device_id,omitempty" doc:"The device id that the client has; compared with the session's."`
	Strong    bool   `json:"strong,omitempty" doc:"Read PostgreSQL instead of caches."`
}

func (in *validateRequest) hint() (session.ClientHint, error) {
	h := session.ClientHint{DeviceID: in.DeviceID, UserAgent: in.UserAgent, Strong: in.Strong}
	if in.IP == "" {
		return h, nil
	}
	var err error
	if h.IP, err = netip.ParseAddr(in.IP); err != nil {
		return h, errs.NewInvalid("ip", "must be an IP address")
	}
	return h, nil
}

// batchRequest is the body of /v1/sessions/validate-batch.
type batchRequest struct {
	Tokens []string `json:"tokens" maxItems:"1000" nullable:"false" doc:"At most 1000."`
}

// verdict is one answer.
type verdict struct {
	Valid   bool          `json:"valid"`
	Session *validSession `json:"session,omitempty"`
	Device  string        `json:"device,omitempty" enum:"match,changed" doc:"Whether it comes from where the session was made; a signal, never a refusal."`
}

// validSession is what a valid token stands for.
type validSession struct {
	ID              uuid.UUID  `json:"id"`
	UserID          uuid.UUID  `json:"user_id"`
	Role            string     `json:"role" enum:"user,operator,admin"`
	AAL             int        `json:"aal" enum:"1,2" doc:"2: a second factor was proven."`
	Verified        bool       `json:"verified" doc:"The account's e-mail address is."`
	Remembered      bool       `json:"remembered"`
	AuthenticatedAt time.Time  `json:"authenticated_at"`
	MFAAt           *time.Time `json:"mfa_at,omitempty" doc:"When a second factor was last proven."`
	CreatedAt       time.Time  `json:"created_at"`
	ExpiresAt       time.Time  `json:"expires_at"`
}

type validateInput struct{ Body validateRequest }

type batchInput struct{ Body batchRequest }

type batchAnswer struct {
	Items []verdict `json:"items" doc:"In the order of the tokens."`
}

func (s *Server) validateRoutes(tags []string) {
	const callers = "Callers: programs on this machine, and holders of a service token."
	handle(s, huma.Operation{
		OperationID: "validate-session", Method: http.MethodPost, Path: validatePath, Tags: tags,
		Summary: "Is this token valid, and whose is it?", Description: callers,
	}, access{service: true}, func(ctx context.Context, in *validateInput) (*output[verdict], error) {
		hint, err := in.Body.hint()
		if err != nil {
			return nil, err
		}
		view, err := s.deps.Sessions.Validate(ctx, in.Body.Token, hint)
		if err != nil && errs.KindOf(err) != errs.Unauthenticated {
			return nil, err
		}
		return reply(verdictOf(&view, err == nil), nil)
	})
	handle(s, huma.Operation{
		OperationID: "validate-sessions", Method: http.MethodPost, Path: batchPath, Tags: tags,
		Summary: "Validate up to 1000 tokens, answers in order", Description: callers,
	}, access{service: true, body: maxBatchBody}, func(ctx context.Context, in *batchInput) (*output[batchAnswer], error) {
		results, err := s.deps.Sessions.ValidateBatch(ctx, in.Body.Tokens)
		answer := batchAnswer{Items: make([]verdict, len(results))}
		for i := range results {
			answer.Items[i] = verdictOf(&results[i].View, results[i].Valid)
		}
		return reply(answer, err)
	})
	// Envoy asks with the method, and below a prefix with the path, of the request it holds.
	s.mux.HandleFunc(forwardPath, s.forward)
	s.mux.HandleFunc(forwardPath+"/", s.forward)
	s.document(huma.Operation{
		OperationID: "forward-auth", Method: http.MethodGet, Path: forwardPath, Tags: tags, Summary: "Forward-auth for nginx, Envoy and others",
		Description: "Send the client's Authorization and Cookie headers. 200 with X-Rootstream-User, -Session and -Aal, or 401. " +
			"Any method, and any path below this one, does the same. Callers: this machine, or a service token as X-Service-Token.",
		Security: []map[string][]string{{"bearer": {}}, {"cookie": {}}},
	})
}

func verdictOf(v *session.View, valid bool) verdict {
	if !valid {
		return verdict{}
	}
	out := validSession{
		ID: v.SessionID, UserID: v.UserID, Role: v.Role.String(), AAL: int(v.AAL), Verified: v.Verified, Remembered: v.Remembered,
		AuthenticatedAt: session.Time(v.AuthAt), CreatedAt: session.Time(v.CreatedAt), ExpiresAt: session.Time(v.ExpiresAt),
	}
	if v.MFAAt != 0 {
		at := session.Time(v.MFAAt)
		out.MFAAt = &at
	}
	return verdict{Valid: true, Session: &out, Device: v.Device.String()}
}

// forward answers a proxy that asks on behalf of a client.
func (s *Server) forward(w http.ResponseWriter, r *http.Request) {
	view, err := s.forwarded(r, factsOf(r.Context()).peer)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	admitted(w.Header(), &view)
	w.WriteHeader(http.StatusOK)
}

// forwarded finds out on whose behalf a proxy asks.
func (s *Server) forwarded(r *http.Request, p peer) (session.View, error) {
	// What is said here can be learned with the client's token anywhere, so a
	// proxy on this machine may ask, although it says that it is one.
	if !p.local && !s.services.knows(r.Header.Get("X-Service-Token")) {
		return session.View{}, errService.WithHint("call it from this machine, or send a token of service_tokens as X-Service-Token")
	}
	// The caller ends the client's TLS, so it is the one to say whether there is any.
	p.https = p.https || r.Header.Get("X-Forwarded-Proto") == "https"
	token := tokenOf(r, p)
	if token == "" && !p.https { // it may not have said
		token = cookieOf(r, hostCookie)
	}
	if token == "" {
		return session.View{}, errSignIn
	}
	return s.deps.Sessions.Validate(r.Context(), token, session.ClientHint{})
}

func admitted(h http.Header, v *session.View) {
	h["X-Rootstream-User"] = []string{v.UserID.String()}
	h["X-Rootstream-Session"] = []string{v.SessionID.String()}
	h["X-Rootstream-Aal"] = []string{strconv.Itoa(int(v.AAL))}
}

// appendVerdict writes a verdict as JSON: what encoding/json makes of verdictOf, without its work.
func appendVerdict(b []byte, v *session.View, valid bool) []byte {
	if !valid {
		return append(b, `{"valid":false}`...)
	}
	b = append(b, `{"valid":true,"session":{"id":"`...)
	b = appendUUID(b, v.SessionID)
	b = append(b, `","user_id":"`...)
	b = appendUUID(b, v.UserID)
	b = append(b, `","role":"`...)
	b = append(b, v.Role.String()...)
	b = append(b, `","aal":`...)
	b = strconv.AppendUint(b, uint64(v.AAL), 10)
	b = append(b, `,"verified":`...)
	b = strconv.AppendBool(b, v.Verified)
	b = append(b, `,"remembered":`...)
	b = strconv.AppendBool(b, v.Remembered)
	b = appendTime(b, "authenticated_at", v.AuthAt)
	if v.MFAAt != 0 {
		b = appendTime(b, "mfa_at", v.MFAAt)
	}
	b = appendTime(b, "created_at", v.CreatedAt)
	b = appendTime(b, "expires_at", v.ExpiresAt)
	b = append(b, `},"device":"`...)
	b = append(b, v.Device.String()...)
	return append(b, `"}`...)
}

func appendUUID(b []byte, id uuid.UUID) []byte {
	const digits = "0123456789abcdef"
	for i, x := range id {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			b = append(b, '-')
		}
		b = append(b, digits[x>>4], digits[x&15])
	}
	return b
}

func appendTime(b []byte, name string, micros int64) []byte {
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":"`...)
	b = session.Time(micros).AppendFormat(b, time.RFC3339Nano)
	return append(b, '"')
}
