package session_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/secret"
	"rootstream/session"
)

func TestParallelRefreshesHaveOneSuccessor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	ms := []*session.Manager{w.instance(), w.instance()}
	token, s := w.login(ms[0])
	var mu sync.Mutex
	got := map[string]int{}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			c, err := ms[i%2].Refresh(context.Background(), token)
			if err != nil {
				t.Errorf("refresh %d: %v", i, err)
				return
			}
			if c.Session.ID != s.ID {
				t.Errorf("session %v", c.Session.ID)
			}
			mu.Lock()
			defer mu.Unlock()
			got[c.Token.Reveal()]++
		})
	}
	wg.Wait()
	if len(got) != 1 {
		t.Fatalf("%d successors", len(got))
	}
	for next := range got {
		if next == token || !valid(ms[0], next) || !valid(ms[1], next) {
			t.Error("the successor is not valid")
		}
	}
	if !valid(ms[0], token) || !valid(ms[1], token) {
		t.Error("the replaced token does not validate in its grace")
	}
	if n := w.int(`select count(*) from events where name = 'session.refreshed'`); n != 1 {
		t.Errorf("%d events of one rotation", n)
	}
	if n := w.int(`select generation from sessions where public_id = $1`, s.ID); n != 1 {
		t.Errorf("generation %d", n)
	}
}

// age makes it look as if the session's tokens had been replaced so much earlier.
func (w *world) age(id uuid.UUID, by time.Duration) {
	w.t.Helper()
	w.exec(`with r as (update session_retired_tokens set retired_at = retired_at - make_interval(secs => $2),
			valid_until = valid_until - make_interval(secs => $2)
			where session_id = (select id from sessions where public_id = $1) returning token_hash, valid_until)
		insert into session_invalidations (token_hash, version, denied_from) select token_hash, 1, valid_until from r`,
		id, by.Seconds())
}

func TestAReplacedTokenUsedLateEndsItsSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m, other := w.instance(), w.instance()
	token, s := w.login(m)
	c, err := m.Refresh(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	next := c.Token.Reveal()
	w.age(s.ID, time.Minute)
	eventually(t, 5*time.Second, func() bool { return !valid(m, token) && !valid(other, token) })
	if !valid(m, next) || !valid(other, next) {
		t.Fatal("looking at a replaced token ended the session")
	}
	_, err = other.Refresh(t.Context(), token)
	var reused *session.ReusedError
	if !errors.As(err, &reused) || !errors.Is(err, session.ErrInvalid) || reused.SessionID != s.ID || reused.DBUserID != s.DBUserID {
		t.Fatalf("refresh of a replaced token: %v", err)
	}
	if valid(other, next) {
		t.Error("the session goes on here")
	}
	eventually(t, 5*time.Second, func() bool { return !valid(m, next) })
	if _, err := m.Refresh(t.Context(), next); !errors.Is(err, session.ErrInvalid) || errors.As(err, &reused) && reused.SessionID != s.ID {
		t.Errorf("refresh of the ended session: %v", err)
	}
	for name, want := range map[string]int{"session.token_reused": 1, "session.revoked": 1} {
		if n := w.int(`select count(*) from events where name = $1`, name); n != want {
			t.Errorf("%d events %s", n, name)
		}
	}
}

