package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"

	"rootstream/errs"
)

// Config is how the API behaves towards the network.
type Config struct {
	Version        string
	TrustedProxies []netip.Prefix    // ends of TLS whose X-Forwarded-* we believe
	ServiceTokens  map[string]string // token → name; they may call validate and forward
	RequestTimeout time.Duration     // 0 means 15s
	Registerer     prometheus.Registerer
	Metrics        http.Handler // what /metrics answers; nil means 404
	Logger         *slog.Logger // nil means slog.Default
}

// Server is the API as an http.Handler.
type Server struct {
	cfg      Config
	deps     Deps
	log      *slog.Logger
	mux      *http.ServeMux
	api      huma.API
	handler  http.Handler
	services serviceTokens
	requests *prometheus.HistogramVec
}

// Errors of the transport.
var (
	errHTTPS       = errs.New(errs.Forbidden, "https_required", "this server is reached over HTTPS only")
	errCrossOrigin = errs.New(errs.Forbidden, "cross_origin", "a page of another site may not do this")
	errNoRoute     = errs.New(errs.NotFound, "not_found", "there is nothing here").WithHint("the routes are listed in /openapi.json")
	errPanic       = errs.New(errs.Internal, "internal", "something went wrong on our side")
)

// New builds the API.
func New(deps Deps, cfg Config) *Server {
	useProblems()
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = 15 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	s := &Server{cfg: cfg, deps: deps, log: cfg.Logger, mux: http.NewServeMux(), services: newServiceTokens(cfg.ServiceTokens)}
	s.requests = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "rootstream_http_request_seconds", Help: "Time of HTTP requests by route and status.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
	}, []string{"route", "status"})
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(s.requests)
	}
	hc := huma.DefaultConfig("RootStream", cfg.Version)
	hc.Info.Description = "Accounts, sessions with a second factor, streams and their history."
	hc.DocsPath, hc.SchemasPath, hc.OpenAPIPath = "", "", ""
	hc.Formats = map[string]huma.Format{"application/json": strictJSON(), "json": strictJSON()}
	hc.DefaultFormat = "application/json"
	hc.RejectUnknownQueryParameters = true
	hc.CreateHooks = nil // no $schema in answers
	hc.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	hc.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"bearer": {Type: "http", Scheme: "bearer", Description: "A session token (sst_…), or a service token where that is said."},
		"cookie": {Type: "apiKey", In: "cookie", Name: hostCookie},
	}
	s.api = humago.New(s.mux, hc)
	s.routes()
	s.mux.HandleFunc("/", s.noRoute)
	s.handler = s.chain()
	return s
}

// routes registers every part of the API.
func (s *Server) routes() {
	s.accountRoutes()
	s.signInRoutes()
	s.sessionRoutes()
	s.factorRoutes()
	s.streamRoutes()
	s.eventRoutes()
	s.adminRoutes()
	s.pageRoutes()
	s.plumbingRoutes()
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// OpenAPI returns the description of the API, version 3.1.
func (s *Server) OpenAPI() ([]byte, error) {
	b, err := s.api.OpenAPI().MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("describe the API: %w", err)
	}
	return b, nil
}

// chain wraps the routes in what every request goes through.
func (s *Server) chain() http.Handler {
	crossOrigin := http.NewCrossOriginProtection()
	crossOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		problemOf(r.Context(), s.log, errCrossOrigin).write(w)
	}))
	inner := crossOrigin.Handler(s.mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		h := w.Header()
		h["Cache-Control"] = noStore
		h["X-Content-Type-Options"] = noSniff
		p := peerOf(r, s.cfg.TrustedProxies)
		ctx := context.WithValue(r.Context(), clientKey, p)
		ctx = context.WithValue(ctx, requestIDKey, newRequestID(r))
		ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
		defer cancel()
		r = r.WithContext(ctx)
		rec := &recorder{ResponseWriter: w}
		defer s.finish(rec, r, begun)
		if !p.https && !remoteAddr(r).IsLoopback() {
			problemOf(ctx, s.log, errHTTPS).write(rec)
			return
		}
		if r.Body != nil {
			r.Body = http.MaxBytesReader(rec, r.Body, maxBatchBody)
		}
		inner.ServeHTTP(rec, r)
	})
}

//nolint:gochecknoglobals // header values that never change, so that setting them allocates nothing
var (
	noStore = []string{"no-store"}
	noSniff = []string{"nosniff"}
)

// finish answers for a handler that panicked and counts the request.
func (s *Server) finish(w *recorder, r *http.Request, begun time.Time) {
	if v := recover(); v != nil {
		if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(v)
		}
		s.log.ErrorContext(r.Context(), "handler panicked", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		if w.status == 0 {
			problemOf(r.Context(), s.log, errPanic).write(w)
		}
	}
	route := r.Pattern
	if route == "" || route == "/" {
		route = "other"
	}
	s.requests.WithLabelValues(route, statusClass(w.status)).Observe(time.Since(begun).Seconds())
}

func statusClass(status int) string {
	switch {
	case status == 0, status >= 200 && status < 300:
		return "2xx"
	case status < 400:
		return "3xx"
	case status < 500:
		return "4xx"
	default:
		return "5xx"
	}
}

// recorder remembers the status for the metrics.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// noRoute tells a wrong method from a wrong path.
func (s *Server) noRoute(w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		probe := r.Clone(r.Context())
		probe.Method = method
		if _, pattern := s.mux.Handler(probe); pattern != "/" && pattern != "" {
			allowed = append(allowed, method)
		}
	}
	p := problemOf(r.Context(), s.log, errNoRoute)
	if len(allowed) > 0 {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		p.Status, p.Title, p.Code = http.StatusMethodNotAllowed, http.StatusText(http.StatusMethodNotAllowed), "method_not_allowed"
		p.Detail, p.Hint = "this path takes "+strings.Join(allowed, ", "), ""
	}
	p.write(w)
}
