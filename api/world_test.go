package api_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"rootstream/api"
	"rootstream/app"
	"rootstream/auth"
	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/event"
	"rootstream/internal/testclock"
	"rootstream/mfa"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/secret"
	"rootstream/session"
	"rootstream/statesync"
	"rootstream/statesync/merge"
	"rootstream/stream"
	"rootstream/user"
)

const (
	password     = "correct horse battery staple"
	serviceToken = "service-token-of-the-edge-0123456789"
)

// world is the API over real parts: a database and a Redis of its own.
type world struct {
	tb       testing.TB
	url      string
	handler  http.Handler
	api      *api.Server
	db       *postgres.DB
	redis    *cachetest.Redis
	users    *user.Store
	sessions *session.Manager
	mfa      *mfa.Manager
	auth     *auth.Service
	streams  app.Streams
	log      *event.Log
	state    shared
	clock    *testclock.Clock // of codes, limits and freshness; sessions go by the database's
	logged   *guarded
}

type option struct {
	auth    auth.Config
	session session.Config
	api     api.Config
	noKeys  bool
	deps    func(*api.Deps)
}

func newWorld(tb testing.TB, opts ...func(*option)) *world {
	tb.Helper()
	var o option
	for _, set := range opts {
		set(&o)
	}
	w := &world{tb: tb, redis: cachetest.Server(tb), clock: testclock.New(), logged: &guarded{}}
	db := postgrestest.Open(tb, postgres.Config{ // patient: the machine may be busy
		DSN: postgrestest.DSN(tb), AcquireTimeout: time.Minute, ConnectTimeout: time.Minute, LockTimeout: 30 * time.Second,
		OnCommit: func(tx *postgres.Tx) {
			if w.log != nil {
				w.log.Committed(event.Appended(tx))
			}
		},
	})
	w.db = db
	log := slog.New(slog.NewTextHandler(w.logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var manager atomic.Pointer[session.Manager]
	redis := w.redis.Client(tb, cache.Config{Logger: log, CommandTimeout: 20 * time.Second, OnInvalidate: func(keys []string) {
		if m := manager.Load(); m != nil {
			m.Invalidate(keys)
		}
	}})
	var keys *secret.Keyset
	if !o.noKeys {
		keys = keyset(tb, db)
	}
	w.users = user.NewStore(db)
	hasher, err := user.NewHasher(user.HasherConfig{
		Cost: user.Argon2{MemoryKiB: 64, Time: 1, Parallelism: 1}, QueueTimeout: 30 * time.Second,
	})
	must(tb, err)
	w.mfa, err = mfa.New(db, keys, mfa.Config{Now: w.clock.Now, Logger: log, Derive: func(_ context.Context, p, salt []byte) ([]byte, error) {
		return append(append([]byte{}, p...), salt...), nil // what it costs is tested in its room
	}})
	must(tb, err)
	o.session.DB, o.session.Cache, o.session.Keys, o.session.Logger = db, redis, keys, log
	o.session.MaxBlind = cmp.Or(o.session.MaxBlind, time.Minute)
	w.sessions, err = session.NewManager(o.session)
	must(tb, err)
	manager.Store(w.sessions)
	w.run(w.sessions.Run)
	must(tb, w.sessions.Poll(tb.Context()))
	o.auth.Now = w.clock.Now
	w.auth, err = auth.New(auth.Deps{
		DB: db, Users: w.users, Hasher: hasher, Sessions: w.sessions, MFA: w.mfa, Limiter: cache.NewLimiter(redis, cache.LimiterConfig{}),
		Cache: redis, Keyset: keys, Config: o.auth, Logger: log,
	})
	must(tb, err)
	store, err := stream.New(db, redis, stream.Config{Logger: log})
	must(tb, err)
	w.streams = app.NewStreams(store, db)
	w.share(redis, keys, log)
	registry := prometheus.NewRegistry()
	deps := api.Deps{
		Auth: w.auth, Sessions: w.sessions, Factors: w.mfa, Users: w.users, Streams: w.streams, Events: event.NewStore(db), MinPassword: 15,
		State: w.state, StateTypes: map[string]api.StateType{
			"note": {Write: session.RoleUser}, "setting": {Write: session.RoleOperator}, "mood": {Volatile: true, Write: session.RoleUser},
		},
		Backups: newBackups(tb),
		Checks: []api.Check{
			{Name: "postgresql", Required: true, Probe: func(ctx context.Context) error {
				_, err := db.Exec(ctx, "select 1 from users limit 0")
				return err
			}},
			{Name: "redis", Probe: redis.Ping},
		},
	}
	if o.deps != nil {
		o.deps(&deps)
	}
	o.api.Version, o.api.Logger, o.api.Registerer = "test", log, registry
	o.api.Metrics = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	o.api.ServiceTokens = map[string]string{serviceToken: "edge"}
	w.api = api.New(deps, o.api)
	w.handler = w.api
	server := httptest.NewServer(w.api)
	tb.Cleanup(server.Close)
	tb.Cleanup(w.api.EndWatches)
	w.url = server.URL
	return w
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func keyset(tb testing.TB, db *postgres.DB) *secret.Keyset {
	tb.Helper()
	master, err := secret.NewMasterKeyFile(filepath.Join(tb.TempDir(), "master.key"))
	must(tb, err)
	keys, err := secret.Open(tb.Context(), db, master, "main")
	must(tb, err)
	return keys
}

// shared is the state, with what the program lends to it.
type shared struct{ *statesync.Manager }

func (s shared) Lend(ref event.Ref, doc json.RawMessage) (time.Duration, error) {
	var fields map[string]any
	if err := json.Unmarshal(doc, &fields); err != nil {
		return 0, err
	}
	return 30 * time.Second, s.SetVolatile(ref, fields)
}

// share sets the shared state up.
func (w *world) share(redis *cache.Client, keys *secret.Keyset, log *slog.Logger) {
	w.tb.Helper()
	var manager atomic.Pointer[statesync.Manager]
	appender, err := event.NewLog(event.LogConfig{DB: w.db, Logger: log, OnCommit: func(events []event.Event) {
		if m := manager.Load(); m != nil {
			m.Offer(events)
		}
	}})
	must(w.tb, err)
	cfg := statesync.Config{DB: w.db, Log: appender, Logger: log}
	if keys != nil {
		cfg.Cache, cfg.Auth = redis, keys
	}
	m, err := statesync.New(cfg)
	must(w.tb, err)
	for _, t := range []statesync.Type{
		{Name: "stream", Fold: stream.Fold, Reserved: stream.Folded()},
		{Name: "user"},
		{Name: "session", ReadOnly: true},
		{Name: "note"},
		{Name: "setting", Rebase: statesync.PerField(nil)},
		{Name: "mood", Class: statesync.Volatile, Join: merge.Sum()},
	} {
		must(w.tb, m.Register(t))
	}
	manager.Store(m)
	w.log, w.state = appender, shared{m}
	w.run(appender.Run)
	w.run(m.Run)
	<-m.Ready()
}

// run keeps a loop going until the test ends.
func (w *world) run(loop func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := loop(ctx); err != nil {
			w.tb.Errorf("a loop ended: %v", err)
		}
	}()
	w.tb.Cleanup(func() { cancel(); <-done })
}

// guarded is a log for many.
type guarded struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (g *guarded) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.Write(b)
}

func (g *guarded) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.String()
}

