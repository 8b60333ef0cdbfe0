package session_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/session"
)

func TestRevocationReachesOtherInstancesThroughRedis(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	slow := func(c *session.Config) { c.PollInterval, c.MaxBlind = 30*time.Second, 2*time.Minute }
	m, other := w.instance(slow), w.instance(slow)
	for range 5 {
		token, s := w.login(m)
		eventually(t, time.Second, func() bool { return valid(m, token) && valid(other, token) })
		w.revoke(m, s)
		if valid(m, token) {
			t.Fatal("valid where it was revoked")
		}
		took := eventually(t, 5*time.Second, func() bool { return !valid(other, token) })
		t.Logf("seen elsewhere after %v", took)
	}
}

func TestRevocationReachesOtherInstancesByPollAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m, other := w.instance(), w.instance()
	for range 3 {
		token, s := w.login(m)
		if !valid(m, token) || !valid(other, token) {
			t.Fatal("not valid")
		}
		w.revoke(m, s)
		if valid(m, token) {
			t.Fatal("valid where it was revoked")
		}
		took := eventually(t, 5*time.Second, func() bool { return !valid(other, token) })
		t.Logf("seen elsewhere after %v", took)
	}
}

// Whoever changes the tables, in whatever way, is heard: the triggers tell.
func TestOldWritersArePickedUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m := w.instance()
	plain := func(token string) int64 {
		id, _ := w.user()
		w.exec(`insert into sessions (user_id, session_token, expires_at) values ($1, $2, now() + interval '1 hour')`, id, token)
		eventually(t, 5*time.Second, func() bool { return valid(m, token) })
		return id
	}
	for name, change := range map[string]string{
		"logout":              `update sessions set is_active = false where user_id = $1`,
		"logout of all":       `delete from sessions where user_id = $1`,
		"account deleted":     `delete from users where id = $1`,
		"account barred":      `update users set is_active = false where id = $1`,
		"token replaced":      `update sessions set session_token = 'another' || user_id where user_id = $1`,
		"shortened":           `update sessions set expires_at = created_at + interval '1 microsecond' where user_id = $1`,
		"account barred NULL": `update users set is_active = null where id = $1`,
	} {
		id := plain(name)
		w.exec(change, id)
		took := eventually(t, 5*time.Second, func() bool { return !valid(m, name) })
		t.Logf("%s: seen after %v", name, took)
		m.DropNear()
		if valid(m, name) {
			t.Errorf("%s: valid again from what Redis holds", name)
		}
	}
}

func TestChangesOfTheAccountReachItsSessions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m := w.instance()
	token, s := w.login(m)
	for _, role := range []session.Role{session.RoleAdmin, session.RoleOperator, session.RoleUser} {
		w.exec(`update users set role = $2, is_verified = not coalesce(is_verified, false) where id = $1`, s.DBUserID, role.String())
		eventually(t, 5*time.Second, func() bool {
			v, err := m.Validate(t.Context(), token, session.ClientHint{})
			return err == nil && v.Role == role
		})
		m.DropNear() // Redis may still hold the view from before
		if v, err := m.Validate(t.Context(), token, session.ClientHint{}); err != nil || v.Role != role {
			t.Errorf("role %v again, want %v: %v", v.Role, role, err)
		}
		m.DropNear()
		if r, err := m.ValidateBatch(t.Context(), []string{token}); err != nil || r[0].View.Role != role {
			t.Errorf("in a batch role %v, want %v: %v", r, role, err)
		}
	}
}

