package user_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/user"
)

func TestProfileChangesOnlyWhatIsNamed(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	u := mustCreate(t, s, db, "ada")
	update := func(p user.Profile) (user.User, error) {
		var got user.User
		err := db.InTx(t.Context(), func(tx *postgres.Tx) (err error) {
			got, err = s.UpdateProfile(t.Context(), tx, u.PublicID, p, u.PublicID)
			return err
		})
		return got, err
	}
	name, avatar, empty, bad := "Ada", "https://example.org/a.png", "", "\u202e"
	got, err := update(user.Profile{DisplayName: &name})
	if err != nil || got.DisplayName != name || got.AvatarURL != "" {
		t.Errorf("set name: %+v, %v", got, err)
	}
	got, err = update(user.Profile{DisplayName: &name, AvatarURL: &avatar})
	if err != nil || got.DisplayName != name || got.AvatarURL != avatar || got.UpdatedAt.Before(u.UpdatedAt) {
		t.Errorf("set avatar: %+v, %v", got, err)
	}
	if got, err = update(user.Profile{}); err != nil || got.DisplayName != name {
		t.Errorf("set nothing: %+v, %v", got, err)
	}
	if got, err = update(user.Profile{DisplayName: &empty, AvatarURL: &empty}); err != nil || got.DisplayName != "" || got.AvatarURL != "" {
		t.Errorf("clear: %+v, %v", got, err)
	}
	if _, err = update(user.Profile{DisplayName: &bad, AvatarURL: &bad}); len(errs.FieldsOf(err)) != 2 {
		t.Errorf("bad: %v", err)
	}
	want := []string{
		`user.created {"role": "user", "active": true, "verified": false}`,
		`user.updated {"fields": ["display_name"], "user_id": "its own"}`, `user.updated {"fields": ["avatar_url"], "user_id": "its own"}`, `user.updated {"fields": ["display_name", "avatar_url"], "user_id": "its own"}`,
	}
	if diff := cmp.Diff(want, told(t, db, u.PublicID)); diff != "" {
		t.Errorf("events -want +got:\n%s", diff)
	}
}

func TestChangesOfStandingAreToldOnceAndOnlyWhenTheyChangeSomething(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	u := mustCreate(t, s, db, "ada")
	admin := mustCreate(t, s, db, "root").PublicID
	for range 2 {
		inTx(t, db, func(tx *postgres.Tx) error {
			_, err := s.MarkVerified(t.Context(), tx, u.PublicID, uuid.Nil)
			return err
		})
		inTx(t, db, func(tx *postgres.Tx) error {
			_, err := s.SetRole(t.Context(), tx, u.PublicID, user.RoleAdmin, admin)
			return err
		})
		inTx(t, db, func(tx *postgres.Tx) error {
			_, err := s.SetActive(t.Context(), tx, u.PublicID, false, admin)
			return err
		})
	}
	got, err := s.ByID(t.Context(), u.ID)
	if err != nil || !got.IsVerified || got.Role != user.RoleAdmin || got.IsActive {
		t.Errorf("%+v, %v", got, err)
	}
	inTx(t, db, func(tx *postgres.Tx) error {
		_, failed := s.SetActive(t.Context(), tx, u.PublicID, true, admin)
		return failed
	})
	want := []string{
		`user.created {"role": "user", "active": true, "verified": false}`, `user.verified {}`,
		`user.role_changed {"to": "admin", "from": "user"} by ` + admin.String(), `user.disabled {} by ` + admin.String(),
		`user.enabled {} by ` + admin.String(),
	}
	if diff := cmp.Diff(want, told(t, db, u.PublicID)); diff != "" {
		t.Errorf("events -want +got:\n%s", diff)
	}
	err = db.InTx(t.Context(), func(tx *postgres.Tx) error {
		_, failed := s.SetRole(t.Context(), tx, u.PublicID, "king", admin)
		return failed
	})
	if errs.KindOf(err) != errs.Invalid {
		t.Errorf("SetRole(king) = %v", err)
	}
}

