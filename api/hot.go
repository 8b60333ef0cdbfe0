package api

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"rootstream/errs"
	"rootstream/session"
)

// hot answers the common shape of what services ask for every request of
// theirs, without the context, the timer, the routing and the general decoder
// that other requests need. It reports false for whatever else there is: then
// the ordinary way decides, with the same input.
func (s *Server) hot(w http.ResponseWriter, r *http.Request, p *peer) bool {
	begun := time.Now()
	var ok bool
	var err error
	switch path := r.URL.Path; {
	case r.Method == http.MethodPost && (path == validatePath || path == batchPath):
		ok, err = s.hotValidate(w, r, p)
	case r.Method == http.MethodGet && path == forwardPath:
		ok, err = s.hotForward(w, r, p)
	}
	switch {
	case err != nil:
		known, cancel := identified(w, r, *p, s.cfg.RequestTimeout)
		defer cancel()
		rec := &recorder{ResponseWriter: w}
		forBrowsers(w.Header())
		s.fail(rec, known, err)
		s.requests.WithLabelValues(hotRoutes[r.URL.Path], statusClass(rec.status)).Observe(time.Since(begun).Seconds())
	case ok:
		s.hotSeen[r.URL.Path].Observe(time.Since(begun).Seconds())
	}
	return ok || err != nil
}

// hotRoutes are the routes with a short way, by path, as the router knows them.
//
//nolint:gochecknoglobals // constants
var hotRoutes = map[string]string{
	validatePath: http.MethodPost + " " + validatePath, batchPath: http.MethodPost + " " + batchPath, forwardPath: forwardPath,
}

func (s *Server) hotForward(w http.ResponseWriter, r *http.Request, p *peer) (ok bool, err error) {
	defer passOn(&ok, &err)
	if !p.private {
		return false, nil
	}
	view, err := s.forwarded(r, *p)
	if err != nil {
		return false, err
	}
	forBrowsers(w.Header())
	admitted(w.Header(), &view)
	return true, nil
}

func (s *Server) hotValidate(w http.ResponseWriter, r *http.Request, p *peer) (ok bool, err error) {
	if !s.plain(r, p) {
		return false, nil
	}
	buf, ok := readPlain(r)
	if !ok {
		return false, nil
	}
	answer, ok, err := s.ask(r.Context(), r.URL.Path, buf)
	if err != nil || !ok {
		r.Body = again{bytes.NewReader(buf.in), r.Body}
		return false, err // and buf goes with the body that reads from it
	}
	w.Header()["Content-Type"] = jsonType
	_, _ = w.Write(answer)
	buf.out = answer[:0]
	hotBuffers.Put(buf)
	return true, nil
}

// passOn leaves a panic to the ordinary way, which meets it again and says so. Nothing was written yet.
func passOn(ok *bool, err *error) {
	if recover() != nil {
		*ok, *err = false, nil
	}
}

// plain reports whether nothing about the headers of a request needs a second look.
func (s *Server) plain(r *http.Request, p *peer) bool {
	h := r.Header
	if t := h["Content-Type"]; len(t) != 1 || t[0] != "application/json" {
		return false
	}
	return r.URL.RawQuery == "" && h["Content-Encoding"] == nil && h["Origin"] == nil && h["Sec-Fetch-Site"] == nil &&
		p.private && s.services.admit(r, p)
}

// hotBuffer is the memory of one request, used again and again.
type hotBuffer struct {
	in, out []byte
	tokens  []string
}

//nolint:gochecknoglobals // memory to be used again; it holds nothing
var hotBuffers = sync.Pool{New: func() any { return &hotBuffer{in: make([]byte, 0, 1024), out: make([]byte, 0, 1024)} }}

// readPlain reads a body whose length is known. One that it could not read
// wholly can be read again up to there, and fails again.
func readPlain(r *http.Request) (*hotBuffer, bool) {
	size := int(r.ContentLength)
	limit := maxBody
	if r.URL.Path == batchPath {
		limit = maxBatchBody
	}
	if r.ContentLength <= 0 || size > limit {
		return nil, false
	}
	buf := hotBuffers.Get().(*hotBuffer) //nolint:forcetypeassert // nothing else is put there
	if cap(buf.in) < size {
		buf.in = make([]byte, 0, size)
	}
	n, err := io.ReadFull(r.Body, buf.in[:size])
	buf.in = buf.in[:n]
	if err != nil {
		r.Body = again{io.MultiReader(bytes.NewReader(buf.in), failing{err}), r.Body}
		return nil, false
	}
	return buf, true
}

