package auth_test

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/pquerna/otp"
	"github.com/pquerna/otp/totp"
	"github.com/prometheus/client_golang/prometheus"

	"rootstream/auth"
	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/errs"
	"rootstream/event"
	"rootstream/internal/testclock"
	"rootstream/mfa"
	"rootstream/notify"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/secret"
	"rootstream/session"
	"rootstream/user"
)

const password = "correct horse battery staple"

// world is a whole system around a Service: a database and a Redis of its own.
type world struct {
	*auth.Service
	t        *testing.T
	db       *postgres.DB
	redis    *cachetest.Redis
	users    *user.Store
	hasher   *user.Hasher
	sessions *session.Manager
	mfa      *mfa.Manager
	keys     *secret.Keyset
	clock    *testclock.Clock // of codes, limits and freshness; sessions go by the database's
	logged   *strings.Builder
}

type option struct {
	config   auth.Config
	session  session.Config
	hasher   user.HasherConfig
	ahead    bool // the database's clock is an hour ahead, and freshness goes by the clock of the sessions
	noRedis  bool
	patience time.Duration // with Redis; 0 means long
	registry prometheus.Registerer
	still    bool // no loop runs
}

func newWorld(t *testing.T, opts ...func(*option)) *world {
	t.Helper()
	var o option
	for _, set := range opts {
		set(&o)
	}
	dsn := postgrestest.DSN(t)
	if o.ahead {
		setAhead(t, dsn)
	}
	db := postgrestest.Open(t, postgres.Config{ // patient: the machine may be busy
		DSN: dsn, AcquireTimeout: time.Minute, ConnectTimeout: time.Minute, LockTimeout: 30 * time.Second,
		Registerer: o.registry,
	})
	w := &world{t: t, db: db, clock: testclock.New(), logged: &strings.Builder{}}
	log := slog.New(slog.NewTextHandler(&guarded{w: w.logged}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	patience := cmp.Or(o.patience, 20*time.Second)
	var client *cache.Client
	var limiter *cache.Limiter
	if !o.noRedis {
		w.redis = cachetest.Server(t)
		client = w.redis.Client(t, cache.Config{Logger: log, CommandTimeout: patience})
		limiter = cache.NewLimiter(client, cache.LimiterConfig{})
	}
	w.keys = keyset(t, w.db)
	w.users = user.NewStore(w.db)
	var err error
	o.hasher.Cost, o.hasher.QueueTimeout = user.Argon2{MemoryKiB: 64, Time: 1, Parallelism: 1}, cmp.Or(o.hasher.QueueTimeout, 30*time.Second)
	if w.hasher, err = user.NewHasher(o.hasher); err != nil {
		t.Fatal(err)
	}
	w.mfa, err = mfa.New(w.db, w.keys, mfa.Config{Now: w.clock.Now, Logger: log, Derive: func(_ context.Context, p, salt []byte) ([]byte, error) {
		return append(append([]byte{}, p...), salt...), nil // what it costs is tested in its room
	}})
	if err != nil {
		t.Fatal(err)
	}
	o.session.DB, o.session.Keys, o.session.Logger, o.session.MaxBlind = w.db, w.keys, log, time.Minute
	if w.sessions, err = session.NewManager(o.session); err != nil {
		t.Fatal(err)
	}
	if !o.still {
		w.run(w.sessions.Run)
	}
	if !o.ahead {
		o.config.Now = w.clock.Now
	}
	w.Service, err = auth.New(auth.Deps{
		DB: w.db, Users: w.users, Hasher: w.hasher, Sessions: w.sessions, MFA: w.mfa, Limiter: limiter, Cache: client,
		Keyset: w.keys, Config: o.config, Logger: log,
		Streams: func(_ context.Context, id uuid.UUID) (any, error) { return []string{"streams of " + id.String()}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.sessions.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// setAhead puts functions before the database's own, for connections from now on.
func setAhead(t *testing.T, dsn string) {
	t.Helper()
	db := postgrestest.Open(t, postgres.Config{DSN: dsn})
	for _, sql := range []string{
		`create function public.now() returns timestamptz language sql stable as $$select pg_catalog.now() + interval '1 hour'$$`,
		`create function public.clock_timestamp() returns timestamptz language sql volatile as $$select pg_catalog.clock_timestamp() + interval '1 hour'$$`,
		`do $$ begin execute format('alter database %I set search_path = public, pg_catalog', current_database()); end $$`,
	} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
}

// stillClock counts failures in process, so that the waits go by the test's
// clock. Half of what is free in Redis is free there: twice as much is set.
func stillClock(o *option) {
	o.noRedis = true
	o.config.Rate.FreeClient = 10
}

// guarded is a writer for many.
type guarded struct {
	mu sync.Mutex
	w  *strings.Builder
}

func (g *guarded) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.w.Write(b)
}

func keyset(t *testing.T, db *postgres.DB) *secret.Keyset {
	t.Helper()
	master, err := secret.NewMasterKeyFile(filepath.Join(t.TempDir(), "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := secret.Open(t.Context(), db, master, "main")
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// run keeps a loop going until the test ends.
func (w *world) run(loop func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := loop(ctx); err != nil {
			w.t.Errorf("a loop ended: %v", err)
		}
	}()
	w.t.Cleanup(func() { cancel(); <-done })
}

// from is a client in a network of its own for each n.
func from(n byte) auth.Client {
	return auth.Client{IP: netip.AddrFrom4([4]byte{10, 0, n, 7}), UserAgent: "Mozilla/5.0 (X11; Linux) Firefox/140.0"}
}

func (w *world) register(name string) user.User {
	w.t.Helper()
	u, err := w.Register(w.t.Context(), auth.Registration{Username: name, Email: name + "@example.org", Password: password}, from(1))
	if err != nil {
		w.t.Fatalf("register %s: %v", name, err)
	}
	return u
}

func (w *world) login(name string) auth.Grant {
	w.t.Helper()
	l, err := w.Login(w.t.Context(), auth.Credentials{Login: name, Password: password}, from(1))
	if err != nil {
		w.t.Fatalf("login %s: %v", name, err)
	}
	if l.Grant == nil {
		w.t.Fatalf("login %s: a second factor is missing", name)
	}
	return *l.Grant
}

func (w *world) challenge(name string) auth.Challenge {
	w.t.Helper()
	l, err := w.Login(w.t.Context(), auth.Credentials{Login: name, Password: password}, from(1))
	if err != nil || l.Challenge == nil || l.Grant != nil {
		w.t.Fatalf("login %s: %+v, %v; want a challenge alone", name, l, err)
	}
	return *l.Challenge
}

func (w *world) principal(g auth.Grant) auth.Principal {
	w.t.Helper()
	v, err := w.sessions.Validate(w.t.Context(), g.Token.Reveal(), session.ClientHint{Strong: true})
	if err != nil {
		w.t.Fatalf("validate: %v", err)
	}
	return auth.Principal{View: v}
}

func (w *world) refused(g auth.Grant) {
	w.t.Helper()
	if _, err := w.sessions.Validate(w.t.Context(), g.Token.Reveal(), session.ClientHint{}); errs.CodeOf(err) != "unauthenticated" {
		w.t.Errorf("a token that must be dead: %v", err)
	}
}

// factor is an enrolled authenticator.
type factor struct {
	w      *world
	id     uuid.UUID
	secret string
	backup []string
}

// next is a code that was not used yet: time goes on for it.
func (f factor) next() string {
	f.w.t.Helper()
	f.w.clock.Advance(30 * time.Second)
	code, err := totp.GenerateCodeCustom(f.secret, f.w.clock.Now(), totp.ValidateOpts{Period: 30, Digits: otp.DigitsSix})
	if err != nil {
		f.w.t.Fatal(err)
	}
	return code
}

func (w *world) enroll(g auth.Grant) factor {
	w.t.Helper()
	p := w.principal(g)
	made, err := w.EnrollTOTP(w.t.Context(), p, from(1))
	if err != nil {
		w.t.Fatalf("enrol: %v", err)
	}
	f := factor{w: w, id: made.FactorID, secret: made.Secret.Reveal()}
	if f.backup, err = w.ConfirmTOTP(w.t.Context(), p, f.id, f.next(), from(1)); err != nil {
		w.t.Fatalf("confirm: %v", err)
	}
	return f
}

// signIn goes the whole way with both factors.
func (w *world) signIn(name string, f factor) auth.Grant {
	w.t.Helper()
	g, err := w.VerifyMFA(w.t.Context(), auth.MFAAnswer{ChallengeID: w.challenge(name).ID, Method: mfa.TOTP, Code: f.next()}, from(1))
	if err != nil {
		w.t.Fatalf("answer the challenge of %s: %v", name, err)
	}
	return g
}

// audit is the names of a user's events, oldest first.
func (w *world) audit(id uuid.UUID) []string {
	w.t.Helper()
	all, err := event.NewStore(w.db).Audit(w.t.Context(), id, event.Position{}, 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	names := make([]string, len(all))
	for i, e := range all {
		names[len(all)-1-i] = e.Name
	}
	return names
}

func (w *world) heard(id uuid.UUID, name string) int {
	w.t.Helper()
	n := 0
	for _, have := range w.audit(id) {
		if have == name {
			n++
		}
	}
	return n
}

// mails counts what is in the outbox for a user.
func (w *world) mails(topic string, id uuid.UUID) int {
	w.t.Helper()
	var n int
	err := w.db.QueryRow(w.t.Context(), `select count(*) from outbox where topic = $1 and payload->>'user_id' = $2`, topic, id.String()).Scan(&n)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// letter renders the newest mail of a topic, as the sender would.
func (w *world) letter(topic string) (to, text string) {
	w.t.Helper()
	m, err := w.render(topic)
	if err != nil {
		w.t.Fatalf("render %s: %v", topic, err)
	}
	return m.To, m.Subject + "\n" + m.Text
}

func (w *world) render(topic string) (m notify.Mail, err error) {
	w.t.Helper()
	var payload json.RawMessage
	if err = w.db.QueryRow(w.t.Context(), `select payload from outbox where topic = $1 order by created_at desc, id desc limit 1`, topic).Scan(&payload); err != nil {
		w.t.Fatalf("no mail %s: %v", topic, err)
	}
	err = w.db.InTx(w.t.Context(), func(tx *postgres.Tx) (err error) {
		m, err = auth.Renderers(w.users, w.sessions, auth.MailConfig{PublicURL: "https://example.org/"})[topic](w.t.Context(), tx, payload)
		return err
	})
	return m, err
}

// mailed is the token in the newest mail of a topic.
func (w *world) mailed(topic string) string {
	w.t.Helper()
	_, text := w.letter(topic)
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "sut_") {
			return strings.TrimSpace(line)
		}
	}
	w.t.Fatalf("no token in:\n%s", text)
	return ""
}

func wantCode(t *testing.T, err error, kind errs.Kind, code string) {
	t.Helper()
	if errs.KindOf(err) != kind || errs.CodeOf(err) != code || err == nil {
		t.Errorf("error is %v (%s), want %s", err, errs.CodeOf(err), code)
	}
}

func TestMain(m *testing.M) { os.Exit(m.Run()) }
