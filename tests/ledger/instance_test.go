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
	envRedis = "LEDGER_REDIS"
	envCache = "LEDGER_CACHE_BYTES"
)

// types are those of the test: documents that come and go from memory, and documents that stay there.
func types() []statesync.Type {
	return []statesync.Type{{Name: "loose", Reserved: []string{"fixed"}}, {Name: "held", Hold: true, Reserved: []string{"fixed"}}}
}

// server is one instance: the manager with its log, and a face for the test.
type server struct {
	*statesync.Manager
}

func serve() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	slog.SetDefault(logger)
	db, err := postgres.Open(ctx, postgres.Config{
		DSN: os.Getenv(envDSN), AcquireTimeout: 2 * time.Second, StatementTimeout: 5 * time.Second, LockTimeout: 2 * time.Second,
	})
	if err != nil {
		return err
	}
	defer db.Close()
	redis, err := cache.Open(ctx, cache.Config{URL: os.Getenv(envRedis)})
	if err != nil {
		return err
	}
	defer redis.Close()
	s, schema := &server{}, event.NewSchema()
	log, err := event.NewLog(event.LogConfig{DB: db, Schema: schema, SnapshotEvery: 10, OnCommit: func(e []event.Event) { s.Offer(e) }})
	if err != nil {
		return err
	}
	bytes, _ := strconv.ParseInt(os.Getenv(envCache), 10, 64)
	cfg := statesync.Config{DB: db, Log: log, Schema: schema, Cache: redis, Auth: feedtest.Key("ledger"), CacheBytes: bytes}
	if s.Manager, err = newManager(cfg); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
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

// update counts n of the entity up, unless it is not to, and sets a field.
type update struct {
	Ref    event.Ref `json:"ref"`
	Key    string    `json:"key"`
	Expect *int64    `json:"expect,omitempty"`
	Field  string    `json:"field"`
	Value  any       `json:"value"`
	Plain  bool      `json:"plain,omitempty"` // so that it may change nothing
}

// document is an entity's state at a version.
type document struct {
	Version int64          `json:"version"`
	Data    map[string]any `json:"data"`
	Token   string         `json:"token,omitempty"` // of an update
}

func (s *server) update(ctx context.Context, u update) (document, error) {
	r, err := s.Update(ctx, u.Ref, func(d *statesync.Doc) error {
		if !u.Plain {
			n, _ := d.Data["n"].(json.Number)
			count, _ := n.Int64()
			d.Data["n"] = count + 1
		}
		d.Data[u.Field] = u.Value
		return nil
	}, statesync.UpdateOptions{Expect: u.Expect, IdempotencyKey: u.Key})
	return document{r.Version, r.Doc.Data, r.Token.String()}, err
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
	return document{Version: d.Version, Data: d.Data}, err
}

// digest is what an instance knows of entities without asking anybody, if it can be.
func (s *server) digest(ctx context.Context, refs []event.Ref) (string, error) {
	var docs []document
	for _, ref := range refs {
		d, err := s.Get(ctx, ref, statesync.Local())
		if err != nil && !errors.Is(err, statesync.ErrNotFound) {
			return "", err
		}
		docs = append(docs, document{Version: d.Version, Data: d.Data})
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
	Token   string          `json:"token,omitempty"`
	Ref     event.Ref       `json:"ref,omitzero"`
	First   int64           `json:"first,omitempty"`
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
			if from.IsZero() {
				_ = say(told{Token: t.String()})
			}
		},
	}, func(c statesync.Change) error {
		<-time.After(pause)
		if c.Reset {
			return say(told{Token: c.Token.String(), Reset: c.Reason})
		}
		return say(told{Token: c.Token.String(), Ref: c.Ref, First: c.FirstVersion, Version: c.Version, Lost: c.Lost, Data: c.Data})
	})
	if err != nil {
		_ = say(told{End: errs.CodeOf(err)})
	}
}

// newRef is an entity that nobody has made yet.
func newRef(kind string) event.Ref { return event.Ref{Type: kind, ID: uuid.New()} }
