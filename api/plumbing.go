package api

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Check is one part that readiness depends on.
type Check struct {
	Name     string                          `json:"name"`
	Required bool                            `json:"required"` // without it nothing works
	Probe    func(ctx context.Context) error `json:"-"`
}

// readiness is the answer of /readyz.
type readiness struct {
	Status string            `json:"status" enum:"ready,degraded,unavailable" doc:"degraded: an optional part is down, answers take longer."`
	Parts  map[string]string `json:"parts" doc:"ok, or what is wrong."`
}

type health struct {
	Status string `json:"status" enum:"ok"`
}

const probeTimeout = 2 * time.Second

// plumbingRoutes are plain handlers: whoever probes may add what they like to the query.
func (s *Server) plumbingRoutes() {
	s.plumbing(huma.Operation{OperationID: "healthz", Path: "/healthz", Summary: "Is the process alive?"}, "application/json", typeOf[health](),
		func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, health{"ok"}) })
	s.plumbing(huma.Operation{
		OperationID: "readyz", Path: "/readyz", Summary: "Can requests be served?",
		Description: "503 when PostgreSQL or the schema is missing; 200 with status degraded when Redis is.",
	}, "application/json", typeOf[readiness](), s.readyz)
	s.plumbing(huma.Operation{OperationID: "openapi", Path: "/openapi.json", Summary: "This description"}, openAPIType, nil, s.describe)
	if s.cfg.Metrics != nil {
		s.plumbing(huma.Operation{
			OperationID: "metrics", Path: "/metrics", Summary: "Prometheus metrics",
			Description: "From this machine, or with a service token.", Security: []map[string][]string{{"service": {}}},
		}, "text/plain", nil, s.metrics)
	}
}

// plumbing registers and describes one plain GET.
func (s *Server) plumbing(op huma.Operation, mediaType string, answer reflect.Type, handler http.HandlerFunc) {
	op.Method, op.Tags = http.MethodGet, []string{"plumbing"}
	media := &huma.MediaType{}
	if answer != nil {
		media.Schema = s.api.OpenAPI().Components.Schemas.Schema(answer, true, op.OperationID)
	}
	op.Responses = map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{mediaType: media}}}
	s.mux.HandleFunc(op.Method+" "+op.Path, handler)
	s.document(op)
}

const openAPIType = "application/vnd.oai.openapi+json;version=3.1"

func (s *Server) describe(w http.ResponseWriter, r *http.Request) {
	b, err := s.described()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", openAPIType)
	_, _ = w.Write(b)
}

// metrics tell much about a platform, so strangers do not see them.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	if !s.services.admit(r, &factsOf(r.Context()).peer) {
		s.fail(w, r, errService)
		return
	}
	s.cfg.Metrics.ServeHTTP(w, r)
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	answer := s.ready(r.Context())
	status := http.StatusOK
	if answer.Status == "unavailable" {
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	}
	writeJSON(w, status, answer)
}

// ready asks every part whether it works.
func (s *Server) ready(ctx context.Context) readiness {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	answer := readiness{Status: "ready", Parts: map[string]string{}}
	for _, c := range s.deps.Checks {
		err := c.Probe(ctx)
		if err == nil {
			answer.Parts[c.Name] = "ok"
			continue
		}
		answer.Parts[c.Name] = problemOf(ctx, s.log, err).Detail
		if c.Required {
			answer.Status = "unavailable"
		} else if answer.Status == "ready" {
			answer.Status = "degraded"
		}
	}
	return answer
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header()["Content-Type"] = jsonType
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// document describes a route that is served by a plain handler.
func (s *Server) document(op huma.Operation) {
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{"200": {Description: "OK"}}
	}
	op.Responses["default"] = &huma.Response{Description: "A problem", Content: map[string]*huma.MediaType{
		"application/problem+json": {Schema: s.api.OpenAPI().Components.Schemas.Schema(typeOf[Problem](), true, "Problem")},
	}}
	s.api.OpenAPI().AddOperation(&op)
}