func TestDisablingAnAccountEndsItsSessionsInTheSameTransaction(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	u := mustCreate(t, s, db, "ada")
	if _, err := db.Exec(t.Context(), `insert into sessions (user_id, session_token, expires_at)
		values ($1, 'a', now() + '1 hour'), ($1, 'b', now() + '1 hour')`, u.ID); err != nil {
		t.Fatal(err)
	}
	inTx(t, db, func(tx *postgres.Tx) error {
		_, err := s.SetActive(t.Context(), tx, u.PublicID, false, uuid.Nil)
		return err
	})
	if n := count(t, db, "select count(*) from sessions where is_active or revoked_at is null"); n != 0 {
		t.Errorf("%d sessions live on", n)
	}
	if n := count(t, db, "select count(distinct token_hash) from session_invalidations where denied_from is not null"); n != 2 {
		t.Errorf("%d sessions announced as ended, want 2", n)
	}
}

func TestANewAddressIsUnverifiedAndEndsEveryMailedLink(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	u := mustCreate(t, s, db, "ada")
	mustCreate(t, s, db, "bob")
	inTx(t, db, func(tx *postgres.Tx) error {
		_, err := s.MarkVerified(t.Context(), tx, u.PublicID, uuid.Nil)
		return err
	})
	token := issue(t, s, db, user.TokenRequest{Purpose: user.VerifyEmail, UserID: u.PublicID, TTL: time.Hour})
	set := func(email string) (got user.User, err error) {
		err = db.InTx(t.Context(), func(tx *postgres.Tx) (err error) {
			got, err = s.SetEmail(t.Context(), tx, u.PublicID, email, uuid.Nil)
			return err
		})
		return got, err
	}
	if got, err := set("ada@EXAMPLE.org"); err != nil || !got.IsVerified {
		t.Errorf("the same address: %+v, %v", got, err)
	}
	if _, err := set("BOB@example.org"); !errors.Is(err, user.ErrEmailTaken) {
		t.Errorf("somebody's address: %v", err)
	}
	if _, err := set("nonsense"); errs.KindOf(err) != errs.Invalid {
		t.Errorf("no address: %v", err)
	}
	got, err := set("countess@Example.org")
	if err != nil || got.IsVerified || got.Email != "countess@example.org" {
		t.Errorf("another address: %+v, %v", got, err)
	}
	if _, err := consume(t, s, db, user.VerifyEmail, token.Reveal()); !errors.Is(err, user.ErrTokenGone) {
		t.Errorf("a link mailed to the old address: %v", err)
	}
	events := told(t, db, u.PublicID)
	if last := events[len(events)-1]; last != `user.updated {"fields": ["email"], "user_id": "its own"}` {
		t.Errorf("last event: %s", last)
	}
}

func TestANewPasswordIsToldAndEndsEveryMailedLink(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	u := mustCreate(t, s, db, "ada")
	token := issue(t, s, db, user.TokenRequest{Purpose: user.Recover, UserID: u.PublicID, TTL: time.Hour})
	other := strings.Replace(phc, "t=1", "t=2", 1)
	inTx(t, db, func(tx *postgres.Tx) error { return s.SetPassword(t.Context(), tx, u.PublicID, other, uuid.Nil) })
	if hash, err := s.PasswordHash(t.Context(), u.PublicID); err != nil || hash.Reveal() != other {
		t.Errorf("stored %q, %v", hash.Reveal(), err)
	}
	if _, err := consume(t, s, db, user.Recover, token.Reveal()); !errors.Is(err, user.ErrTokenGone) {
		t.Errorf("a link from before: %v", err)
	}
	if events := told(t, db, u.PublicID); events[len(events)-1] != "user.password_changed {}" {
		t.Errorf("events: %v", events)
	}
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error { return s.SetPassword(t.Context(), tx, u.PublicID, "plain", uuid.Nil) })
	if !errors.Is(err, user.ErrHashFormat) {
		t.Errorf("SetPassword(plain) = %v", err)
	}
}

func TestARehashNeverUndoesAChangeOfPassword(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	u := mustCreate(t, s, db, "ada")
	changed, rehashed := strings.Replace(phc, "t=1", "t=2", 1), strings.Replace(phc, "t=1", "t=3", 1)
	replace := func(old string) (done bool) {
		inTx(t, db, func(tx *postgres.Tx) (err error) {
			done, err = s.ReplaceHash(t.Context(), tx, u.PublicID, old, rehashed)
			return err
		})
		return done
	}
	inTx(t, db, func(tx *postgres.Tx) error { return s.SetPassword(t.Context(), tx, u.PublicID, changed, uuid.Nil) })
	if replace(phc) {
		t.Error("the hash of the old password came back")
	}
	if !replace(changed) {
		t.Error("the current hash was not replaced")
	}
	if hash, _ := s.PasswordHash(t.Context(), u.PublicID); hash.Reveal() != rehashed {
		t.Errorf("stored %q", hash.Reveal())
	}
}