// again is a body of which a part was read.
type again struct {
	io.Reader
	io.Closer
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// ask validates what a body of the common shape holds and returns the answer; ok is false for other bodies.
func (s *Server) ask(ctx context.Context, path string, buf *hotBuffer) (answer []byte, ok bool, err error) {
	defer passOn(&ok, &err)
	if path == batchPath {
		return s.askMany(ctx, buf)
	}
	in, ok := scanValidate(string(buf.in))
	if !ok {
		return nil, false, nil
	}
	hint, err := in.hint()
	if err != nil {
		return nil, false, err
	}
	view, err := s.deps.Sessions.Validate(ctx, in.Token, hint)
	if err != nil && errs.KindOf(err) != errs.Unauthenticated {
		return nil, false, err
	}
	return appendVerdict(buf.out[:0], &view, err == nil), true, nil
}

func (s *Server) askMany(ctx context.Context, buf *hotBuffer) (answer []byte, ok bool, err error) {
	buf.tokens, ok = scanBatch(string(buf.in), buf.tokens[:0])
	if !ok || len(buf.tokens) > session.MaxBatch {
		return nil, false, nil
	}
	results, err := s.deps.Sessions.ValidateBatch(ctx, buf.tokens)
	clear(buf.tokens)
	if err != nil {
		return nil, false, err
	}
	b := append(buf.out[:0], `{"items":[`...)
	for i := range results {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendVerdict(b, &results[i].View, results[i].Valid)
	}
	return append(b, `]}`...), true, nil
}

// scanValidate reads an object of plain texts, each at most once, with a token
// among them. It refuses much that is legal, and nothing that it takes means
// anything else to encoding/json.
func scanValidate(body string) (in validateRequest, ok bool) {
	c := scanner{s: body}
	if !c.byte('{') {
		return in, false
	}
	for seen := 0; ; {
		key, ok := c.text()
		if !ok || !c.byte(':') {
			return in, false
		}
		value, ok := c.text()
		if !ok {
			return in, false
		}
		field, bit := in.field(key)
		if field == nil || seen&bit != 0 {
			return in, false
		}
		*field = value
		seen |= bit
		if !c.byte(',') {
			return in, c.byte('}') && c.end() && seen&1 != 0
		}
	}
}

func (in *validateRequest) field(key string) (*string, int) {
	switch key {
	case "token":
		return &in.Token, 1
	case "ip":
		return &in.IP, 2
	case "user_agent":
		return &in.UserAgent, 4
	case "device_id":
		return &in.DeviceID, 8
	default:
		return nil, 0
	}
}

// scanBatch reads an object with nothing but a list of plain tokens, and appends them to tokens.
func scanBatch(body string, tokens []string) ([]string, bool) {
	c := scanner{s: body}
	if !c.byte('{') {
		return tokens, false
	}
	if key, ok := c.text(); !ok || key != "tokens" || !c.byte(':') || !c.byte('[') {
		return tokens, false
	}
	for {
		token, ok := c.text()
		if !ok {
			return tokens, false
		}
		tokens = append(tokens, token)
		if !c.byte(',') {
			return tokens, c.byte(']') && c.byte('}') && c.end()
		}
	}
}

// scanner steps over JSON that is written plainly.
type scanner struct {
	s string
	i int
}

func (c *scanner) space() {
	for c.i < len(c.s) && (c.s[c.i] == ' ' || c.s[c.i] == '\n' || c.s[c.i] == '\r' || c.s[c.i] == '\t') {
		c.i++
	}
}

// byte steps over b, if it comes next.
func (c *scanner) byte(b byte) bool {
	c.space()
	if c.i == len(c.s) || c.s[c.i] != b {
		return false
	}
	c.i++
	return true
}

// text steps over a string of ASCII without escapes.
func (c *scanner) text() (string, bool) {
	if !c.byte('"') {
		return "", false
	}
	begin := c.i
	for ; c.i < len(c.s); c.i++ {
		switch b := c.s[c.i]; {
		case b == '"':
			c.i++
			return c.s[begin : c.i-1], true
		case b < ' ' || b > '~' || b == '\\':
			return "", false
		}
	}
	return "", false
}

func (c *scanner) end() bool {
	c.space()
	return c.i == len(c.s)
}