// A token that was replaced moments ago is honoured a little longer, but not with a role that was taken away.
func TestADemotionReachesReplacedTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m := w.idle()
	hear := func() {
		t.Helper()
		if err := m.Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	hear()
	token, s := w.login(m)
	w.exec(`update users set role = 'admin' where id = $1`, s.DBUserID)
	c, err := m.Refresh(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	hear()
	tokens := []string{token, c.Token.Reveal()}
	check := func(want session.Role) {
		t.Helper()
		for i, token := range tokens {
			if v, err := m.Validate(t.Context(), token, session.ClientHint{}); err != nil || v.Role != want {
				t.Errorf("token %d has role %v, want %v: %v", i, v.Role, want, err)
			}
		}
	}
	check(session.RoleAdmin)
	w.exec(`update users set role = 'user' where id = $1`, s.DBUserID)
	hear()
	check(session.RoleUser)
	m.DropNear()
	check(session.RoleUser)
}

// A transaction that began early and commits late is heard of when it commits, however many came between.
func TestALateCommitIsHeardOf(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m := w.instance(func(c *session.Config) { c.PollInterval = 20 * time.Millisecond })
	token, s := w.login(m)
	other, _ := w.login(m)
	w.tx(func(tx *postgres.Tx) error {
		if _, err := tx.Exec(t.Context(), `update sessions set is_active = false where public_id = $1`, s.ID); err != nil {
			return err
		}
		for range 50 { // others commit meanwhile, and are read
			w.exec(`update sessions set version = version + 1 where token_hash = $1`, sum(other))
			<-time.After(30 * time.Millisecond)
		}
		if !valid(m, token) {
			t.Error("heard of before it was committed")
		}
		return nil
	})
	// Sooner than the near cache forgets by itself.
	eventually(t, 3*time.Second, func() bool { return !valid(m, token) })
}

// While a transaction stays open, a reading does not go through all that was written since it began.
func TestAnOpenTransactionDoesNotMakeReadingsLong(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.tx(func(tx *postgres.Tx) error {
		const write = `insert into session_invalidations (token_hash, version, at)
			select sha256(n::text::bytea), 1, now() - interval '10 minutes' from generate_series(1, $1) n`
		if _, err := tx.Exec(t.Context(), write, 1); err != nil {
			return err
		}
		for range 10 {
			w.exec(write, 1000)
		}
		w.exec(`analyze session_invalidations`)
		var snapshot string
		var plan []struct{ Plan scanned }
		if err := w.db.QueryRow(t.Context(), `select pg_current_snapshot()::text`).Scan(&snapshot); err != nil {
			return err
		}
		err := w.db.QueryRow(t.Context(), `explain (analyze, format json) `+session.PollSQL, snapshot, 1.0).Scan(&plan)
		if err != nil {
			return err
		}
		if n := plan[0].Plan.rows(); n > 100 {
			t.Errorf("a reading with nothing new goes through %v rows", n)
		}
		return nil
	})
}

// scanned is what a part of a plan went through.
type scanned struct {
	Relation string    `json:"Relation Name"`
	Loops    float64   `json:"Actual Loops"`
	Rows     float64   `json:"Actual Rows"`
	Filtered float64   `json:"Rows Removed by Filter"`
	Parts    []scanned `json:"Plans"`
}

func (s scanned) rows() float64 {
	n := 0.0
	if s.Relation != "" {
		n = (s.Rows + s.Filtered) * s.Loops
	}
	for _, p := range s.Parts {
		n += p.rows()
	}
	return n
}

// The list of what was revoked is in PostgreSQL: a restart forgets nothing, and ends nobody's session.
func TestPitfall22RestartForgetsNothingAndEndsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m, stop := w.stoppable()
	token, s := w.login(m)
	staying, _ := w.login(m)
	if !valid(m, token) || !valid(m, staying) {
		t.Fatal("not valid")
	}
	planted := w.redis.Do("GET", viewKey(token))
	w.revoke(m, s)
	stop()
	w.redis.FlushAll()
	w.redis.Do("SET", viewKey(token), planted.(string)) // a true view, from before the revocation
	next := w.instance()
	if valid(next, token) {
		t.Error("a revoked session lives again after a restart")
	}
	if !valid(next, staying) {
		t.Error("a session ended with a restart")
	}
	if next.MarkCount() == 0 {
		t.Error("nothing was loaded at the start")
	}
}