func TestASignInIsRecordedWithoutItsAddressInTheEvent(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	u := mustCreate(t, s, db, "ada")
	session := uuid.New()
	touch := func(l user.Login) {
		inTx(t, db, func(tx *postgres.Tx) error { return s.TouchLogin(t.Context(), tx, u.PublicID, l) })
	}
	touch(user.Login{IP: netip.MustParseAddr("::ffff:192.0.2.7"), SessionID: session, Methods: []string{"pwd", "otp"}})
	touch(user.Login{})
	e, err := s.Export(t.Context(), u.PublicID)
	if err != nil || e.LastLoginAt == nil || e.LastLoginIP == nil || e.LastLoginIP.String() != "192.0.2.7" {
		t.Errorf("%+v, %v", e, err)
	}
	want := []string{
		fmt.Sprintf(`user.login_succeeded {"methods": ["pwd", "otp"], "session_id": "%s"}`, session), `user.login_succeeded {}`,
	}
	if diff := cmp.Diff(want, told(t, db, u.PublicID)[1:]); diff != "" {
		t.Errorf("events -want +got:\n%s", diff)
	}
}

func TestDeletingAnAccountLeavesItsEventsAndNothingPersonal(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	u := mustCreate(t, s, db, "lovelace")
	issue(t, s, db, user.TokenRequest{Purpose: user.Recover, UserID: u.PublicID, TTL: time.Hour})
	inTx(t, db, func(tx *postgres.Tx) error { return s.Delete(t.Context(), tx, u.PublicID, uuid.Nil) })
	if _, err := s.ByID(t.Context(), u.ID); !errors.Is(err, user.ErrNotFound) {
		t.Errorf("ByID = %v", err)
	}
	events := told(t, db, u.PublicID)
	if events[len(events)-1] != "user.deleted {}" || strings.Contains(strings.Join(events, " "), "lovelace") {
		t.Errorf("events: %v", events)
	}
	if n := count(t, db, "select count(*) from user_tokens"); n != 0 {
		t.Errorf("%d tokens left", n)
	}
	mustCreate(t, s, db, "LOVELACE")
}

func TestWhoIsNotThereCannotBeChanged(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	name, id := "x", uuid.New()
	for what, do := range map[string]func(tx *postgres.Tx) error{
		"UpdateProfile": func(tx *postgres.Tx) error {
			_, err := s.UpdateProfile(t.Context(), tx, id, user.Profile{DisplayName: &name}, id)
			return err
		},
		"SetEmail": func(tx *postgres.Tx) error {
			_, err := s.SetEmail(t.Context(), tx, id, "x@example.org", id)
			return err
		},
		"MarkVerified": func(tx *postgres.Tx) error { _, err := s.MarkVerified(t.Context(), tx, id, id); return err },
		"SetRole":      func(tx *postgres.Tx) error { _, err := s.SetRole(t.Context(), tx, id, user.RoleAdmin, id); return err },
		"SetActive":    func(tx *postgres.Tx) error { _, err := s.SetActive(t.Context(), tx, id, true, id); return err },
		"SetPassword":  func(tx *postgres.Tx) error { return s.SetPassword(t.Context(), tx, id, phc, id) },
		"TouchLogin":   func(tx *postgres.Tx) error { return s.TouchLogin(t.Context(), tx, id, user.Login{}) },
		"Delete":       func(tx *postgres.Tx) error { return s.Delete(t.Context(), tx, id, id) },
		"IssueToken": func(tx *postgres.Tx) error {
			_, err := s.IssueToken(t.Context(), tx, user.TokenRequest{Purpose: user.Recover, UserID: id, TTL: time.Hour})
			return err
		},
		"Export": func(*postgres.Tx) error { _, err := s.Export(t.Context(), id); return err },
	} {
		if err := db.InTx(t.Context(), do); !errors.Is(err, user.ErrNotFound) {
			t.Errorf("%s = %v", what, err)
		}
	}
}
