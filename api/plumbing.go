package api

import (
	"context"
	"encoding/json"
	"net/http"
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

const probeTimeout = 2 * time.Second

func (s *Server) plumbingRoutes() {
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	s.document(huma.Operation{OperationID: "healthz", Method: http.MethodGet, Path: "/healthz", Tags: []string{"plumbing"}, Summary: "Is the process alive?"})
	s.mux.HandleFunc("GET /readyz", s.readyz)
	s.document(huma.Operation{OperationID: "readyz", Method: http.MethodGet, Path: "/readyz", Tags: []string{"plumbing"}, Summary: "Can requests be served?", Description: "503 when PostgreSQL or the schema is missing; 200 with status degraded when Redis is."})
	s.mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, r *http.Request) {
		b, err := s.OpenAPI()
		if err != nil {
			problemOf(r.Context(), s.log, err).write(w)
			return
		}
		w.Header().Set("Content-Type", "application/vnd.oai.openapi+json;version=3.1")
		_, _ = w.Write(b)
	})
	s.document(huma.Operation{OperationID: "openapi", Method: http.MethodGet, Path: "/openapi.json", Tags: []string{"plumbing"}, Summary: "This description"})
	if s.cfg.Metrics != nil {
		s.mux.HandleFunc("GET /metrics", s.metrics)
		s.document(huma.Operation{OperationID: "metrics", Method: http.MethodGet, Path: "/metrics", Tags: []string{"plumbing"}, Summary: "Prometheus metrics", Description: "From this machine, or with a service token."})
	}
}

// metrics tell much about a platform, so strangers do not see them.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	p, _ := r.Context().Value(clientKey).(peer)
	if !s.services.admits(r, p) {
		problemOf(r.Context(), s.log, errService).write(w)
		return
	}
	s.cfg.Metrics.ServeHTTP(w, r)
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	answer := s.Ready(r.Context())
	status := http.StatusOK
	if answer.Status == "unavailable" {
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	}
	writeJSON(w, status, answer)
}

// Ready asks every part whether it works.
func (s *Server) Ready(ctx context.Context) readiness { //nolint:revive // a plain answer, marshalled and forgotten
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	answer := readiness{Status: "ready", Parts: map[string]string{}}
	for _, c := range s.deps.Checks {
		err := c.Probe(ctx)
		if err == nil {
			answer.Parts[c.Name] = "ok"
			continue
		}
		p := problemOf(ctx, s.log, err)
		answer.Parts[c.Name] = p.Detail
		if c.Required {
			answer.Status = "unavailable"
		} else if answer.Status == "ready" {
			answer.Status = "degraded"
		}
	}
	return answer
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// document describes a route that is served by a plain handler.
func (s *Server) document(op huma.Operation) {
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{"200": {Description: "OK"}}
	}
	op.Responses["default"] = &huma.Response{Description: "A problem", Content: map[string]*huma.MediaType{
		"application/problem+json": {Schema: s.api.OpenAPI().Components.Schemas.Schema(problemType, true, "Problem")},
	}}
	s.api.OpenAPI().AddOperation(&op)
}
