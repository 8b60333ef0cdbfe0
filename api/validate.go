package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/session"
)

// maxBatchBody holds 1000 tokens of the longest kind that is still common.
const maxBatchBody = 256 << 10

// validateRequest is the body of /v1/sessions/validate.
type validateRequest struct {
	Token     string `json:"token" doc:"The token to validate."`
	IP        string `json:"ip,omitempty" doc:"Address of the client that showed it."`
	UserAgent string `json:"user_agent,omitempty"`
	DeviceID  string `json:"device_id,omitempty"`
	Strong    bool   `json:"strong,omitempty" doc:"Read PostgreSQL instead of caches."`
}

// batchRequest is the body of /v1/sessions/validate-batch.
type batchRequest struct {
	Tokens []string `json:"tokens" doc:"At most 1000."`
}

// validation is one answer.
type validation struct {
	Valid   bool          `json:"valid"`
	Session *validSession `json:"session,omitempty"`
	Device  string        `json:"device,omitempty" enum:"match,changed" doc:"Whether it comes from where the session was made; a signal, never a refusal."`
}

// validSession is what a valid token stands for.
type validSession struct {
	ID              uuid.UUID  `json:"id"`
	UserID          uuid.UUID  `json:"user_id"`
	Role            string     `json:"role"`
	AAL             uint8      `json:"aal"`
	Verified        bool       `json:"verified"`
	Remembered      bool       `json:"remembered"`
	AuthenticatedAt time.Time  `json:"authenticated_at"`
	MFAAt           *time.Time `json:"mfa_at,omitempty"`
	CreatedAt       time.Time  `json:"created_at"`
	ExpiresAt       time.Time  `json:"expires_at"`
}

type batchAnswer struct {
	Items []validation `json:"items"`
}

func (s *Server) validateRoutes(tags []string) {
	const callers = " Callers: this machine, or a service token."
	s.mux.HandleFunc("POST /v1/sessions/validate", s.validate)
	s.mux.HandleFunc("POST /v1/sessions/validate-batch", s.validateBatch)
	s.mux.HandleFunc("GET /v1/auth/forward", s.forward)
	schema := s.api.OpenAPI().Components.Schemas
	describe := func(id, path, summary string, in, out *huma.Schema) {
		s.document(huma.Operation{
			OperationID: id, Method: http.MethodPost, Path: path, Tags: tags, Summary: summary, Description: callers[1:],
			Security:    []map[string][]string{{"bearer": {}}},
			RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: in}}},
			Responses:   map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{"application/json": {Schema: out}}}},
		})
	}
	describe("validate-session", "/v1/sessions/validate", "Is this token valid, and whose is it?",
		huma.SchemaFromType(schema, typeOf[validateRequest]()), huma.SchemaFromType(schema, typeOf[validation]()))
	describe("validate-sessions", "/v1/sessions/validate-batch", "Validate up to 1000 tokens, answers in order",
		huma.SchemaFromType(schema, typeOf[batchRequest]()), huma.SchemaFromType(schema, typeOf[batchAnswer]()))
	s.document(huma.Operation{
		OperationID: "forward-auth", Method: http.MethodGet, Path: "/v1/auth/forward", Tags: tags, Summary: "Forward-auth for nginx, Envoy and others",
		Description: "Send the client's Authorization and Cookie headers; a service token goes into X-Service-Token. 200 with X-Rootstream-User, -Session and -Aal, or 401." + callers,
	})
}

func (s *Server) validate(w http.ResponseWriter, r *http.Request) {
	var in validateRequest
	if !s.readHot(w, r, &in, maxBody) {
		return
	}
	hint := session.ClientHint{DeviceID: in.DeviceID, UserAgent: in.UserAgent, Strong: in.Strong}
	if in.IP != "" {
		ip, err := netip.ParseAddr(in.IP)
		if err != nil {
			problemOf(r.Context(), s.log, errs.NewInvalid("ip", "must be an IP address")).write(w)
			return
		}
		hint.IP = ip
	}
	view, err := s.deps.Sessions.Validate(r.Context(), in.Token, hint)
	if err != nil && errs.KindOf(err) != errs.Unauthenticated {
		problemOf(r.Context(), s.log, err).write(w)
		return
	}
	w.Header()["Content-Type"] = jsonType
	buf := make([]byte, 0, 512)
	_, _ = w.Write(appendValidation(buf, &view, err == nil))
}

//nolint:gochecknoglobals // a header value that never changes
var jsonType = []string{"application/json"}

// appendValidation writes a validation as JSON; it is the hot path of other people's services.
func appendValidation(b []byte, v *session.View, valid bool) []byte {
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
	var text [36]byte
	out, _ := id.MarshalText() // never fails
	copy(text[:], out)
	return append(b, text[:]...)
}