// Whoever cannot read revocations refuses, with a retryable answer, and heals by itself.
func TestPitfall38BlindInstancesRefuse(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*proxy, bool){"cut": (*proxy).Cut, "stalled": (*proxy).Stall} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, true)
			db, p := w.behindProxy()
			bound := time.Second
			reg := prometheus.NewRegistry()
			m := w.instance(func(c *session.Config) {
				c.DB, c.FeedDB, c.MaxBlind, c.PollInterval, c.Registerer = db, db, bound, 50*time.Millisecond, reg
				c.Logger = slog.New(slog.DiscardHandler)
			})
			healthy := w.instance()
			token, s := w.login(healthy)
			if !valid(m, token) || !valid(healthy, token) {
				t.Fatal("not valid")
			}
			fault(p, true)
			start := time.Now()
			w.tx(func(tx *postgres.Tx) error {
				_, err := tx.Exec(t.Context(), `update sessions set is_active = false where public_id = $1`, s.ID)
				return err
			})
			var err error
			for err == nil {
				_, err = m.Validate(t.Context(), token, session.ClientHint{})
				if time.Since(start) > 10*time.Second {
					t.Fatal("still answering")
				}
			}
			if errs.KindOf(err) != errs.Unavailable || !errors.Is(err, session.ErrBlind) || errs.RetryAfter(err) == 0 {
				t.Errorf("blind: %v", err)
			}
			t.Logf("refused %v after the cut, bound %v", time.Since(start), bound)
			if _, err = m.ValidateBatch(t.Context(), []string{token}); errs.KindOf(err) != errs.Unavailable {
				t.Errorf("batch: %v", err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err = m.Validate(ctx, session.Format([32]byte{1}), session.ClientHint{}); errs.KindOf(err) != errs.Unavailable {
				t.Errorf("an unknown token: %v", err)
			}
			if _, err = m.Validate(ctx, "sst_garbage", session.ClientHint{}); !errors.Is(err, session.ErrInvalid) {
				t.Errorf("a malformed token: %v", err)
			}
			if n := metrics(t, reg)["rootstream_session_blind_refusals_total"]; n < 1 {
				t.Errorf("%v refusals counted", n)
			}
			fault(p, false)
			eventually(t, 10*time.Second, m.Ready)
			for err = nil; !errors.Is(err, session.ErrInvalid); { // news asked for before the cut may come in first, and count as long as any
				asked := time.Since(start)
				if _, err = m.Validate(t.Context(), token, session.ClientHint{}); (err == nil && asked > bound) || asked > 20*time.Second {
					t.Fatalf("%v after the cut: %v", asked, err)
				}
			}
		})
	}
}

// A clock that is wrong on this machine changes nothing: expiry is judged by the database's, at issue and after.
func TestPitfall37ExpiryIsJudgedByTheDatabasesClock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m := w.instance()
	token, s := w.login(m)
	if !valid(m, token) {
		t.Fatal("not valid")
	}
	var at time.Time
	if err := w.db.QueryRow(t.Context(), `select clock_timestamp()`).Scan(&at); err != nil {
		t.Fatal(err)
	}
	if off := m.Now().Sub(at); off.Abs() > time.Second {
		t.Errorf("this instance takes the database's time to be off by %v", off)
	}
	// The end comes to the microsecond, from a view that is cached until after it.
	w.exec(`update sessions set expires_at = clock_timestamp() + interval '1500 ms' where public_id = $1`, s.ID)
	eventually(t, 5*time.Second, func() bool {
		v, err := m.Validate(t.Context(), token, session.ClientHint{})
		return err == nil && v.ExpiresAt < m.Now().Add(time.Minute).UnixMicro()
	})
	v, _ := m.Validate(t.Context(), token, session.ClientHint{})
	for {
		before := m.Now().UnixMicro()
		ok := valid(m, token)
		after := m.Now().UnixMicro()
		if ok && before >= v.ExpiresAt {
			t.Fatalf("valid %dµs after the end", before-v.ExpiresAt)
		}
		if !ok {
			if after < v.ExpiresAt {
				t.Errorf("refused %dµs before the end", v.ExpiresAt-after)
			}
			break
		}
	}
}

func TestMetricsTellWhatHappens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	reg := prometheus.NewPedanticRegistry()
	m := w.instance(func(c *session.Config) { c.Registerer = reg })
	other := w.instance()
	token, s := w.login(m)
	valid(m, token)
	w.revoke(other, s)
	eventually(t, 5*time.Second, func() bool { return !valid(m, token) })
	values := metrics(t, reg)
	for _, name := range []string{"created_total", "database_loads_total", "near_misses_total"} {
		if values["rootstream_session_"+name] < 1 {
			t.Errorf("%s is %v of %v", name, values["rootstream_session_"+name], values)
		}
	}
	if age := values["rootstream_session_poll_age_seconds"]; age < 0 || age > 5 {
		t.Errorf("poll age %v", age)
	}
	eventually(t, 5*time.Second, func() bool {
		return metrics(t, reg)["rootstream_session_revocation_lag_seconds"] >= 1
	})
	if _, err := session.NewManager(session.Config{DB: w.db, Registerer: reg}); err == nil {
		t.Error("two managers share one registry")
	}
}

// metrics are the values by name; of a histogram, the number of samples.
func metrics(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	t.Helper()
	got, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range got {
		for _, x := range f.GetMetric() {
			values[f.GetName()] = x.GetCounter().GetValue() + x.GetGauge().GetValue() + float64(x.GetHistogram().GetSampleCount())
		}
	}
	return values
}
