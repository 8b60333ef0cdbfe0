package session_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/session"
)

func quiet(c *session.Config) { c.Logger = slog.New(slog.DiscardHandler) }

// A server that was killed or stopped costs answers, never the truth; everything heals without a restart of ours.
func TestSessionsSurviveTheDatabasesDeath(t *testing.T) {
	t.Parallel()
	server := postgrestest.Server(t)
	w := newWorldOn(t, postgres.Config{DSN: server.DSN(), StatementTimeout: 3 * time.Second}, true)
	m := w.instance(quiet, func(c *session.Config) { c.MaxBlind, c.PollInterval = 2*time.Second, 50*time.Millisecond })
	id, _ := w.user()
	kept, _ := w.loginAs(m, session.New{UserID: id})
	ended, s := w.loginAs(m, session.New{UserID: id})
	heard, h := w.loginAs(m, session.New{UserID: id, Class: session.ClassAdmin})
	w.backdate(h, 10*time.Minute)
	if err := m.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	replayed := w.cached(m, ended)
	for name, fault := range map[string]func(){"killed": server.Kill, "paused": server.Pause} {
		if name == "killed" {
			w.tx(func(tx *postgres.Tx) error { // acknowledged right before the end, by a writer that tells nobody
				_, err := tx.Exec(context.Background(), `update sessions set is_active = false where public_id = $1`, s.ID)
				return err
			})
		}
		if !valid(m, heard) {
			t.Fatal("refused before the fault")
		}
		fault()
		err := m.FlushActivity()
		eventually(t, 15*time.Second, func() bool {
			_, err = m.Validate(t.Context(), kept, session.ClientHint{})
			return err != nil
		})
		if errs.KindOf(err) != errs.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
		if _, err = create(w.db, m, session.New{UserID: id}); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("%s: a login: %v", name, err)
		}
		if _, err = m.Refresh(t.Context(), kept); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("%s: a refresh: %v", name, err)
		}
		if name == "killed" {
			server.Restart()
		} else {
			server.Resume()
		}
		eventually(t, 30*time.Second, func() bool { return valid(m, kept) && valid(m, heard) })
	}
	w.redis.Do("SET", viewKey(ended), replayed)
	m.DropNear()
	if valid(m, ended) {
		t.Error("what was ended right before the server's death lives again")
	}
	eventually(t, 10*time.Second, func() bool { return time.Since(w.lastActivity(h)) < 9*time.Minute })
}

// Many who miss the caches share statements, and each gets their own answer.
func TestManyMissesShareStatements(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m := w.instance()
	tokens := million(600)
	w.fillSessions(tokens[:500])
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]bool{}
	for i, token := range tokens {
		wg.Go(func() {
			v, err := m.Validate(context.Background(), token, session.ClientHint{Strong: i%2 == 0})
			if (err == nil) != (i < 500) || err != nil && !errors.Is(err, session.ErrInvalid) {
				t.Errorf("token %d: %v", i, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil && seen[v.SessionID.String()] {
				t.Errorf("token %d got another's session", i)
			}
			seen[v.SessionID.String()] = true
		})
	}
	wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Validate(ctx, tokens[0], session.ClientHint{Strong: true}); err != nil && errs.KindOf(err) != errs.Unavailable {
		t.Errorf("who has given up: %v", err)
	}
}

func TestTheLoopCleansUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.instance(func(c *session.Config) { c.CleanupInterval, c.Keep = 10*time.Millisecond, time.Hour })
	id, _ := w.user()
	w.exec(`insert into sessions (user_id, session_token, created_at, expires_at)
		values ($1, 'old', now() - interval '3 hours', now() - interval '2 hours'), ($1, 'new', now(), now() + interval '1 hour')`, id)
	eventually(t, 10*time.Second, func() bool { return w.int(`select count(*) from sessions`) == 1 })
}

func TestErrorsNameNoToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m := w.instance()
	token, s := w.login(m)
	if _, err := m.Refresh(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	w.age(s.ID, time.Minute)
	_, err := m.Refresh(t.Context(), token)
	var reused *session.ReusedError
	if !errors.As(err, &reused) || strings.Contains(err.Error(), token[4:]) || !strings.Contains(err.Error(), s.ID.String()) {
		t.Errorf("%v", err)
	}
	if errs.CodeOf(err) != "unauthenticated" {
		t.Errorf("code %q tells what happened", errs.CodeOf(err))
	}
}