func appendTime(b []byte, name string, micros int64) []byte {
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":"`...)
	b = session.Time(micros).AppendFormat(b, time.RFC3339Nano)
	return append(b, '"')
}

func (s *Server) validateBatch(w http.ResponseWriter, r *http.Request) {
	var in batchRequest
	if !s.readHot(w, r, &in, maxBatchBody) {
		return
	}
	if len(in.Tokens) == 0 || len(in.Tokens) > session.MaxBatch {
		problemOf(r.Context(), s.log, errs.NewInvalid("tokens", fmt.Sprintf("must hold 1 to %d tokens", session.MaxBatch))).write(w)
		return
	}
	results, err := s.deps.Sessions.ValidateBatch(r.Context(), in.Tokens)
	if err != nil {
		problemOf(r.Context(), s.log, err).write(w)
		return
	}
	b := make([]byte, 0, 64+400*len(results))
	b = append(b, `{"items":[`...)
	for i := range results {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendValidation(b, &results[i].View, results[i].Valid)
	}
	w.Header()["Content-Type"] = jsonType
	_, _ = w.Write(append(b, `]}`...))
}

// forward answers a proxy that asks on behalf of a client.
func (s *Server) forward(w http.ResponseWriter, r *http.Request) {
	if p, _ := r.Context().Value(clientKey).(peer); !p.loopback && !s.services.knows(r.Header.Get("X-Service-Token")) {
		problemOf(r.Context(), s.log, errService.WithHint("call it from this machine, or send a token of service_tokens as X-Service-Token")).write(w)
		return
	}
	token := tokenOf(r.Header.Get("Authorization"), r.Cookies())
	if token == "" {
		problemOf(r.Context(), s.log, errSignIn).write(w)
		return
	}
	view, err := s.deps.Sessions.Validate(r.Context(), token, session.ClientHint{UserAgent: r.UserAgent()})
	if err != nil {
		problemOf(r.Context(), s.log, err).write(w)
		return
	}
	h := w.Header()
	h.Set("X-Rootstream-User", view.UserID.String())
	h.Set("X-Rootstream-Session", view.SessionID.String())
	h.Set("X-Rootstream-Aal", strconv.Itoa(int(view.AAL)))
	w.WriteHeader(http.StatusOK)
}

// readHot reads the body of a hot route, for callers that may use it.
func (s *Server) readHot(w http.ResponseWriter, r *http.Request, into any, limit int) bool {
	if p, _ := r.Context().Value(clientKey).(peer); !s.services.admits(r, p) {
		problemOf(r.Context(), s.log, errService).write(w)
		return false
	}
	if ct := r.Header.Get("Content-Type"); ct != "application/json" && !isJSON(ct) {
		s.refused(w, r, http.StatusUnsupportedMediaType, "the body must be application/json", nil)
		return false
	}
	body, err := readBody(r, limit)
	if err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge || errors.Is(err, errTooLarge) {
			s.refused(w, r, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", limit), nil)
		} else {
			s.refused(w, r, http.StatusBadRequest, "the body could not be read", nil)
		}
		return false
	}
	if fault, status := decodeHot(body, into); status != 0 {
		s.refused(w, r, status, "the body is not what this route takes", []errs.Fault{fault})
		return false
	}
	return true
}

func (s *Server) refused(w http.ResponseWriter, r *http.Request, status int, detail string, faults []errs.Fault) {
	(&Problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status, Code: codeOf(status),
		Detail: detail, RequestID: requestID(r.Context()), Errors: faults,
	}).write(w)
}

var errTooLarge = errors.New("too large")

func readBody(r *http.Request, limit int) ([]byte, error) {
	size := 512
	if r.ContentLength > 0 && r.ContentLength <= int64(limit) {
		size = int(r.ContentLength)
	}
	body := make([]byte, 0, size+1)
	for {
		n, err := r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case len(body) > limit:
			return nil, errTooLarge
		case errors.Is(err, io.EOF):
			return body, nil
		case err != nil:
			return nil, err
		}
		if len(body) == cap(body) {
			body = append(body, 0)[:len(body)]
		}
	}
}

// decodeHot is strict: unknown fields, wrong types and bad text are refused by name.
func decodeHot(body []byte, into any) (errs.Fault, int) {
	if err := checkText(body); err != nil {
		return faultOf(&huma.ErrorDetail{Location: "body", Message: err.Error()}), http.StatusBadRequest
	}
	if err := decodeStrict(body, into); err != nil {
		if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return errs.Fault{Field: t.Field, Message: "must be of type " + t.Type.String()}, http.StatusUnprocessableEntity
		}
		if name, ok := unknownField(err); ok {
			return errs.Fault{Field: name, Message: "is not a field of this request"}, http.StatusUnprocessableEntity
		}
		return errs.Fault{Field: "body", Message: "is not JSON"}, http.StatusBadRequest
	}
	return errs.Fault{}, 0
}
