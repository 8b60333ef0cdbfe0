package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/session"
)

// Counting and then inserting lets two logins both find room; the user's row is locked between.
func TestPitfall25ParallelLoginsNeverExceedTheLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	for _, rule := range []session.LimitRule{session.EvictOldest, session.Deny} {
		m := w.idle(func(c *session.Config) { c.MaxSessions, c.OnLimit = 3, rule })
		id, _ := w.user()
		stop, most := make(chan struct{}), atomic.Int64{}
		var watch, logins sync.WaitGroup
		watch.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				n, err := m.Count(context.Background(), id)
				if err != nil {
					t.Error(err)
					return
				}
				most.Store(max(most.Load(), int64(n)))
			}
		})
		var made, refused atomic.Int64
		for range 100 {
			logins.Go(func() {
				_, err := create(w.db, m, session.New{UserID: id})
				switch {
				case err == nil:
					made.Add(1)
				case errors.Is(err, session.ErrLimit):
					refused.Add(1)
				default:
					t.Errorf("%s: %v", rule, err)
				}
			})
		}
		logins.Wait()
		close(stop)
		watch.Wait()
		n, err := m.Count(t.Context(), id)
		if err != nil || n != 3 || most.Load() > 3 {
			t.Errorf("%s: %d live at the end, %d at most, %v", rule, n, most.Load(), err)
		}
		wantMade := map[session.LimitRule]int64{session.EvictOldest: 100, session.Deny: 3}[rule]
		if made.Load() != wantMade || refused.Load() != 100-wantMade {
			t.Errorf("%s: %d made, %d refused", rule, made.Load(), refused.Load())
		}
		if got := w.int(`select count(*) from events e join users u on u.public_id = e.user_id
			where u.id = $1 and name = 'session.created'`, id); int64(got) != made.Load() {
			t.Errorf("%s: %d events of %d sessions", rule, got, made.Load())
		}
	}
}

func TestTheOldestSessionMakesRoom(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m := w.instance(func(c *session.Config) { c.MaxSessions = 2 })
	id, _ := w.user()
	first, _ := w.loginAs(m, session.New{UserID: id})
	second, _ := w.loginAs(m, session.New{UserID: id})
	if !valid(m, first) || !valid(m, second) {
		t.Fatal("not valid")
	}
	third, _ := w.loginAs(m, session.New{UserID: id})
	if valid(m, first) || !valid(m, second) || !valid(m, third) {
		t.Error("the wrong session was ended")
	}
	if n := w.int(`select count(*) from events where name = 'session.revoked' and data->>'reason' = 'session_limit'`); n != 1 {
		t.Errorf("%d events of the eviction", n)
	}
	// What has expired takes no room, revoked or idle likewise.
	w.exec(`update sessions set expires_at = created_at + interval '1 microsecond' where token_hash = $1`, sum(second))
	w.loginAs(m, session.New{UserID: id})
	if !valid(m, third) {
		t.Error("a live session made room for which an expired one stood")
	}
}

func TestClassesDecideHowLongSessionsLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m := w.idle()
	const day = 24 * time.Hour
	for _, tt := range []struct {
		class    string
		remember bool
		aal      uint8
		life     time.Duration
		idle     time.Duration
		kept     bool
	}{
		{"", false, 0, day, 0, false},
		{session.ClassUser, true, 1, 90 * day, 14 * day, true},
		{session.ClassCreator, false, 2, 12 * time.Hour, time.Hour, false},
		{session.ClassAdmin, true, 2, 8 * time.Hour, 15 * time.Minute, false},
	} {
		id, public := w.user()
		_, s := w.loginAs(m, session.New{UserID: id, Class: tt.class, Remember: tt.remember, AAL: tt.aal, AMR: []string{"pwd"}})
		read, err := m.ByPublicID(t.Context(), w.db, id, s.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, got := range []session.Session{s, read} {
			if got.ExpiresAt.Sub(got.CreatedAt) != tt.life || got.Remembered != tt.kept || got.UserID != public || !got.Active {
				t.Errorf("%q: %+v", tt.class, got)
			}
			if (got.IdleExpiresAt == nil) != (tt.idle == 0) || tt.idle != 0 && got.IdleExpiresAt.Sub(got.CreatedAt) != tt.idle {
				t.Errorf("%q: idle until %v", tt.class, got.IdleExpiresAt)
			}
			if (got.MFAAt != nil) != (tt.aal == 2) || got.AAL != max(tt.aal, 1) {
				t.Errorf("%q: aal %d, second factor at %v", tt.class, got.AAL, got.MFAAt)
			}
		}
	}
}

func TestCreateRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m := w.idle()
	id, _ := w.user()
	off, _ := w.user()
	w.exec(`update users set is_active = false where id = $1`, off)
	for _, tt := range []struct {
		name string
		in   session.New
		want error
	}{
		{"unknown user", session.New{UserID: 1 << 30}, session.ErrUserInactive},
		{"deactivated user", session.New{UserID: off}, session.ErrUserInactive},
		{"another user's public id", session.New{UserID: id, UserPublicID: uuid.New()}, session.ErrUserInactive},
		{"unknown class", session.New{UserID: id, Class: "king"}, session.ErrNoPolicy},
		{"legacy is no class to choose", session.New{UserID: id, Class: session.ClassLegacy}, session.ErrNoPolicy},
		{"AAL 3", session.New{UserID: id, AAL: 3}, errs.NewInvalid("aal", "")},
	} {
		if _, err := create(w.db, m, tt.in); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if n := w.int(`select count(*) from sessions`) + w.int(`select count(*) from events`); n != 0 {
		t.Errorf("%d rows were written", n)
	}
}

