package session_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/secret"
	"rootstream/session"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("rootstream/postgres/postgrestest.(*process).start.func1")) // the server lives as long as the process
}

// world is a database, perhaps a Redis, a keyset, and the instances on them.
type world struct {
	t     testing.TB
	db    *postgres.DB
	dsn   string
	redis *cachetest.Redis
	keys  *secret.Keyset
	users atomic.Int64
}

func newWorld(tb testing.TB, withRedis bool) *world {
	tb.Helper()
	return newWorldOn(tb, postgres.Config{DSN: postgrestest.DSN(tb)}, withRedis)
}

func newWorldOn(tb testing.TB, cfg postgres.Config, withRedis bool) *world {
	tb.Helper()
	w := &world{t: tb, dsn: cfg.DSN, db: postgrestest.Open(tb, cfg)}
	if withRedis {
		w.redis = cachetest.Server(tb)
	}
	file := filepath.Join(tb.TempDir(), "master.key")
	if err := os.WriteFile(file, []byte("0123456789abcdef0123456789abcdef0123456789"), 0o600); err != nil {
		tb.Fatal(err)
	}
	master, err := secret.LoadMasterKey(file)
	if err != nil {
		tb.Fatal(err)
	}
	if w.keys, err = secret.Open(tb.Context(), w.db, master, "sessions"); err != nil {
		tb.Fatal(err)
	}
	return w
}

// instance is one process's manager, with its loops running.
func (w *world) instance(change ...func(*session.Config)) *session.Manager {
	w.t.Helper()
	m, _ := w.stoppable(change...)
	return m
}

// stoppable also returns what ends the loops, as the end of the process would.
func (w *world) stoppable(change ...func(*session.Config)) (*session.Manager, func()) {
	w.t.Helper()
	m := w.idle(change...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
	w.t.Cleanup(stop)
	eventually(w.t, 5*time.Second, m.Ready)
	return m, stop
}

// idle is an instance without its loops.
func (w *world) idle(change ...func(*session.Config)) *session.Manager {
	w.t.Helper()
	cfg := session.Config{DB: w.db, Keys: w.keys}
	var manager atomic.Pointer[session.Manager]
	if w.redis != nil {
		cfg.Cache = w.redis.Client(w.t, cache.Config{OnInvalidate: func(keys []string) {
			if m := manager.Load(); m != nil {
				m.Invalidate(keys)
			}
		}})
	}
	for _, f := range change {
		f(&cfg)
	}
	m, err := session.NewManager(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	manager.Store(m)
	return m
}

// user makes an account and returns its ids.
func (w *world) user() (int64, uuid.UUID) {
	w.t.Helper()
	n := w.users.Add(1)
	var id int64
	var public uuid.UUID
	err := w.db.QueryRow(context.Background(), `insert into users (username, email, password_hash)
		values ($1, $2, 'x') returning id, public_id`, fmt.Sprintf("user%d", n), fmt.Sprintf("user%d@example.org", n)).
		Scan(&id, &public)
	if err != nil {
		w.t.Fatal(err)
	}
	return id, public
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.db.Exec(context.Background(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

func (w *world) int(sql string, args ...any) int {
	w.t.Helper()
	var n int
	if err := w.db.QueryRow(context.Background(), sql, args...).Scan(&n); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func (w *world) tx(f func(*postgres.Tx) error) {
	w.t.Helper()
	if err := w.db.InTx(context.Background(), f); err != nil {
		w.t.Fatal(err)
	}
}

// login creates a session of a new account.
func (w *world) login(m *session.Manager) (string, session.Session) {
	w.t.Helper()
	id, _ := w.user()
	return w.loginAs(m, session.New{UserID: id})
}

func (w *world) loginAs(m *session.Manager, in session.New) (string, session.Session) {
	w.t.Helper()
	c, err := create(w.db, m, in)
	if err != nil {
		w.t.Fatal(err)
	}
	return c.Token.Reveal(), c.Session
}

func create(db *postgres.DB, m *session.Manager, in session.New) (c session.Created, err error) {
	err = db.InTx(context.Background(), func(tx *postgres.Tx) error {
		var e error
		c, e = m.Create(context.Background(), tx, in)
		return e
	})
	return c, err
}

func (w *world) revoke(m *session.Manager, s session.Session) {
	w.t.Helper()
	w.tx(func(tx *postgres.Tx) error {
		return m.Revoke(context.Background(), tx, s.DBUserID, s.ID, session.Cause{Reason: "test"})
	})
}

func valid(m *session.Manager, token string) bool {
	_, err := m.Validate(context.Background(), token, session.ClientHint{})
	return err == nil
}

func strong(m *session.Manager, token string) error {
	_, err := m.Validate(context.Background(), token, session.ClientHint{Strong: true})
	return err
}

// eventually waits until ok, and fails after the bound.
func eventually(tb testing.TB, bound time.Duration, ok func() bool) time.Duration {
	tb.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > bound {
			tb.Fatalf("not so after %v", bound)
		}
		<-time.After(time.Millisecond)
	}
	return time.Since(start)
}

// waiting waits until somebody waits for a lock of this kind.
func (w *world) waiting(event string) {
	w.t.Helper()
	eventually(w.t, 10*time.Second, func() bool {
		return w.int(`select count(*) from pg_stat_activity
			where wait_event_type = 'Lock' and wait_event = $1 and datname = current_database()`, event) > 0
	})
}

func sum(token string) []byte {
	h := sha256.Sum256([]byte(token))
	return h[:]
}

// viewKey is where Redis holds the view of a token.
func viewKey(token string) string {
	return cache.SessionView(sha256.Sum256([]byte(token)))
}

func redisConfig() cache.Config { return cache.Config{} }
