package session_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"rootstream/postgres"
	"rootstream/session"
)

func (w *world) lastActivity(s session.Session) time.Time {
	w.t.Helper()
	var at time.Time
	err := w.db.QueryRow(context.Background(), `select last_activity from sessions where public_id = $1`, s.ID).Scan(&at)
	if err != nil {
		w.t.Fatal(err)
	}
	return at
}

// backdate makes it look as if nothing had been heard from a session for so long.
func (w *world) backdate(s session.Session, by time.Duration) {
	w.t.Helper()
	w.exec(`update sessions set last_activity = clock_timestamp() - make_interval(secs => $2), version = version + 1
		where public_id = $1`, s.ID, by.Seconds())
}

// Activity is written once in a while and in batches, changes no index and makes no cache forget.
func TestPitfall24ActivityIsCoalesced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m, other := w.instance(), w.instance()
	id, _ := w.user()
	token, s := w.loginAs(m, session.New{UserID: id, Class: session.ClassAdmin})
	w.backdate(s, 10*time.Minute)
	start := w.lastActivity(s)
	eventually(t, 5*time.Second, func() bool { return valid(m, token) && w.lastActivity(s).After(start.Add(9*time.Minute)) })
	first := w.lastActivity(s)
	w.exec(`create table writes (n int)`)
	w.exec(`create function count_writes() returns trigger language plpgsql as 'begin insert into writes values (1); return null; end'`)
	w.exec(`create trigger count_writes after update on sessions for each row execute function count_writes()`)
	version := w.int(`select version from sessions where public_id = $1`, s.ID)
	for range 2000 {
		if !valid(m, token) || !valid(other, token) {
			t.Fatal("refused")
		}
	}
	for _, i := range []*session.Manager{m, other} {
		if err := i.FlushActivity(); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.int(`select count(*) from writes`); n > 1 {
		t.Errorf("%d writes for 4000 validations", n)
	}
	if got := w.lastActivity(s); got.Sub(first) > time.Minute {
		t.Errorf("activity moved by %v", got.Sub(first))
	}
	if n := w.int(`select version from sessions where public_id = $1`, s.ID); n != version {
		t.Error("activity is a change of version")
	}
	if n := w.int(`select count(*) from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
		where i.indrelid = 'sessions'::regclass and a.attname = 'last_activity'`); n != 0 {
		t.Error("last_activity is in an index")
	}
}

func TestActivityIsDrainedAtTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m, stop := w.stoppable(func(c *session.Config) { c.FlushInterval = time.Hour })
	id, _ := w.user()
	var all []session.Session
	for range 5 {
		token, s := w.loginAs(m, session.New{UserID: id, Class: session.ClassCreator})
		w.backdate(s, 20*time.Minute)
		if err := m.Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !valid(m, token) {
			t.Fatal("refused")
		}
		all = append(all, s)
	}
	stop()
	for _, s := range all {
		if since := time.Since(w.lastActivity(s)); since > 10*time.Minute {
			t.Errorf("last heard of %v ago", since)
		}
	}
}

func TestIdleSessionsEndAndActiveOnesDoNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m := w.instance()
	id, _ := w.user()
	admin := session.New{UserID: id, Class: session.ClassAdmin} // 15 minutes and one of grace
	other, _ := w.user()
	user := session.New{UserID: other, Remember: true} // 14 days, a twentieth of which may go unrecorded
	const days = 24 * time.Hour
	for _, tt := range []struct {
		in   session.New
		idle time.Duration
		want bool
	}{
		{admin, 14 * time.Minute, true},
		{admin, 15*time.Minute + 50*time.Second, true},
		{admin, 16*time.Minute + 10*time.Second, false},
		{user, 14*days + time.Minute, true},
		{user, 14*days + 16*time.Hour, true},
		{user, 14*days + 17*time.Hour, false},
	} {
		token, s := w.loginAs(m, tt.in)
		valid(m, token)
		w.backdate(s, tt.idle)
		if err := m.Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.DropNear()
		strongly := strong(m, token)
		_, err := m.Validate(t.Context(), token, session.ClientHint{})
		for _, got := range []error{err, strongly} {
			if (got == nil) != tt.want || got != nil && !errors.Is(got, session.ErrInvalid) {
				t.Errorf("after %v: %v", tt.idle, got)
			}
		}
		if tt.want {
			continue
		}
		if _, err = m.Refresh(t.Context(), token); !errors.Is(err, session.ErrInvalid) {
			t.Errorf("an idle session was refreshed: %v", err)
		}
		list, err := m.List(t.Context(), tt.in.UserID)
		if err != nil || len(list) != 2 {
			t.Errorf("%v %v", list, err)
		}
	}
}

