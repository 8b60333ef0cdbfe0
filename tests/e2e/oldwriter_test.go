package e2e_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/cache/cachetest"
	"rootstream/postgres/postgrestest"
	"rootstream/tests/harness"
)

// TestOldWritersGoOnBesideLiveInstances runs a program of Phase 24.2, in its own words and its own time zone, on the
// database of two instances that have upgraded it under its hands.
func TestOldWritersGoOnBesideLiveInstances(t *testing.T) {
	t.Parallel()
	w := newOldWriter(t)
	var lags []time.Duration
	for until := time.Now().Add(4 * time.Second); time.Now().Before(until); {
		for _, end := range []string{
			"UPDATE sessions SET is_active = FALSE WHERE session_token = $1",
			"DELETE FROM sessions WHERE session_token = $1",
		} {
			token := w.signIn(time.Now().Add(time.Hour))
			w.works(token)
			w.exec(end, token)
			lags = append(lags, w.ends(token, time.Now()))
		}
	}
	slices.Sort(lags)
	t.Logf("%d sessions that an old writer ended: last accepted p50 %v, max %v after its commit", len(lags), quantile(lags, 0.5), quantile(lags, 1))

	token := w.signIn(time.Now().Add(time.Second))
	w.works(token)
	w.ends(token, time.Now().Add(time.Second))
	w.exec("INSERT INTO event_log (aggregate_type, aggregate_id, event_type, event_data, version, user_id) VALUES ('User', 1, 'Waved', '{}', 77, 1)")
	w.hasEvent("Waved")
	kept := w.signIn(time.Now().Add(time.Hour))
	w.works(kept)
	w.exec("UPDATE users SET is_active = FALSE WHERE id = 1")
	w.ends(kept, time.Now())
}

type oldWriter struct {
	t       *testing.T
	conn    *pgx.Conn
	callers []caller
	boss    string // an administrator's token
}

func newOldWriter(t *testing.T) *oldWriter {
	t.Helper()
	dsn := postgrestest.Empty(t)
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	cfg.RuntimeParams["timezone"] = "America/New_York"
	w := &oldWriter{t: t}
	if w.conn, err = pgx.ConnectConfig(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.conn.Close(context.Background()) })
	schema, err := os.ReadFile("../../postgres/testdata/phase-24.2.sql")
	if err != nil {
		t.Fatal(err)
	}
	w.exec(string(schema))
	st := stack{dsn: dsn, redis: cachetest.Server(t).URL(), key: masterKey(t), more: append(generous(), "ROOTSTREAM_POSTGRES_LEGACY_TIMEZONE=America/New_York")}
	urls := make([]string, 2)
	parallel(len(urls), func(i int) { urls[i] = st.serve(t, fmt.Sprintf("instance %d", i)).url }) // both upgrade at once
	for _, url := range urls {
		w.callers = append(w.callers, newCaller(url))
	}
	st.admin(t, boss, password)
	w.boss, _ = w.callers[0].signIn(t, boss)
	return w
}

func (w *oldWriter) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.conn.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatalf("%.80s: %v", sql, err)
	}
}

// signIn is what 24.2 does; its clock is on the wall in New York.
func (w *oldWriter) signIn(until time.Time) (token string) {
	w.t.Helper()
	zone, err := time.LoadLocation("America/New_York")
	if err != nil {
		w.t.Fatal(err)
	}
	token = "old-" + rand.Text()
	w.exec(`INSERT INTO sessions (user_id, session_token, device_id, user_agent, ip_address, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6)`, 1, token, "tv", "ua", "192.0.2.1", until.In(zone))
	return token
}

// works is whether every instance takes the token at once.
func (w *oldWriter) works(token string) {
	w.t.Helper()
	for _, c := range w.callers {
		if err := c.isValid(w.t.Context(), token, true); err != nil {
			w.t.Error(err)
		}
		if a := c.as(token).do(w.t.Context(), "GET", "/v1/users/me", nil); !a.ok() {
			w.t.Error(a)
		}
	}
}

// ends is whether every instance refuses the token, and how long after its end one still took it. Old writers tell
// nobody: what they ended is read from the database four times a second.
func (w *oldWriter) ends(token string, end time.Time) (lag time.Duration) {
	w.t.Helper()
	for _, c := range w.callers {
		for {
			a := c.validate(w.t.Context(), token)
			valid, answered := a.valid()
			if !answered {
				w.t.Fatal(a)
			}
			if !valid {
				break
			}
			if lag = max(lag, a.began.Sub(end)); lag > boundWhole {
				w.t.Fatalf("accepted %v after its end: %v", lag, a)
			}
		}
	}
	return lag
}

// hasEvent waits until an old writer's event is in the history that the API tells.
func (w *oldWriter) hasEvent(name string) {
	w.t.Helper()
	var id string
	if err := w.conn.QueryRow(w.t.Context(), "SELECT public_id FROM users WHERE id = 1").Scan(&id); err != nil {
		w.t.Fatal(err)
	}
	for _, c := range w.callers {
		took := harness.Eventually(w.t, patience, "the event is told", func() error {
			a := c.as(w.boss).do(w.t.Context(), "GET", "/v1/events?aggregate_type=user&aggregate_id="+id+"&limit=1000", nil)
			if !slices.ContainsFunc(a.body.items(), func(e object) bool { return e.str("name") == name }) {
				return fmt.Errorf("%v", a)
			}
			return nil
		})
		w.t.Logf("told after %v", took)
	}
}
