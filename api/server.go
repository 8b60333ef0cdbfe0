package api

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"path"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"

	"rootstream/api/watch"
	"rootstream/errs"
)

// Config is how the API behaves towards the network.
type Config struct {
	Version              string
	TrustedProxies       []netip.Prefix    // ends of TLS whose X-Forwarded-* we believe
	ServiceTokens        map[string]string // token → name; they may call validate and forward
	RequestTimeout       time.Duration     // 0 means 15s
	MaxWatches           int               // connections to /v1/watch; 0 means 10,000
	MaxWatchesPerAccount int               // the same of one account; 0 means 50
	Registerer           prometheus.Registerer
	Metrics              http.Handler // what /metrics answers; nil means 404
	Logger               *slog.Logger // nil means slog.Default
}

// Server is the API as an http.Handler.
type Server struct {
	cfg         Config
	deps        Deps
	log         *slog.Logger
	mux         *http.ServeMux
	api         huma.API
	services    serviceTokens
	crossOrigin *http.CrossOriginProtection
	requests    *prometheus.HistogramVec
	hotSeen     map[string]prometheus.Observer // by path; what the short way answered
	described   func() ([]byte, error)
	watches     *watch.Hub
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
	s := &Server{
		cfg: cfg, deps: deps, log: cfg.Logger, mux: http.NewServeMux(), services: newServiceTokens(cfg.ServiceTokens),
		crossOrigin: http.NewCrossOriginProtection(), hotSeen: map[string]prometheus.Observer{},
	}
	s.crossOrigin.AddInsecureBypassPattern(forwardPath)       // changes nothing, and carries
	s.crossOrigin.AddInsecureBypassPattern(forwardPath + "/") // the headers of somebody else's request
	s.requests = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "rootstream_http_request_seconds", Help: "Time of HTTP requests by route and status.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
	}, []string{"route", "status"})
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(s.requests)
	}
	for p, route := range hotRoutes {
		s.hotSeen[p] = s.requests.WithLabelValues(route, statusClass(http.StatusOK))
	}
	s.watches = s.newHub()
	s.api = humago.New(s.mux, humaConfig(cfg.Version))
	s.described = sync.OnceValues(s.OpenAPI)
	s.routes()
	s.mux.HandleFunc("/", s.noRoute)
	return s
}

func humaConfig(version string) huma.Config {
	c := huma.DefaultConfig("RootStream", version)
	c.Info.Description = "Accounts, sessions with a second factor, streams and their history."
	c.DocsPath, c.SchemasPath, c.OpenAPIPath = "", "", ""
	c.Formats = map[string]huma.Format{"application/json": jsonFormat(), "json": jsonFormat()}
	c.DefaultFormat = "application/json"
	c.RejectUnknownQueryParameters = true
	c.CreateHooks = nil // no $schema in answers
	c.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"bearer":  {Type: "http", Scheme: "bearer", Description: "A session token (sst_…)."},
		"cookie":  {Type: "apiKey", In: "cookie", Name: hostCookie},
		"service": {Type: "http", Scheme: "bearer", Description: "A service token of the configuration; callers on the same machine need none."},
	}
	return c
}

// routes registers every part of the API.
func (s *Server) routes() {
	s.accountRoutes()
	s.signInRoutes()
	s.sessionRoutes()
	s.factorRoutes()
	s.streamRoutes()
	s.eventRoutes()
	s.stateRoutes()
	s.watchRoutes()
	s.adminRoutes()
	s.backupRoutes()
	s.pageRoutes()
	s.plumbingRoutes()
}

// OpenAPI returns the description of the API, version 3.1.
func (s *Server) OpenAPI() ([]byte, error) {
	b, err := s.api.OpenAPI().MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("describe the API: %w", err)
	}
	return b, nil
}

//nolint:gochecknoglobals // header values that never change, so that setting them allocates nothing
var (
	noStore  = []string{"no-store"}
	noSniff  = []string{"nosniff"}
	jsonType = []string{"application/json"}
)

// forBrowsers sets what answers need that a browser or a cache may see.
func forBrowsers(h http.Header) {
	h["Cache-Control"], h["X-Content-Type-Options"] = noStore, noSniff
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := peerOf(r, s.cfg.TrustedProxies)
	if s.hot(w, r, &p) {
		return
	}
	forBrowsers(w.Header())
	begun := time.Now()
	longest := s.cfg.RequestTimeout
	if r.URL.Path == watchPath {
		longest = 0
	}
	r, cancel := identified(w, r, p, longest)
	defer cancel()
	rec := &recorder{ResponseWriter: w}
	defer s.finish(rec, r, begun)
	s.transport(rec, r, p)
}

// transport applies what holds for every route, then routes.
func (s *Server) transport(w http.ResponseWriter, r *http.Request, p peer) {
	switch {
	case !p.private:
		s.fail(w, r, errHTTPS)
	case s.crossOrigin.Check(r) != nil:
		s.fail(w, r, errCrossOrigin)
	case r.Method == http.MethodOptions, r.URL.Path != cleanPath(r.URL.Path): // the mux would redirect
		s.noRoute(w, r)
	default:
		s.mux.ServeHTTP(w, r)
	}
}

// cleanPath is p without what means nothing in a path.
func cleanPath(p string) string {
	clean := path.Clean("/" + p)
	if len(p) > 1 && p[len(p)-1] == '/' && clean != "/" {
		clean += "/"
	}
	return clean
}

// finish answers for a handler that panicked and counts the request.
func (s *Server) finish(w *recorder, r *http.Request, begun time.Time) {
	if v := recover(); v != nil {
		s.panicked(w, r, v)
	}
	route := r.Pattern
	if route == "" || route == "/" {
		route = "other"
	}
	if r.URL.Path != watchPath { // they last as long as somebody looks
		s.requests.WithLabelValues(route, statusClass(w.status)).Observe(time.Since(begun).Seconds())
	}
}

// panicked says nothing about a panic but that there was one. An answer that
// was begun is broken off, so that nobody takes it for a whole one.
func (s *Server) panicked(w *recorder, r *http.Request, v any) {
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(v)
	}
	s.log.ErrorContext(r.Context(), "handler panicked", "panic", fmt.Sprint(v), "request_id", requestID(r.Context()), "stack", string(debug.Stack()))
	if w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	s.fail(w, r, errPanic)
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

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// noRoute tells a wrong method from a wrong path, and answers OPTIONS.
func (s *Server) noRoute(w http.ResponseWriter, r *http.Request) {
	allowed := s.allowed(r)
	switch {
	case len(allowed) == 0:
		s.fail(w, r, errNoRoute)
	case r.Method == http.MethodOptions:
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		w.WriteHeader(http.StatusNoContent)
	default:
		list := strings.Join(allowed, ", ")
		w.Header().Set("Allow", list)
		s.fail(w, r, newProblem(r.Context(), http.StatusMethodNotAllowed, "this path takes "+list))
	}
}

// allowed are the methods of a path.
func (s *Server) allowed(r *http.Request) []string {
	if r.URL.Path != cleanPath(r.URL.Path) {
		return nil
	}
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		probe := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := s.mux.Handler(probe); pattern != "/" && pattern != "" {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) > 0 {
		allowed = append(allowed, http.MethodOptions)
	}
	return allowed
}