// Activity is not lost because somebody changes the session in that moment.
func TestActivityOfABusySessionIsWrittenLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m := w.idle()
	if err := m.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	token, s := w.login(m)
	w.backdate(s, 5*time.Hour)
	if !valid(m, token) {
		t.Fatal("refused")
	}
	before := w.lastActivity(s)
	w.tx(func(tx *postgres.Tx) error {
		if _, err := tx.Exec(t.Context(), `update sessions set device_name = 'mine' where public_id = $1`, s.ID); err != nil {
			return err
		}
		return m.FlushActivity()
	})
	if !w.lastActivity(s).Equal(before) {
		t.Error("the row was not busy")
	}
	if err := m.FlushActivity(); err != nil || w.lastActivity(s).Equal(before) {
		t.Errorf("not written afterwards, %v", err)
	}
}

// A cached view may say that a session has been idle for too long although another instance heard from it.
func TestIdlenessIsConfirmedBeforeItRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m := w.instance()
	id, _ := w.user()
	token, s := w.loginAs(m, session.New{UserID: id, Class: session.ClassAdmin})
	w.backdate(s, 15*time.Minute+59500*time.Millisecond)
	if err := m.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.exec(`create function keep() returns trigger language plpgsql as 'begin new.last_activity := old.last_activity; return new; end'`)
	w.exec(`create trigger keep before update of last_activity on sessions for each row execute function keep()`)
	valid(m, token) // now the near cache and Redis hold a view that ends in half a second; what it wrote down is lost
	w.exec(`drop trigger keep on sessions`)
	w.exec(`update sessions set last_activity = clock_timestamp() where public_id = $1`, s.ID) // heard of elsewhere
	end := time.Now().Add(2 * time.Second)
	for time.Now().Before(end) {
		if !valid(m, token) {
			t.Fatal("refused on the word of a cache")
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestBatchesAnswerInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m, other := w.instance(), w.instance()
	id, _ := w.user()
	var tokens []string
	var sessions []session.Session
	for range 10 {
		token, s := w.loginAs(m, session.New{UserID: id})
		tokens, sessions = append(tokens, token), append(sessions, s)
	}
	w.revoke(m, sessions[3])
	c, err := m.Refresh(t.Context(), tokens[5])
	if err != nil {
		t.Fatal(err)
	}
	w.cached(other, tokens[0])
	batch := append([]string{"", "garbage", "sst_x", session.Format([32]byte{1})}, tokens...)
	batch = append(batch, c.Token.Reveal(), tokens[0], tokens[3])
	valid(m, tokens[1])
	for round := range 3 { // from PostgreSQL, from Redis, from the process
		if round == 1 {
			m.DropNear()
		}
		for who, i := range map[string]*session.Manager{"one": m, "other": other} {
			var got []session.Result
			eventually(t, 5*time.Second, func() bool {
				got, err = i.ValidateBatch(t.Context(), batch)
				return err == nil && len(got) == len(batch) && !got[7].Valid // the revocation is heard of
			})
			for n, r := range got {
				want := n >= 4 && batch[n] != tokens[3]
				if r.Valid != want {
					t.Errorf("round %d, %s: token %d valid %t", round, who, n, r.Valid)
				}
				if at := (n - 4) % 10; r.Valid && n < 14 && r.View.SessionID != sessions[at].ID {
					t.Errorf("round %d, %s: token %d has another's session", round, who, n)
				}
			}
		}
	}
	before := m.DBLoads()
	for range 10 {
		if _, err := m.ValidateBatch(t.Context(), batch[4:]); err != nil {
			t.Fatal(err)
		}
	}
	if n := m.DBLoads() - before; n > 10 {
		t.Errorf("%d readings for batches that are known", n)
	}
	if got, err := m.ValidateBatch(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("%v %v", got, err)
	}
	if _, err := m.ValidateBatch(t.Context(), make([]string, session.MaxBatch+1)); err == nil {
		t.Error("a batch too large was taken")
	}
}

func TestBatchesReadPostgreSQLOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m := w.instance()
	id, _ := w.user()
	w.exec(`insert into sessions (user_id, session_token, expires_at)
		select $1, 'plain' || n, now() + interval '1 hour' from generate_series(1, 1000) n`, id)
	if err := m.FindLegacy(); err != nil {
		t.Fatal(err)
	}
	tokens := make([]string, 1000)
	for n := range tokens {
		tokens[n] = fmt.Sprintf("plain%d", n+1)
	}
	before := m.DBLoads()
	for range 2 {
		got, err := m.ValidateBatch(t.Context(), tokens)
		if err != nil {
			t.Fatal(err)
		}
		for n, r := range got {
			if !r.Valid {
				t.Fatalf("token %d is refused", n)
			}
		}
		if n := m.DBLoads() - before; n != 1 {
			t.Errorf("%d readings", n)
		}
		m.DropNear() // the second time from Redis
	}
}

func TestCleanupKeepsWhatIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m := w.instance()
	id, _ := w.user()
	w.exec(`insert into sessions (user_id, session_token, created_at, expires_at)
		select $1, 'expired long ago ' || n, now() - interval '60 days', now() - interval '31 days' from generate_series(1, 1100) n`, id)
	w.exec(`insert into sessions (user_id, session_token, created_at, expires_at)
		values ($1, 'expired lately', now() - interval '60 days', now() - interval '29 days'),
			($1, 'live', now(), now() + interval '1 day'), ($1, 'revoked lately', now(), now() + interval '90 days'),
			($1, 'revoked long ago', now() - interval '60 days', now() + interval '30 days')`, id)
	w.exec(`update sessions set is_active = false, revoked_at = now() - interval '31 days' where session_token = 'revoked long ago'`)
	w.exec(`update sessions set is_active = false where session_token = 'revoked lately'`)
	w.exec(`insert into session_retired_tokens select sha256('a'), id, 0, now() - interval '31 days', now() - interval '31 days'
		from sessions where session_token = 'live'`)
	w.exec(`insert into session_retired_tokens select sha256('b'), id, 1, now(), now() from sessions where session_token = 'live'`)
	w.exec(`update session_invalidations set at = now() - interval '2 hours' where id = (select min(id) from session_invalidations)`)
	invalidations := w.int(`select count(*) from session_invalidations`)
	var wg sync.WaitGroup
	var mu sync.Mutex
	total := 0
	for range 3 { // all instances at once
		wg.Go(func() {
			n, err := m.Cleanup(context.Background())
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			total += n
		})
	}
	wg.Wait()
	n, err := m.Cleanup(t.Context())
	if err != nil || total+n != 1101 {
		t.Errorf("%d sessions deleted, %v", total+n, err)
	}
	if n := w.int(`select count(*) from sessions`); n != 3 {
		t.Errorf("%d sessions are left", n)
	}
	if n := w.int(`select count(*) from session_retired_tokens`); n != 1 {
		t.Errorf("%d replaced tokens are left", n)
	}
	if n := w.int(`select count(*) from session_invalidations`); n != invalidations-1 {
		t.Errorf("%d of %d invalidations are left", n, invalidations)
	}
	eventually(t, 5*time.Second, func() bool { return valid(m, "live") })
}
