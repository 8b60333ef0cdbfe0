package ledger_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"rootstream/cache"
	"rootstream/errs"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/statesync"
	"rootstream/statesync/feed/feedtest"
	"rootstream/statesync/merge"
	"rootstream/tests/harness"
)

func TestMain(m *testing.M) {
	if os.Getenv(harness.RunAsProgram) != "" {
		if err := serve(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The environment of an instance.
const (
	envDSN   = "LEDGER_DSN"
	envRedis = "LEDGER_REDIS" // a redisAt
	envCache = "LEDGER_CACHE_BYTES"
	envOrder = "LEDGER_ORDERS" // a file with orders
)

// redisAt is the part of cache.Config that says where Redis is.
type redisAt struct {
	URL, Password string
	Addrs         []string
	Cluster       bool
	Sentinel      cache.SentinelConfig
}

func (r redisAt) open(ctx context.Context) (*cache.Client, error) {
	return cache.Open(ctx, cache.Config{URL: r.URL, Password: r.Password, Addrs: r.Addrs, Cluster: r.Cluster, Sentinel: r.Sentinel})
}

// types are those of the test: documents that come and go from memory, documents that stay there, documents that two
// may change at once, and what is only said.
func types() []statesync.Type {
	fixed := []string{"fixed"}
	return []statesync.Type{
		{Name: "loose", Reserved: fixed},
		{Name: "held", Hold: true, Reserved: fixed},
		{Name: "merged", Reserved: fixed, Rebase: statesync.PerField(map[string]statesync.FieldRule{"n": statesync.AddField})},
		{Name: "pulse", Class: statesync.Volatile, Join: merge.Sum()},
	}
}

// server is one instance: the manager with its log, and a face for the test.
type server struct {
	*statesync.Manager
	mu   sync.Mutex
	said map[event.Ref]int64 // number of the last saying
}

func serve() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	slog.SetDefault(logger)
	var log *event.Log
	db, err := postgres.Open(ctx, postgres.Config{
		DSN: os.Getenv(envDSN), AcquireTimeout: 2 * time.Second, StatementTimeout: 5 * time.Second, LockTimeout: 2 * time.Second,
		OnCommit: func(tx *postgres.Tx) { log.Committed(event.Appended(tx)) },
	})
	if err != nil {
		return err
	}
	defer db.Close()
	var at redisAt
	if err = json.Unmarshal([]byte(os.Getenv(envRedis)), &at); err != nil {
		return err
	}
	redis, err := at.open(ctx)
	if err != nil {
		return err
	}
	defer redis.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	obeyed := &obedience{file: os.Getenv(envOrder)}
	obeyed.look()
	wg.Go(func() { obeyed.run(ctx) })
	s := &server{said: map[event.Ref]int64{}}
	log, err = event.NewLog(event.LogConfig{DB: db, SnapshotEvery: 10, OnCommit: func(e []event.Event) {
		obeyed.committed()
		s.Offer(e)
	}})
	if err != nil {
		return err
	}
	bytes, _ := strconv.ParseInt(os.Getenv(envCache), 10, 64)
	cfg := statesync.Config{
		DB: db, Log: log, Cache: redis, Auth: feedtest.Key("ledger"), CacheBytes: bytes, Now: obeyed.now,
	}
	if s.Manager, err = newManager(cfg); err != nil {
		return err
	}
	run := func(what string, loop func(context.Context) error) {
		wg.Go(func() {
			defer stop()
			if failed := loop(ctx); failed != nil {
				logger.Error("panic: a loop ended", "loop", what, "err", failed) // the word fails the test
			}
		})
	}
	run("log", log.Run)
	run("manager", s.Run)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: s.handler()}
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	harness.SayReady(os.Stdout, "http://"+l.Addr().String())
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func newManager(cfg statesync.Config) (*statesync.Manager, error) {
	m, err := statesync.New(cfg)
	if err != nil {
		return nil, err
	}
	for _, t := range types() {
		if err := m.Register(t); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// opTimeout bounds what an instance does for a client, whose own patience is a little longer.
const opTimeout = 5 * time.Second

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /update", face(s.update))
	mux.HandleFunc("POST /delete", face(s.delete))
	mux.HandleFunc("POST /say", face(s.say))
	mux.HandleFunc("POST /get", face(s.get))
	mux.HandleFunc("POST /digest", face(s.digest))
	mux.HandleFunc("POST /status", face(s.status))
	mux.HandleFunc("GET /watch", s.watch)
	return mux
}

// failure is an error as clients see it.
type failure struct {
	Code   string `json:"code"`
	Down   bool   `json:"down"` // a part of ours is down or busy
	Text   string `json:"text"`
	Actual int64  `json:"actual,omitempty"` // of a version conflict
}

func (f *failure) Error() string { return f.Code + ": " + f.Text }

// face makes a handler of a function from JSON to JSON.
func face[In, Out any](fn func(context.Context, In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), opTimeout)
		defer cancel()
		var in In
		dec := json.NewDecoder(r.Body)
		dec.UseNumber()
		if err := dec.Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out, err := fn(ctx, in)
		if err != nil {
			f := failure{Code: errs.CodeOf(err), Down: errs.KindOf(err) == errs.Unavailable, Text: err.Error()}
			if v, ok := errors.AsType[*event.VersionError](err); ok {
				f.Actual = v.Actual
			}
			w.WriteHeader(http.StatusConflict)
			_ = json.NewEncoder(w).Encode(f)
			return
		}
		_ = json.NewEncoder(w).Encode(out)
	}
}

// update makes n of the entity its version, unless it is not to, and sets a field. In born stands the version that it
// was made as, the last time that it was.
type update struct {
	Ref    event.Ref `json:"ref"`
	Key    string    `json:"key"`
	Expect *int64    `json:"expect,omitempty"`
	Field  string    `json:"field"`
	Value  any       `json:"value"`
	Plain  bool      `json:"plain,omitempty"`  // so that it may change nothing
	Delete bool      `json:"delete,omitempty"` // it ends the entity instead
}

// document is an entity's state at a version.
type document struct {
	Version int64          `json:"version"`
	Deleted bool           `json:"deleted,omitempty"`
	Data    map[string]any `json:"data"`
	Token   string         `json:"token,omitempty"` // of an update
}

func documentOf(d statesync.Doc) document {
	return document{Version: d.Version, Deleted: d.Deleted, Data: d.Data}
}

func answerOf(r statesync.Result) document {
	return document{Version: r.Version, Deleted: r.Doc.Deleted, Data: r.Doc.Data, Token: r.Token.String()}
}

func (s *server) update(ctx context.Context, u update) (document, error) {
	r, err := s.Update(ctx, u.Ref, func(d *statesync.Doc) error {
		if !u.Plain {
			if len(d.Data) == 0 {
				d.Data["born"] = d.Version + 1
			}
			d.Data["n"] = d.Version + 1
		}
		d.Data[u.Field] = u.Value
		return nil
	}, statesync.UpdateOptions{Expect: u.Expect, IdempotencyKey: u.Key})
	return answerOf(r), err
}

func (s *server) delete(ctx context.Context, u update) (document, error) {
	r, err := s.Delete(ctx, u.Ref, statesync.UpdateOptions{Expect: u.Expect, IdempotencyKey: u.Key})
	return answerOf(r), err
}

// saying is what an instance says of something volatile; nothing takes it back. Sayings are numbered, since one that was
// given up on may be heard late.
type saying struct {
	Ref     event.Ref `json:"ref"`
	Viewers int       `json:"viewers"`
	Number  int64     `json:"number"`
}

func (s *server) say(_ context.Context, v saying) (struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.Number < s.said[v.Ref] {
		return struct{}{}, nil
	}
	s.said[v.Ref] = v.Number
	if v.Viewers == 0 {
		s.DropVolatile(v.Ref)
		return struct{}{}, nil
	}
	return struct{}{}, s.SetVolatile(v.Ref, map[string]any{"viewers": v.Viewers})
}

// read asks for an entity: "latest", "" for what is in memory, or a token.
type read struct {
	Ref event.Ref `json:"ref"`
	How string    `json:"how"`
}

func (s *server) get(ctx context.Context, r read) (document, error) {
	how := statesync.Latest()
	if r.How != "latest" {
		t, err := statesync.ParseToken(r.How)
		if err != nil {
			return document{}, err
		}
		how = statesync.AtLeast(t)
	}
	d, err := s.Get(ctx, r.Ref, how)
	if d.Deleted {
		err = nil // how old it is matters
	}
	return documentOf(d), err
}

// digest is what an instance knows of entities without asking anybody, if it can be.
func (s *server) digest(ctx context.Context, refs []event.Ref) (string, error) {
	var docs []document
	for _, ref := range refs {
		d, err := s.Get(ctx, ref, statesync.Local())
		if err != nil && !errors.Is(err, statesync.ErrNotFound) {
			return "", err
		}
		docs = append(docs, documentOf(d))
	}
	return digest(docs), nil
}

func digest(docs []document) string {
	b, err := json.Marshal(docs)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

func (s *server) status(context.Context, struct{}) (statesync.Status, error) { return s.Status(), nil }

// told is one line of a watch: where it begins, a change, or why it ended.
type told struct {
	Ready   bool            `json:"ready,omitempty"` // it begins
	Token   string          `json:"token,omitempty"`
	Ref     event.Ref       `json:"ref,omitzero"`
	First   int64           `json:"first,omitempty"`
	Name    string          `json:"name,omitempty"`
	Version int64           `json:"version,omitempty"`
	Lost    int             `json:"lost,omitempty"`
	Data    json.RawMessage `json:"data,omitempty"`
	Reset   string          `json:"reset,omitempty"`
	End     string          `json:"end,omitempty"`
}

func (s *server) watch(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	from, err := statesync.ParseToken(q.Get("from"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var mu sync.Mutex
	enc, out := json.NewEncoder(w), http.NewResponseController(w)
	say := func(t told) error {
		mu.Lock()
		defer mu.Unlock()
		if failed := enc.Encode(t); failed != nil {
			return failed
		}
		return out.Flush()
	}
	buffer, _ := strconv.Atoi(q.Get("buffer"))
	pause, _ := time.ParseDuration(q.Get("pause"))
	overflow := statesync.Block
	if q.Get("overflow") == "conflate" {
		overflow = statesync.Conflate
	}
	err = s.Subscribe(r.Context(), strings.Split(q.Get("topics"), ","), statesync.SubOptions{
		Buffer: buffer, Overflow: overflow, From: from, OnReady: func(t statesync.Token) {
			if !from.IsZero() {
				t = from
			}
			_ = say(told{Ready: true, Token: t.String()})
		},
	}, func(c statesync.Change) error {
		<-time.After(pause)
		if c.Reset {
			return say(told{Token: c.Token.String(), Reset: c.Reason})
		}
		return say(told{Token: c.Token.String(), Ref: c.Ref, Name: c.Name, First: c.FirstVersion, Version: c.Version, Lost: c.Lost, Data: c.Data})
	})
	if err != nil {
		_ = say(told{End: errs.CodeOf(err)})
	}
}

// newRef is an entity that nobody has made yet.
func newRef(kind string) event.Ref { return event.Ref{Type: kind, ID: uuid.New()} }