func TestRefreshWithinGraceFollowsTheKeyset(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m := w.instance()
	token, s := w.login(m)
	first, err := m.Refresh(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	again, err := m.Refresh(t.Context(), token) // the answer was lost
	if err != nil || again.Token.Reveal() != first.Token.Reveal() {
		t.Fatalf("the second answer differs: %v", err)
	}
	second, err := m.Refresh(t.Context(), first.Token.Reveal())
	if err != nil || second.Token.Reveal() == first.Token.Reveal() {
		t.Fatalf("%v", err)
	}
	if _, err = m.Refresh(t.Context(), token); !errors.Is(err, session.ErrInvalid) {
		t.Errorf("the grandparent: %v", err)
	}
	if !valid(m, second.Token.Reveal()) {
		t.Error("a grandparent within its grace ended the session")
	}
	got, err := session.Successors(w.keys, s.ID, 0, token)
	if err != nil || got[0] != first.Token.Reveal() {
		t.Errorf("the successor is not what any instance computes: %v", err)
	}
	if other, _ := session.Successors(w.keys, s.ID, 1, token); other[0] == got[0] {
		t.Error("the generation does not matter")
	}
}

func TestAStepUpKillsTheOldTokenAndItsForebears(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m, other := w.instance(), w.instance()
	oldest, s := w.login(m)
	c, err := m.Refresh(t.Context(), oldest)
	if err != nil {
		t.Fatal(err)
	}
	old := c.Token.Reveal()
	for _, i := range []*session.Manager{m, other} {
		if !valid(i, oldest) || !valid(i, old) {
			t.Fatal("not valid before")
		}
	}
	var up session.Created
	w.tx(func(tx *postgres.Tx) (err error) {
		up, err = m.Elevate(context.Background(), tx, s.ID, 2, nil)
		return err
	})
	if valid(m, oldest) || valid(m, old) {
		t.Error("old tokens are valid here")
	}
	eventually(t, 5*time.Second, func() bool { return !valid(other, oldest) && !valid(other, old) })
	if !valid(other, up.Token.Reveal()) {
		t.Error("the new token is not valid")
	}
	for _, token := range []string{oldest, old} {
		if _, err := m.Refresh(t.Context(), token); !errors.Is(err, session.ErrInvalid) {
			t.Errorf("refresh of a token a step-up replaced: %v", err)
		}
	}
	if !valid(m, up.Token.Reveal()) {
		t.Error("a request under way during the step-up ended the session")
	}
	var gone error
	_ = w.db.InTx(t.Context(), func(tx *postgres.Tx) error {
		_, gone = m.Elevate(t.Context(), tx, uuid.New(), 2, nil)
		return gone
	})
	if !errors.Is(gone, session.ErrInvalid) {
		t.Errorf("step-up of no session: %v", gone)
	}
}

func TestRefreshNeedsAKeysetAndALiveSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m := w.instance()
	bare := w.instance(func(c *session.Config) { c.Keys = nil })
	token, s := w.login(bare)
	if !valid(bare, token) {
		t.Error("sessions need no keyset to validate")
	}
	if _, err := bare.Refresh(t.Context(), token); !errors.Is(err, secret.ErrKeysetMissing) || errs.KindOf(err) != errs.Unavailable {
		t.Errorf("without a keyset: %v", err)
	}
	if _, err := m.Refresh(t.Context(), "garbage"); !errors.Is(err, session.ErrInvalid) {
		t.Errorf("garbage: %v", err)
	}
	if _, err := m.Refresh(t.Context(), ""); !errors.Is(err, session.ErrInvalid) {
		t.Errorf("nothing: %v", err)
	}
	w.revoke(m, s)
	if _, err := m.Refresh(t.Context(), token); !errors.Is(err, session.ErrInvalid) {
		t.Errorf("revoked: %v", err)
	}
}

func TestLegacyTokensRotateIntoOurs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m := w.instance()
	id, _ := w.user()
	w.exec(`insert into sessions (user_id, session_token, expires_at) values ($1, 'plain', '2199-01-01')`, id)
	eventually(t, 5*time.Second, func() bool { return valid(m, "plain") })
	c, err := m.Refresh(t.Context(), "plain")
	if err != nil || !session.WellFormed(c.Token.Reveal()) || c.Session.Class != session.ClassLegacy || c.Session.ExpiresAt.Year() != 2199 {
		t.Fatalf("%+v %v", c.Session, err)
	}
	if !valid(m, c.Token.Reveal()) || !valid(m, "plain") {
		t.Error("within the grace both are valid")
	}
	if n := w.int(`select count(*) from sessions where session_token = 'plain'`); n != 0 {
		t.Error("the plain token is still there")
	}
}