type object = map[string]any

// answer is a response, read to its end.
type answer struct {
	tb     testing.TB
	what   string
	status int
	header http.Header
	body   []byte
}

type tune = func(*http.Request)

func withHeader(name, value string) tune { return func(r *http.Request) { r.Header.Set(name, value) } }

func as(token string) tune { return withHeader("Authorization", "Bearer "+token) }

func withCookies(cookies ...*http.Cookie) tune {
	return func(r *http.Request) {
		for _, c := range cookies {
			r.AddCookie(c)
		}
	}
}

// do sends a request over the network: body is nil, text or bytes as they are, or what becomes JSON.
func (w *world) do(method, path string, body any, tunes ...tune) answer {
	w.tb.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	case []byte:
		reader = bytes.NewReader(b)
	case io.Reader:
		reader = b
	default:
		raw, err := json.Marshal(b)
		must(w.tb, err)
		reader = bytes.NewReader(raw)
	}
	r, err := http.NewRequestWithContext(w.tb.Context(), method, w.url+path, reader)
	must(w.tb, err)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, t := range tunes {
		t(r)
	}
	resp, err := client.Do(r)
	if err != nil {
		w.tb.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	var read []byte
	if resp.Header.Get("Content-Type") != "text/event-stream" { // it has no end
		read, err = io.ReadAll(resp.Body)
	}
	if err != nil {
		w.tb.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{w.tb, method + " " + path, resp.StatusCode, resp.Header, read}
}

var client = &http.Client{
	Transport:     &http.Transport{MaxIdleConnsPerHost: 100},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// from sends a request that seems to come from an address, without a network.
func (w *world) from(addr, method, path string, body string, tunes ...tune) answer {
	w.tb.Helper()
	r := httptest.NewRequestWithContext(w.tb.Context(), method, path, strings.NewReader(body))
	r.RemoteAddr = addr
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, t := range tunes {
		t(r)
	}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, r)
	return answer{w.tb, method + " " + path + " from " + addr, rec.Code, rec.Result().Header, rec.Body.Bytes()}
}

// want checks the status and returns the answer for more.
func (a answer) want(status int) answer {
	a.tb.Helper()
	if a.status != status {
		a.tb.Fatalf("%s: %d, want %d: %s", a.what, a.status, status, a.body)
	}
	return a
}

// problem checks that the answer is a problem with this status and code.
func (a answer) problem(status int, code string) answer {
	a.tb.Helper()
	a.want(status)
	p := a.json()
	if a.header.Get("Content-Type") != "application/problem+json" || p["code"] != code || p["status"] != float64(status) ||
		p["title"] != http.StatusText(status) || p["type"] != "about:blank" || p["request_id"] == "" ||
		p["request_id"] != a.header.Get("X-Request-Id") {
		a.tb.Errorf("%s: want a problem %s, have %s: %s", a.what, code, a.header, a.body)
	}
	return a
}

// names checks that the problem names the field.
func (a answer) names(field string) answer {
	a.tb.Helper()
	if !slices.Contains(a.fields(), field) {
		a.tb.Errorf("%s: must name %s: %s", a.what, field, a.body)
	}
	return a
}

func (a answer) fields() []string {
	var p struct {
		Errors []struct{ Field, Message string }
	}
	_ = json.Unmarshal(a.body, &p)
	var fields []string
	for _, e := range p.Errors {
		fields = append(fields, e.Field)
	}
	return fields
}

func (a answer) json() object {
	a.tb.Helper()
	var o object
	if err := json.Unmarshal(a.body, &o); err != nil {
		a.tb.Fatalf("%s: %v: %s", a.what, err, a.body)
	}
	return o
}

// at is a value inside, by its path: "session.device.id", "items.0.id".
func (a answer) at(path string) any {
	a.tb.Helper()
	var v any
	if err := json.Unmarshal(a.body, &v); err != nil {
		a.tb.Fatalf("%s: %v: %s", a.what, err, a.body)
	}
	for step := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case object:
			v = x[step]
		case []any:
			var i int
			if _, err := fmt.Sscan(step, &i); err != nil || i >= len(x) {
				a.tb.Fatalf("%s: no %s in %s", a.what, path, a.body)
			}
			v = x[i]
		default:
			a.tb.Fatalf("%s: no %s in %s", a.what, path, a.body)
		}
	}
	return v
}

