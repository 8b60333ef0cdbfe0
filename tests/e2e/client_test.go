package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"testing"
	"time"
)

// requestTimeout is what the processes under test get, and slack what a loaded machine may add to it: the answer to a
// request that timed out still has to be written, and undoing its transaction may take two seconds more.
const (
	requestTimeout = 5 * time.Second
	slack          = 5 * time.Second
)

type object map[string]any

// str is a text at a path of fields; "" if there is none.
func (o object) str(path ...string) string {
	for _, name := range path[:len(path)-1] {
		o, _ = o[name].(map[string]any)
	}
	s, _ := o[path[len(path)-1]].(string)
	return s
}

// items are the elements of a list.
func (o object) items() []object {
	list, _ := o["items"].([]any)
	out := make([]object, 0, len(list))
	for _, v := range list {
		m, _ := v.(map[string]any)
		out = append(out, m)
	}
	return out
}

// answer is how one request ended.
type answer struct {
	what   string
	status int // 0 if there was no answer
	header http.Header
	raw    []byte
	body   object
	err    error
	began  time.Time
	took   time.Duration
}

// ok reports whether the request was acknowledged.
func (a answer) ok() bool { return a.status >= 200 && a.status < 300 }

func (a answer) String() string {
	if a.err != nil {
		return fmt.Sprintf("%s: %v after %v", a.what, a.err, a.took.Round(time.Millisecond))
	}
	return fmt.Sprintf("%s: %d %s after %v", a.what, a.status, bytes.TrimSpace(a.raw), a.took.Round(time.Millisecond))
}

// fault is what no answer may be, whatever is broken: none at all, one that took longer than a request may, one that
// blames us, or one that says try again without saying when.
func (a answer) fault() error {
	switch {
	case a.err != nil:
		return fmt.Errorf("no answer: %v", a)
	case a.took > requestTimeout+slack:
		return fmt.Errorf("too late: %v", a)
	case a.status >= 500 && a.status != http.StatusServiceUnavailable:
		return fmt.Errorf("a server error: %v", a)
	case (a.status == http.StatusServiceUnavailable || a.status == http.StatusTooManyRequests) && a.header.Get("Retry-After") == "":
		return fmt.Errorf("no Retry-After: %v", a)
	case a.status == http.StatusServiceUnavailable && a.body.str("code") == "" && a.body.str("status") == "":
		return fmt.Errorf("not a problem with a code: %v", a)
	}
	return nil
}

// caller makes requests to one base URL, with a token or without.
type caller struct {
	http  *http.Client
	url   string
	token string
}

func newHTTP() *http.Client {
	return &http.Client{
		Timeout:   requestTimeout + 2*slack,
		Transport: &http.Transport{MaxIdleConnsPerHost: 256, MaxIdleConns: 1024},
	}
}

func newCaller(url string) caller { return caller{http: newHTTP(), url: url} }

// as is the same caller with a token.
func (c caller) as(token string) caller { c.token = token; return c }

// do makes a request; header are names and values.
func (c caller) do(ctx context.Context, method, path string, body any, header ...string) answer {
	a := answer{what: method + " " + path}
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			panic(err)
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, in)
	if err != nil {
		panic(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if httptrace.ContextClientTrace(ctx) != nil {
		req.Header.Set("Expect", "100-continue")
	}
	a.began = time.Now()
	defer func() { a.took = time.Since(a.began) }()
	resp, err := c.http.Do(req)
	if err != nil {
		a.err = err
		return a
	}
	a.status, a.header = resp.StatusCode, resp.Header
	a.raw, a.err = io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if strings.Contains(resp.Header.Get("Content-Type"), "json") {
		_ = json.Unmarshal(a.raw, &a.body) // what is not JSON shows in raw
	}
	a.took = time.Since(a.began)
	return a
}

// must makes a request that has to be answered with a status.
func (c caller) must(t *testing.T, status int, method, path string, body any) answer {
	t.Helper()
	a := c.do(context.Background(), method, path, body)
	if a.status != status || a.err != nil {
		t.Fatalf("%v, want %d", a, status)
	}
	return a
}

func (c caller) register(ctx context.Context, name, password string) answer {
	return c.do(ctx, "POST", "/v1/users", object{"username": name, "email": name + "@example.org", "password": password})
}

func (c caller) login(ctx context.Context, name, password string) answer {
	return c.do(ctx, "POST", "/v1/auth/login", object{"login": name, "password": password, "device_name": "a test"})
}

// signIn must succeed; it returns the token and the session's id.
func (c caller) signIn(t *testing.T, name string) (token, session string) {
	t.Helper()
	a := c.login(context.Background(), name, password)
	if a.status != http.StatusOK || a.body.str("token") == "" {
		t.Fatalf("sign in as %s: %v", name, a)
	}
	return a.body.str("token"), a.body.str("session", "id")
}

func (c caller) validate(ctx context.Context, token string) answer {
	return c.do(ctx, "POST", "/v1/sessions/validate", object{"token": token})
}

// valid is what validate answered, if it did.
func (a answer) valid() (valid, answered bool) {
	v, ok := a.body["valid"].(bool)
	return v, ok && a.status == http.StatusOK
}

// isValid asks and is an error unless the answer is this one.
func (c caller) isValid(ctx context.Context, token string, want bool) error {
	a := c.validate(ctx, token)
	if v, answered := a.valid(); !answered || v != want {
		return fmt.Errorf("%s: %v, want valid %v", c.url, a, want)
	}
	return nil
}

// metric is one figure of /metrics.
func metric(t *testing.T, c caller, name string) float64 {
	t.Helper()
	for line := range strings.Lines(string(c.must(t, 200, "GET", "/metrics", nil).raw)) {
		if text, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}
