package session_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/session"
)

func TestOwnersSeeAndEndTheirOwnSessionsOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m := w.instance()
	ann, annID := w.user()
	bob, _ := w.user()
	var tokens []string
	var all []session.Session
	for range 3 {
		token, s := w.loginAs(m, session.New{UserID: ann})
		tokens, all = append(tokens, token), append(all, s)
	}
	list, err := m.List(t.Context(), ann)
	if err != nil || len(list) != 3 || list[0].ID != all[2].ID || list[2].ID != all[0].ID {
		t.Fatalf("%v %v", list, err)
	}
	ctx := context.Background()
	for name, f := range map[string]func(*postgres.Tx) error{
		"revoke":  func(tx *postgres.Tx) error { return m.Revoke(ctx, tx, bob, all[0].ID, session.Cause{}) },
		"rename":  func(tx *postgres.Tx) error { return m.Rename(ctx, tx, bob, all[0].ID, "mine") },
		"read":    func(tx *postgres.Tx) error { _, e := m.ByPublicID(ctx, tx, bob, all[0].ID); return e },
		"unknown": func(tx *postgres.Tx) error { return m.Revoke(ctx, tx, ann, uuid.New(), session.Cause{}) },
		"nobody":  func(tx *postgres.Tx) error { return m.Revoke(ctx, tx, 0, all[0].ID, session.Cause{}) },
	} {
		if err = w.db.InTx(ctx, f); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("%s of a foreign session: %v", name, err)
		}
	}
	w.tx(func(tx *postgres.Tx) error { return m.Rename(ctx, tx, ann, all[0].ID, "Laptop") })
	if s, e := m.ByPublicID(ctx, w.db, ann, all[0].ID); e != nil || s.Device.Name != "Laptop" {
		t.Errorf("%+v %v", s, e)
	}
	err = w.db.InTx(ctx, func(tx *postgres.Tx) error { return m.Rename(ctx, tx, ann, all[0].ID, strings.Repeat("x", 101)) })
	if errs.KindOf(err) != errs.Invalid {
		t.Errorf("a long name: %v", err)
	}
	var n int
	w.tx(func(tx *postgres.Tx) (err error) {
		n, err = m.RevokeOthers(ctx, tx, ann, all[1].ID, session.Cause{Reason: "user"})
		return err
	})
	if n != 2 || valid(m, tokens[0]) || !valid(m, tokens[1]) || valid(m, tokens[2]) {
		t.Errorf("%d others ended", n)
	}
	operator := uuid.New()
	w.tx(func(tx *postgres.Tx) error {
		return m.Revoke(ctx, tx, session.AnyOwner, all[1].ID, session.Cause{Reason: "admin", Actor: operator})
	})
	if valid(m, tokens[1]) {
		t.Error("an operator could not end it")
	}
	if got := w.int(`select count(*) from events where name = 'session.revoked' and user_id = $1`, annID); got != 3 {
		t.Errorf("%d events", got)
	}
	if got := w.int(`select count(*) from events where name = 'session.revoked' and actor_id = $1`, operator); got != 1 {
		t.Errorf("%d events of the operator", got)
	}
	s, err := m.ByPublicID(ctx, w.db, session.AnyOwner, all[1].ID)
	if err != nil || s.Active || s.RevokedAt == nil || s.RevokedReason != "admin" {
		t.Errorf("%+v %v", s, err)
	}
	if list, err = m.List(ctx, ann); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
}

func TestRevokeAllCatchesALoginUnderWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m := w.instance()
	id, _ := w.user()
	ctx := context.Background()
	created, goOn := make(chan string), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		w.tx(func(tx *postgres.Tx) error {
			c, err := m.Create(ctx, tx, session.New{UserID: id})
			if err == nil {
				created <- c.Token.Reveal()
				<-goOn
			}
			return err
		})
	})
	token := <-created
	ended := make(chan int)
	wg.Go(func() {
		var n int
		w.tx(func(tx *postgres.Tx) (err error) {
			n, err = m.RevokeAll(ctx, tx, id, session.Cause{Reason: "password_changed"})
			return err
		})
		ended <- n
	})
	eventually(t, 10*time.Second, func() bool {
		return w.int(`select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`) > 0
	})
	close(goOn)
	if n := <-ended; n != 1 {
		t.Errorf("%d sessions ended", n)
	}
	wg.Wait()
	if valid(m, token) {
		t.Error("the login slipped through")
	}
	w.tx(func(tx *postgres.Tx) error {
		n, err := m.RevokeAll(ctx, tx, 1<<30, session.Cause{})
		if n != 0 {
			t.Errorf("%d sessions of nobody", n)
		}
		return err
	})
}