// Serial ids stay inside: sessions are spoken of by public id only, and ids do not run out.
func TestPitfall36SerialIDsStayInside(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m := w.idle()
	w.exec(`select setval(pg_get_serial_sequence('sessions', 'id'), 3000000000)`)
	token, s := w.login(m)
	if s.ID.Version() != 7 {
		t.Errorf("public id %v", s.ID)
	}
	out, err := json.Marshal(session.Created{Session: s})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "300000000") || strings.Contains(string(out), token) {
		t.Errorf("on the outside: %s", out)
	}
	v, err := m.Validate(t.Context(), token, session.ClientHint{Strong: true})
	if err != nil || v.DBSessionID <= 3000000000 {
		t.Errorf("%d %v", v.DBSessionID, err)
	}
	if n := w.int(`select count(*) from events where data::text like '%300000000%'`); n != 0 {
		t.Error("an event carries a serial id")
	}
}

func TestConfigurationFaultsComeAllAtOnce(t *testing.T) {
	t.Parallel()
	_, err := session.NewManager(session.Config{
		OnLimit: "maybe", MaxBlind: time.Millisecond, PollInterval: time.Second, NearTTL: -1,
		Policies: map[string]session.Policy{"x": {Idle: time.Second, Absolute: time.Second}},
	})
	if got := len(errs.FieldsOf(err)); got != 6 {
		t.Errorf("%d faults: %v", got, err)
	}
}

// Nothing a client brings becomes a token: every login makes a new one.
func TestPitfall15TokensAreNewAtLoginAndStepUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m, other := w.instance(), w.instance()
	id, _ := w.user()
	seen := map[string]bool{}
	for range 3 {
		token, s := w.loginAs(m, session.New{UserID: id, AMR: []string{"pwd"}, Device: session.Device{ID: "presented"}})
		if seen[token] {
			t.Fatal("a token came twice")
		}
		seen[token] = true
		if !valid(m, token) || !valid(other, token) {
			t.Fatal("not valid")
		}
		var up session.Created
		w.tx(func(tx *postgres.Tx) (err error) {
			up, err = m.Elevate(context.Background(), tx, s.ID, 2, []string{"otp"})
			return err
		})
		raised := up.Token.Reveal()
		if seen[raised] {
			t.Fatal("a token came twice")
		}
		seen[raised] = true
		if valid(m, token) {
			t.Error("the old token is valid after the step-up")
		}
		eventually(t, 3*time.Second, func() bool { return !valid(other, token) })
		v, err := other.Validate(t.Context(), raised, session.ClientHint{})
		if err != nil || v.AAL != 2 || v.SessionID != s.ID || v.MFAAt == 0 || v.Generation != 1 {
			t.Errorf("after the step-up: %+v %v", v, err)
		}
		if up.Session.AAL != 2 || strings.Join(up.Session.AMR, " ") != "otp pwd" || up.Session.MFAAt == nil {
			t.Errorf("session %+v", up.Session)
		}
	}
}

// A statement whose plan is made anew each time costs more than the session it makes.
func TestStatementsOfANewSessionAreNotPlannedAgain(t *testing.T) {
	t.Parallel()
	w := newWorldOn(t, postgres.Config{DSN: postgrestest.DSN(t), MaxConns: 1}, false)
	m := w.idle()
	// So many accounts and sessions that a plan made for the limit looks good.
	w.exec(`insert into users (username, email, password_hash) select 'many' || n, n || '@many.example', '!' from generate_series(1, 2000) n`)
	w.exec(`insert into sessions (user_id, session_token, token_hash, public_id, class, expires_at, created_at, last_activity, is_active)
		select u.id, 'h1:' || u.id || '-' || n, sha256((u.id || '-' || n)::bytea), gen_random_uuid(), 'user', now() + interval '1 day', now(), now(), true
		from users u, generate_series(1, 20) n where u.username like 'many%'`)
	w.exec(`analyze users, sessions`)
	for range 30 {
		id, _ := w.user()
		if _, err := create(w.db, m, session.New{UserID: id}); err != nil {
			t.Fatal(err)
		}
	}
	const first = 5 // PostgreSQL plans as often before it compares
	planned := w.int(`select count(*) from pg_prepared_statements where generic_plans + custom_plans >= 30`)
	var again string
	err := w.db.QueryRow(t.Context(), `select coalesce(string_agg(statement, ';'), '') from pg_prepared_statements
		where generic_plans + custom_plans >= 30 and custom_plans > $1`, first).Scan(&again)
	if planned < 5 || err != nil || again != "" {
		t.Errorf("of %d statements these are planned again each time, %v: %s", planned, err, again)
	}
}
