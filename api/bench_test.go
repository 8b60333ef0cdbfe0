package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"rootstream/postgres"
	"rootstream/session"
	"rootstream/user"
)

// tokens are those of n new sessions, known to the process.
func (w *world) tokens(n int) []string {
	w.tb.Helper()
	ctx := context.Background()
	var u user.User
	must(w.tb, w.db.InTx(ctx, func(tx *postgres.Tx) (err error) {
		u, err = w.users.Create(ctx, tx, user.New{Username: "bench", Email: "bench@example.org"})
		return err
	}))
	tokens := make([]string, 0, n)
	for range n {
		must(w.tb, w.db.InTx(ctx, func(tx *postgres.Tx) error {
			made, err := w.sessions.Create(ctx, tx, session.New{UserID: u.ID, UserPublicID: u.PublicID})
			tokens = append(tokens, made.Token.Reveal())
			return err
		}))
	}
	_, err := w.sessions.ValidateBatch(ctx, tokens)
	must(w.tb, err)
	return tokens
}

// post measures requests over connections that stay open.
func post(b *testing.B, url string, bodies [][]byte) {
	b.Helper()
	i := 0
	send(b, func() *http.Request {
		i++
		r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, url, bytes.NewReader(bodies[i%len(bodies)]))
		must(b, err)
		r.Header.Set("Content-Type", "application/json")
		return r
	})
}

func get(b *testing.B, url, token string) {
	b.Helper()
	send(b, func() *http.Request {
		r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url, nil)
		must(b, err)
		r.Header.Set("Authorization", "Bearer "+token)
		return r
	})
}

func send(b *testing.B, next func() *http.Request) {
	b.Helper()
	b.ReportAllocs()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport}
	begun := processTime(b)
	for b.Loop() {
		resp, err := c.Do(next())
		must(b, err)
		_, err = io.Copy(io.Discard, resp.Body)
		must(b, err)
		must(b, resp.Body.Close())
		if resp.StatusCode != http.StatusOK {
			b.Fatal(resp.Status)
		}
	}
	b.ReportMetric(float64(processTime(b)-begun)/float64(b.N)/1e3, "cpu-µs/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}

// processTime is what this process has worked: of two that share a machine with others, it can be compared.
func processTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkValidateHTTP(b *testing.B) {
	w := newWorld(b, patient)
	var bodies [][]byte
	tokens := w.tokens(500)
	for _, t := range tokens {
		body, err := json.Marshal(object{"token": t})
		must(b, err)
		bodies = append(bodies, body)
	}
	floor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusOK)
	}))
	defer floor.Close()
	b.Run("floor", func(b *testing.B) { post(b, floor.URL, bodies) })
	b.Run("validate", func(b *testing.B) { post(b, w.url+"/v1/sessions/validate", bodies) })
	b.Run("forward", func(b *testing.B) { get(b, w.url+"/v1/auth/forward", tokens[0]) })
	b.Run("ordinary", func(b *testing.B) { post(b, w.url+"/v1/sessions/validate?", spaced(bodies)) })
}

// spaced are bodies that the short way does not take.
func spaced(bodies [][]byte) [][]byte {
	var out [][]byte
	for _, body := range bodies {
		out = append(out, bytes.Replace(body, []byte(`"}`), []byte(`","strong":false}`), 1))
	}
	return out
}

func BenchmarkValidateBatchHTTP(b *testing.B) {
	w := newWorld(b, patient)
	body, err := json.Marshal(object{"tokens": w.tokens(1000)})
	must(b, err)
	post(b, w.url+"/v1/sessions/validate-batch", [][]byte{body})
	b.ReportMetric(1000*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}

// BenchmarkValidateHandler is what a request costs beyond net/http.
func BenchmarkValidateHandler(b *testing.B) {
	w := newWorld(b, patient)
	body, err := json.Marshal(object{"token": w.tokens(1)[0]})
	must(b, err)
	b.ReportAllocs()
	reader := bytes.NewReader(body)
	r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/v1/sessions/validate", nil)
	r.RemoteAddr, r.Host, r.ContentLength = "127.0.0.1:5555", "127.0.0.1", int64(len(body))
	r.Header.Set("Content-Type", "application/json")
	rec := &discard{header: http.Header{}}
	for b.Loop() {
		reader.Reset(body)
		r.Body = io.NopCloser(reader)
		w.handler.ServeHTTP(rec, r)
	}
	if rec.n == 0 {
		b.Fatal("nothing was answered")
	}
}

type discard struct {
	header http.Header
	n      int
}

func (d *discard) Header() http.Header { return d.header }

func (d *discard) Write(b []byte) (int, error) {
	d.n += len(b)
	return len(b), nil
}

func (*discard) WriteHeader(int) {}
