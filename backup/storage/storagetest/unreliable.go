package storagetest

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
)

// unreliable is a server in front of the S3 server that answers a share of the
// requests with an error, hangs up before or after passing them on, or cuts the answer's body.
// It passes one write on at a time: versitygw judges a condition and writes in two
// steps, between which another write may pass, what S3 itself rules out.
type unreliable struct {
	next   *httputil.ReverseProxy
	writes sync.Mutex

	mu    sync.Mutex
	rng   *rand.Rand
	share float64
}

// Unreliable returns the address of a service that passes requests on to the one at address, except for a share (of 1) of
// them: those it answers with errors of the service, resets, also after they were done, or with half a body. It ends with the test.
func Unreliable(tb testing.TB, address string, share float64, seed uint64) string {
	tb.Helper()
	u := &unreliable{next: passOn(address), rng: rand.New(rand.NewPCG(seed, 3)), share: share}
	server := httptest.NewServer(u)
	tb.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// ReadOnly returns the address of a service that passes requests on to the one at address if they only read, and denies all
// others, as services do by their policies. It ends with the test.
func ReadOnly(tb testing.TB, address string) string {
	tb.Helper()
	next := passOn(address)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "<Error><Code>AccessDenied</Code></Error>", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	}))
	tb.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// passOn is a way to the S3 server that changes nothing: requests are signed.
func passOn(address string) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: address})
		r.Out.Host = r.In.Host
	}}
}

func (u *unreliable) fault() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.rng.Float64() >= u.share {
		return 0
	}
	return 1 + u.rng.IntN(5)
}

func (u *unreliable) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut {
		u.writes.Lock()
		defer u.writes.Unlock()
	}
	switch u.fault() {
	case 1:
		http.Error(w, "<Error><Code>SlowDown</Code></Error>", http.StatusServiceUnavailable)
	case 2:
		http.Error(w, "<Error><Code>InternalError</Code></Error>", http.StatusInternalServerError)
	case 3:
		panic(http.ErrAbortHandler) // not passed on
	case 4:
		u.next.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler) // done, and the answer lost
	case 5:
		u.next.ServeHTTP(&cutting{ResponseWriter: w, left: 1}, r)
		panic(http.ErrAbortHandler)
	default:
		u.next.ServeHTTP(w, r)
	}
}

// cutting passes on the head of an answer and a few bytes of its body.
type cutting struct {
	http.ResponseWriter
	left int
}

func (c *cutting) Write(b []byte) (int, error) {
	n := min(c.left, len(b))
	c.left -= n
	if _, err := c.ResponseWriter.Write(b[:n]); err != nil || n < len(b) {
		return n, errors.Join(err, http.ErrAbortHandler)
	}
	return n, nil
}