// "Issued before T" in whole seconds spares a session of the same second or ends a new one; versions do not.
func TestPitfall23RevocationIsExactWithinASecond(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m, other := w.instance(), w.instance()
	id, _ := w.user()
	for range 5 {
		before, _ := w.loginAs(m, session.New{UserID: id})
		w.tx(func(tx *postgres.Tx) error {
			_, err := m.RevokeAll(context.Background(), tx, id, session.Cause{Reason: "user"})
			return err
		})
		after, _ := w.loginAs(m, session.New{UserID: id})
		if valid(m, before) || !valid(m, after) || !valid(other, after) {
			t.Fatal("the same second decided")
		}
		eventually(t, 3*time.Second, func() bool { return !valid(other, before) })
		if !valid(m, after) || !valid(other, after) {
			t.Fatal("the new session ended with the old ones")
		}
	}
}

// A revocation that waits for a refresh ends the token that the refresh replaces as well, here and at once: its
// statement began before there was a replaced token.
func TestRevocationThatMeetsARefreshEndsTheReplacedToken(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	why := session.Cause{Reason: "test"}
	for name, end := range map[string]func(m *session.Manager, tx *postgres.Tx, s session.Session) error{
		"revoke": func(m *session.Manager, tx *postgres.Tx, s session.Session) error {
			return m.Revoke(ctx, tx, s.DBUserID, s.ID, why)
		},
		"revoke all": func(m *session.Manager, tx *postgres.Tx, s session.Session) error {
			_, err := m.RevokeAll(ctx, tx, s.DBUserID, why)
			return err
		},
		"evict": func(m *session.Manager, tx *postgres.Tx, s session.Session) error {
			_, err := m.Create(ctx, tx, session.New{UserID: s.DBUserID})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, true)
			m := w.instance(func(c *session.Config) {
				c.MaxSessions, c.PollInterval, c.MaxBlind = 1, time.Minute, 2*time.Minute // the feed does not help
			})
			token, s := w.login(m)
			var wg sync.WaitGroup
			w.tx(func(tx *postgres.Tx) error { // its event's shard is held, so the refresh cannot commit
				_, err := tx.Exec(ctx, `select pg_advisory_xact_lock(7205, event_shard($1))`, s.ID)
				wg.Go(func() {
					if _, e := m.Refresh(ctx, token); e != nil {
						t.Error(e)
					}
				})
				w.waiting("advisory")
				if !valid(m, token) { // it is in the caches now
					t.Error("not valid")
				}
				wg.Go(func() {
					if e := w.db.InTx(ctx, func(tx *postgres.Tx) error { return end(m, tx, s) }); e != nil {
						t.Error(e)
					}
				})
				w.waiting("transactionid")
				return err
			})
			wg.Wait()
			if n := w.int(`select count(*) from session_retired_tokens where token_hash = $1`, sum(token)); n != 1 {
				t.Fatal("the refresh came too late")
			}
			if valid(m, token) {
				t.Error("the replaced token lives on")
			}
		})
	}
}

// An account may have far more sessions than the limit: it was imported, or the limit was lowered.
func TestAccountsWithVeryManySessionsCanBeEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	ctx := context.Background()
	crowd := func() (int64, uuid.UUID) {
		id, public := w.user()
		w.exec(`insert into sessions (user_id, session_token, created_at, expires_at)
			select $1::integer, $1 || '-plain-' || n, now() - interval '40 days', now() + make_interval(hours => case when n % 2 = 0 then 1 else -1 end)
			from generate_series(1, 3000) n`, id)
		return id, public
	}
	events := func(public uuid.UUID) int {
		return w.int(`select count(*) from events where name = 'session.revoked' and user_id = $1`, public)
	}
	m := w.instance(func(c *session.Config) { c.MaxSessions = 5 })
	id, public := crowd()
	w.loginAs(m, session.New{UserID: id})
	if n, err := m.Count(ctx, id); err != nil || n != 5 || events(public) != 1496 {
		t.Errorf("after a sign-in %d live, %d events, %v", n, events(public), err)
	}
	id, public = crowd()
	w.tx(func(tx *postgres.Tx) error {
		n, err := m.RevokeAll(ctx, tx, id, session.Cause{Reason: "test"})
		if n != 1500 {
			t.Errorf("%d sessions ended", n)
		}
		return err
	})
	if n := events(public); n != 1500 {
		t.Errorf("%d events", n)
	}
	// Those that had expired are ended too: an old writer may not give them time again.
	w.exec(`update sessions set is_active = true, expires_at = now() + interval '1 hour' where user_id = $1`, id)
	if n, err := m.Count(ctx, id); err != nil || n != 0 {
		t.Errorf("%d live again, %v", n, err)
	}
}