func (a answer) text(path string) string {
	a.tb.Helper()
	s, ok := a.at(path).(string)
	if !ok || s == "" {
		a.tb.Fatalf("%s: no text %s in %s", a.what, path, a.body)
	}
	return s
}

// keys checks the names in an object inside, all of them; path "" is the whole.
func (a answer) keys(path string, want ...string) answer {
	a.tb.Helper()
	o := any(a.json())
	if path != "" {
		o = a.at(path)
	}
	m, ok := o.(object)
	if !ok {
		a.tb.Fatalf("%s: %s is no object in %s", a.what, path, a.body)
	}
	slices.Sort(want)
	if diff := gocmp.Diff(want, slices.Sorted(maps.Keys(m))); diff != "" {
		a.tb.Errorf("%s: names in %q (-want +have):\n%s", a.what, path, diff)
	}
	return a
}

func (a answer) cookie(name string) *http.Cookie {
	a.tb.Helper()
	for _, c := range (&http.Response{Header: a.header}).Cookies() {
		if c.Name == name {
			return c
		}
	}
	a.tb.Fatalf("%s: no cookie %s in %v", a.what, name, a.header["Set-Cookie"])
	return nil
}

func (w *world) register(name string) {
	w.tb.Helper()
	w.do("POST", "/v1/users", object{"username": name, "email": name + "@example.org", "password": password}).want(201)
}

// login signs in somebody without a second factor.
func (w *world) login(name string) answer {
	w.tb.Helper()
	return w.do("POST", "/v1/auth/login", object{"login": name, "password": password}).want(200)
}

// token is that of a new session of a new account.
func (w *world) token(name string) string {
	w.tb.Helper()
	w.register(name)
	return w.login(name).text("token")
}

// factor is an enrolled authenticator.
type factor struct {
	w      *world
	id     string
	secret string
	backup []string
}

func (w *world) enroll(token string) factor {
	w.tb.Helper()
	made := w.do("POST", "/v1/mfa/totp", nil, as(token)).want(201)
	f := factor{w: w, id: made.text("factor_id"), secret: made.text("secret")}
	confirmed := w.do("POST", "/v1/mfa/totp/"+f.id+"/confirm", object{"code": f.next()}, as(token)).want(200)
	for _, c := range confirmed.at("backup_codes").([]any) {
		f.backup = append(f.backup, c.(string))
	}
	return f
}

// next is a code that was not used yet: time goes on for it.
func (f factor) next() string {
	f.w.tb.Helper()
	f.w.clock.Advance(30 * time.Second)
	code, err := mfa.CodeAt(f.secret, f.w.clock.Now())
	must(f.w.tb, err)
	return code
}

// actor is somebody with a session made for the test.
type actor struct {
	user  user.User
	token string
	id    uuid.UUID // of the session
}

// actor makes an account of a role and a session; one that is stale was proven an hour ago.
func (w *world) actor(name string, role user.Role, aal uint8, stale bool) actor {
	w.tb.Helper()
	u, err := w.users.ByUsername(w.tb.Context(), name)
	if err != nil {
		err = w.db.InTx(w.tb.Context(), func(tx *postgres.Tx) (err error) {
			u, err = w.users.Create(w.tb.Context(), tx, user.New{Username: name, Email: name + "@example.org", Role: role})
			return err
		})
		must(w.tb, err)
	}
	return w.session(u, aal, stale)
}

func (w *world) session(u user.User, aal uint8, stale bool) actor {
	w.tb.Helper()
	ctx := w.tb.Context()
	var made session.Created
	err := w.db.InTx(ctx, func(tx *postgres.Tx) (err error) {
		if made, err = w.sessions.Create(ctx, tx, session.New{
			UserID: u.ID, UserPublicID: u.PublicID, AAL: aal, Device: session.Device{ID: "device-of-" + u.Username, IP: netip.MustParseAddr("192.0.2.9")},
		}); err != nil || !stale {
			return err
		}
		_, err = tx.Exec(ctx, `update sessions set authenticated_at = authenticated_at - interval '1 hour', mfa_at = mfa_at - interval '1 hour'
			where public_id = $1`, made.Session.ID)
		return err
	})
	must(w.tb, err)
	return actor{u, made.Token.Reveal(), made.Session.ID}
}

// mailed is the token in the newest mail of a topic.
func (w *world) mailed(topic string) string {
	w.tb.Helper()
	ctx := w.tb.Context()
	var payload json.RawMessage
	if err := w.db.QueryRow(ctx, `select payload from outbox where topic = $1 order by created_at desc, id desc limit 1`, topic).Scan(&payload); err != nil {
		w.tb.Fatalf("no mail %s: %v", topic, err)
	}
	var text string
	must(w.tb, w.db.InTx(ctx, func(tx *postgres.Tx) error {
		m, err := auth.Renderers(w.users, w.sessions, auth.MailConfig{PublicURL: "https://example.org/"})[topic](ctx, tx, payload)
		text = m.Text
		return err
	}))
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "sut_") {
			return strings.TrimSpace(line)
		}
	}
	w.tb.Fatalf("no token in:\n%s", text)
	return ""
}

// mails counts what is in the outbox.
func (w *world) mails(topic string) int {
	w.tb.Helper()
	var n int
	must(w.tb, w.db.QueryRow(w.tb.Context(), `select count(*) from outbox where topic = $1`, topic).Scan(&n))
	return n
}
