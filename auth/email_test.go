package auth_test

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"rootstream/auth"
	"rootstream/errs"
	"rootstream/notify"
	"rootstream/postgres"
	"rootstream/session"
	"rootstream/user"
)

// verified is an account whose address is known to be its owner's, and a session of it.
func (w *world) verified(name string) (user.User, auth.Grant) {
	w.t.Helper()
	u := w.register(name)
	w.exec(`update users set is_verified = true where public_id = $1`, u.PublicID)
	return u, w.login(name)
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.db.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

// legacy does what a program of Phase 24.2 does, in its own connection.
func (w *world) legacy(sql string, args ...any) {
	w.t.Helper()
	err := w.db.InTx(w.t.Context(), func(tx *postgres.Tx) error {
		_, err := tx.Exec(w.t.Context(), `select set_config('rootstream.writer', '', true)`)
		if err == nil {
			_, err = tx.Exec(w.t.Context(), sql, args...)
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) ask(g auth.Grant, email string) {
	w.t.Helper()
	if err := w.ChangeEmail(w.t.Context(), w.principal(g), email, from(1)); err != nil {
		w.t.Fatalf("ask for %s: %v", email, err)
	}
}

// move goes the whole way and returns the token that undoes it.
func (w *world) move(g auth.Grant, email string) (undo string) {
	w.t.Helper()
	w.ask(g, email)
	if err := w.ConfirmEmail(w.t.Context(), w.mailed(notify.TopicEmailConfirm), from(1)); err != nil {
		w.t.Fatal(err)
	}
	return w.mailed(notify.TopicEmailChanged)
}

func (w *world) address(id uuid.UUID, want string) {
	w.t.Helper()
	u, err := w.users.ByPublicID(w.t.Context(), id)
	if err != nil || u.Email != want || !u.IsVerified {
		w.t.Errorf("the address is %s, verified %v, %v; want %s, verified", u.Email, u.IsVerified, err, want)
	}
}

func TestANewAddressCountsOnceItIsConfirmed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u, g := w.verified("ada")
	if err := w.RequestRecovery(t.Context(), "ada", from(1)); err != nil {
		t.Fatal(err)
	}
	old := w.mailed(auth.TopicRecovery)
	w.ask(g, "ada@Example.NET")
	w.address(u.PublicID, "ada@example.org")
	if to, _ := w.letter(notify.TopicEmailAsked); to != "ada@example.org" {
		t.Errorf("the request is told to %s", to)
	}
	if to, text := w.letter(notify.TopicEmailConfirm); to != "ada@example.net" || !strings.Contains(text, "https://example.org/email/confirm#token=sut_") || !strings.Contains(text, "24 hours") {
		t.Errorf("mail to %s:\n%s", to, text)
	}
	token := w.mailed(notify.TopicEmailConfirm)
	if err := w.ConfirmEmail(t.Context(), token, from(2)); err != nil {
		t.Fatal(err)
	}
	w.address(u.PublicID, "ada@example.net")
	wantCode(t, w.ConfirmEmail(t.Context(), token, from(2)), errs.Gone, "token_gone")
	wantCode(t, w.UndoEmail(t.Context(), token, from(2)), errs.Gone, "token_gone")
	wantCode(t, w.ConfirmRecovery(t.Context(), old, "an entirely new password", from(2)), errs.Gone, "token_gone")
	if to, text := w.letter(notify.TopicEmailChanged); to != "ada@example.org" || !strings.Contains(text, "https://example.org/email/undo#token=sut_") || !strings.Contains(text, "3 days") {
		t.Errorf("mail to %s:\n%s", to, text)
	}
	w.principal(g) // sessions go on
	if trail := w.audit(u.PublicID); !slices.Contains(trail, "user.email_change_requested") || !slices.Contains(trail, "user.email_changed") {
		t.Errorf("audit trail %v", trail)
	}
}

func TestTheOldAddressCanUndoItsChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u, g := w.verified("ada")
	undo := w.move(g, "eve@example.net")
	p := w.principal(g) // whoever did it also changes the password, which ends all other links
	next, err := w.ChangePassword(t.Context(), p, password, "a password of the thief's", from(1))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.UndoEmail(t.Context(), undo, from(2)); err != nil {
		t.Fatal(err)
	}
	w.address(u.PublicID, "ada@example.org")
	w.refused(next)
	wantCode(t, w.UndoEmail(t.Context(), undo, from(2)), errs.Gone, "token_gone")
	for _, known := range []string{password, "a password of the thief's", "!", ""} {
		_, err := w.Login(t.Context(), auth.Credentials{Login: "ada", Password: known}, from(3))
		wantCode(t, err, errs.Unauthenticated, "invalid_credentials")
	}
	if to, _ := w.letter(auth.TopicRecovery); to != "ada@example.org" {
		t.Errorf("the link to set a password goes to %s", to)
	}
	if err := w.ConfirmRecovery(t.Context(), w.mailed(auth.TopicRecovery), password, from(2)); err != nil {
		t.Fatal(err)
	}
	w.login("ada")
	if n := w.heard(u.PublicID, "user.email_change_undone"); n != 1 {
		t.Errorf("%d events of it", n)
	}
	w.ask(w.login("ada"), "ada@example.net") // and the next change is not held up
}

func TestAnAccountIsNotDeletedUnderAnUndo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u, g := w.verified("ada")
	undo := w.move(g, "eve@example.net")
	p := w.principal(g)
	err := w.DeleteAccount(t.Context(), p, from(1))
	wantCode(t, err, errs.Conflict, "email_settling")
	if hint := errs.Of(err).Hint; !strings.Contains(hint, time.Now().UTC().AddDate(0, 0, 3).Format("2006-01")) {
		t.Errorf("it does not say until when: %s", hint)
	}
	w.exec(`update users set role = 'admin' where public_id = $1`, u.PublicID)
	boss := w.register("boss")
	w.exec(`update users set role = 'admin' where public_id = $1`, boss.PublicID)
	wantCode(t, w.DeleteUser(t.Context(), w.principal(g).Actor(), u.PublicID), errs.Conflict, "email_settling")
	w.exec(`update users set role = 'user' where public_id = $1`, u.PublicID)
	if err = w.UndoEmail(t.Context(), undo, from(2)); err != nil {
		t.Fatal(err)
	}
	w.address(u.PublicID, "ada@example.org")

	second, g2 := w.verified("bob")
	w.move(g2, "bob@example.net")
	if err = w.DeleteUser(t.Context(), auth.Console(), second.PublicID); err != nil {
		t.Errorf("an administrator: %v", err)
	}
	_, g3 := w.verified("carol")
	w.move(g3, "carol@example.net")
	w.exec(`update email_changes set ends_at = clock_timestamp()`)
	if err = w.DeleteAccount(t.Context(), w.principal(g3), from(1)); err != nil {
		t.Errorf("once the time to undo is over: %v", err)
	}
}

func TestALinkVouchesForTheAddressItWasMailedToAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	if err := w.RequestRecovery(t.Context(), "ada", from(1)); err != nil {
		t.Fatal(err)
	}
	verify, recover := w.mailed(notify.TopicVerifyEmail), w.mailed(auth.TopicRecovery)
	w.legacy(`update users set email = 'bob@example.net' where id = $1`, u.ID)
	wantCode(t, w.VerifyEmail(t.Context(), verify, from(1)), errs.Gone, "token_gone")
	wantCode(t, w.ConfirmRecovery(t.Context(), recover, another, from(1)), errs.Gone, "token_gone")
	if now, err := w.users.ByPublicID(t.Context(), u.PublicID); err != nil || now.IsVerified {
		t.Errorf("%s counts as verified: %v", now.Email, err)
	}
}

// The undo proves the old mailbox alone, which may be what the owner moved away from.
func TestAnUndoGetsNobodyPastASecondFactor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, g := w.verified("ada")
	w.move(g, "ada@example.net")
	if _, text := w.letter(notify.TopicEmailChanged); !strings.Contains(text, "second factor stays") {
		t.Errorf("the mail does not say so:\n%s", text)
	}
	f := w.enroll(g)
	if err := w.UndoEmail(t.Context(), w.mailed(notify.TopicEmailChanged), from(2)); err != nil {
		t.Fatal(err)
	}
	if err := w.ConfirmRecovery(t.Context(), w.mailed(auth.TopicRecovery), password, from(2)); err != nil {
		t.Fatal(err)
	}
	w.signIn("ada", f) // with the password alone there is a challenge and no session
}

func TestAnAddressChangesOnlyAfterAFreshProof(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, g := w.verified("ada")
	w.clock.Advance(16 * time.Minute)
	wantCode(t, w.ChangeEmail(t.Context(), w.principal(g), "ada@example.net", from(1)), errs.Forbidden, "aal_required")

	w.clock.Advance(-16 * time.Minute)
	f := w.enroll(g)
	wantCode(t, w.ChangeEmail(t.Context(), w.principal(g), "ada@example.net", from(1)), errs.Forbidden, "aal_required")
	w.ask(w.signIn("ada", f), "ada@example.net")
}

func TestATakenAddressIsNotToldFromAFreeOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u, g := w.verified("ada")
	owner := w.register("bob")
	w.ask(g, "BOB@example.org")
	if w.mails(notify.TopicEmailAttempt, owner.PublicID) != 1 || w.mails(notify.TopicEmailConfirm, u.PublicID) != 0 {
		t.Error("the owner of a taken address gets a mail, and nobody a token")
	}
	w.ask(g, "carol@example.org")
	token := w.mailed(notify.TopicEmailConfirm)
	w.register("carol") // faster
	wantCode(t, w.ConfirmEmail(t.Context(), token, from(1)), errs.Conflict, "email_taken")
	w.address(u.PublicID, "ada@example.org")
	for field, email := range map[string]string{"nonsense": "nonsense", "its own": "ada@example.org"} {
		if err := w.ChangeEmail(t.Context(), w.principal(g), email, from(1)); len(errs.FieldsOf(err)) != 1 {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestAnAddressIsItsOldOwnersForAsLongAsItsChangeCanBeUndone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u, g := w.verified("ada")
	undo := w.move(g, "eve@example.net")
	fake, err := w.Register(t.Context(), auth.Registration{Username: "eve", Email: "ADA@example.org", Password: password}, from(2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err = w.users.ByPublicID(t.Context(), fake.PublicID); errs.KindOf(err) != errs.NotFound {
		t.Errorf("somebody else has the old address: %v", err)
	}
	wantCode(t, w.ChangeEmail(t.Context(), w.principal(g), "eve@example.com", from(1)), errs.Conflict, "email_settling")
	w.exec(`update email_changes set ends_at = clock_timestamp()`)
	wantCode(t, w.UndoEmail(t.Context(), undo, from(1)), errs.Gone, "token_gone")
	w.ask(g, "ada@example.com")
	w.register("eve2")
	if _, err = w.Register(t.Context(), auth.Registration{Username: "eve", Email: "ada@example.org", Password: password}, from(2)); err != nil {
		t.Fatal(err)
	}
	if _, err = w.users.ByUsername(t.Context(), "eve"); err != nil {
		t.Errorf("the old address is free, yet: %v", err)
	}
	w.address(u.PublicID, "eve@example.net")
}

func TestWhatEndsARequestForAnotherAddress(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(w *world, u user.User, g auth.Grant){
		"a changed password": func(w *world, _ user.User, g auth.Grant) {
			if _, err := w.ChangePassword(t.Context(), w.principal(g), password, "an entirely new password", from(1)); err != nil {
				w.t.Fatal(err)
			}
		},
		"time": func(w *world, _ user.User, _ auth.Grant) {
			w.exec(`update email_changes set ends_at = clock_timestamp()`)
		},
		"an account that was disabled meanwhile": func(w *world, u user.User, _ auth.Grant) {
			_, err := w.Disable(t.Context(), auth.Console(), u.PublicID)
			if err == nil {
				_, err = w.Enable(t.Context(), auth.Console(), u.PublicID)
			}
			if err != nil {
				w.t.Fatal(err)
			}
		},
		"a disabled account": func(w *world, u user.User, _ auth.Grant) {
			if _, err := w.Disable(t.Context(), auth.Console(), u.PublicID); err != nil {
				w.t.Fatal(err)
			}
		},
		"a program of Phase 24.2 that disables and enables the account": func(w *world, u user.User, _ auth.Grant) {
			w.legacy(`update users set is_active = false where id = $1`, u.ID)
			w.legacy(`update users set is_active = true where id = $1`, u.ID)
		},
		"a program of Phase 24.2 that changes the password": func(w *world, u user.User, _ auth.Grant) {
			w.legacy(`update users set password_hash = 'x' where id = $1`, u.ID)
		},
		"a program of Phase 24.2 that changes the address": func(w *world, u user.User, _ auth.Grant) {
			w.legacy(`update users set email = 'ada@example.com' where id = $1`, u.ID)
		},
		"a newer request": func(w *world, _ user.User, g auth.Grant) { w.ask(g, "other@example.net") },
		"an administrator": func(w *world, u user.User, _ auth.Grant) {
			if _, err := w.SetEmail(t.Context(), auth.Console(), u.PublicID, "ada@example.com", true); err != nil {
				w.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			u, g := w.verified("ada")
			w.ask(g, "ada@example.net")
			token := w.mailed(notify.TopicEmailConfirm)
			end(w, u, g)
			wantCode(t, w.ConfirmEmail(t.Context(), token, from(1)), errs.Gone, "token_gone")
			if name == "a newer request" {
				return
			}
			if _, err := w.render(notify.TopicEmailConfirm); errs.CodeOf(err) != "mail_moot" { // a mail that was on its way
				t.Errorf("another token is mailed: %v", err)
			}
		})
	}
}

func TestAnAddressNobodyProvedToOwnCannotUndo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	w.ask(w.login("ada"), "ada@example.net")
	if err := w.ConfirmEmail(t.Context(), w.mailed(notify.TopicEmailConfirm), from(1)); err != nil {
		t.Fatal(err)
	}
	w.address(u.PublicID, "ada@example.net")
	if w.mails(notify.TopicEmailChanged, u.PublicID)+w.mails(notify.TopicEmailAsked, u.PublicID) != 0 {
		t.Error("a stranger's address is told")
	}
	w.ask(w.login("ada"), "ada@example.com") // nothing is left to undo
}

func TestWhoProvesToOwnTheOldAddressMeanwhileCanUndo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	verify := w.mailed(notify.TopicVerifyEmail)
	w.ask(w.login("ada"), "eve@example.net") // somebody else's request, made while nobody was to be told
	token := w.mailed(notify.TopicEmailConfirm)
	if err := w.VerifyEmail(t.Context(), verify, from(2)); err != nil {
		t.Fatal(err)
	}
	w.exec(`update users set email = 'ada@example.com' where public_id = $1`, u.PublicID) // by a writer of Phase 24.2
	if err := w.ConfirmEmail(t.Context(), token, from(1)); err != nil {
		t.Fatal(err)
	}
	if to, _ := w.letter(notify.TopicEmailChanged); to != "ada@example.com" {
		t.Errorf("the link to undo it goes to %q", to)
	}
	if err := w.UndoEmail(t.Context(), w.mailed(notify.TopicEmailChanged), from(2)); err != nil {
		t.Fatal(err)
	}
	w.address(u.PublicID, "ada@example.com")
}

// A thief who has the account's mail asks for a token again and again, so that one is being made while the owner undoes.
func TestATokenThatIsMadeDuringAnUndoGoesToTheAddressThatTheAccountHasThen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, g := w.verified("ada")
	undo := w.move(g, "eve@example.net")
	if err := w.RequestRecovery(t.Context(), "ada", from(1)); err != nil {
		t.Fatal(err)
	}
	type outcome struct {
		notify.Mail
		err error
	}
	made := make(chan outcome, 1)
	err := w.db.InTx(t.Context(), func(tx *postgres.Tx) error {
		if _, err := w.users.UndoEmail(t.Context(), tx, undo); err != nil {
			return err
		}
		go func() {
			m, err := w.render(auth.TopicRecovery)
			made <- outcome{m, err}
		}()
		w.lockWaits(1)
		return nil
	})
	if got := <-made; err != nil || got.err != nil || got.To != "ada@example.org" {
		t.Errorf("the token goes to %q, %v, %v", got.To, got.err, err)
	}
}

func TestAWriterOfPhase242CannotHaveAnAddressWhoseChangeCanBeUndone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u, g := w.verified("ada")
	undo := w.move(g, "eve@example.net")
	w.register("bob")
	for _, sql := range []string{
		`insert into users (username, email, password_hash) values ('eve', 'ADA@example.org', 'x')`,
		`update users set email = 'ada@example.org' where username = 'bob'`,
	} {
		if _, err := w.db.Exec(t.Context(), sql); !postgres.UniqueViolation(err, "users") {
			t.Errorf("%s: %v", sql, err)
		}
	}
	w.exec(`update users set is_verified = false where username = 'ada'`)
	if err := w.UndoEmail(t.Context(), undo, from(2)); err != nil {
		t.Fatal(err)
	}
	w.address(u.PublicID, "ada@example.org")
}

func TestAnAdministratorVerifiesTheAddressThatAnAccountHas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	if changed, err := w.SetEmail(t.Context(), auth.Console(), u.PublicID, "ada@example.org", true); err != nil || !changed.IsVerified {
		t.Errorf("%+v, %v", changed, err)
	}
	if n := w.mails(notify.TopicVerifyEmail, u.PublicID); n != 1 {
		t.Errorf("%d mails to verify it, want that of the registration", n)
	}
}

func TestAnAdministratorsNewAddressIsToldToTheOldOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u, g := w.verified("ada")
	undo := w.move(g, "ada@example.net")
	changed, err := w.SetEmail(t.Context(), auth.Console(), u.PublicID, "ada@example.com", false)
	if err != nil || changed.Email != "ada@example.com" || changed.IsVerified || w.mails(notify.TopicVerifyEmail, u.PublicID) != 2 {
		t.Errorf("%+v, %v", changed, err)
	}
	var to string
	if err = w.db.QueryRow(t.Context(), `select target from outbox where topic = $1`, notify.TopicEmailReplaced).Scan(&to); err != nil || to != "ada@example.net" {
		t.Errorf("told to %q, %v", to, err)
	}
	if _, text := w.letter(notify.TopicEmailReplaced); !strings.Contains(text, "administrator") {
		t.Errorf("mail:\n%s", text)
	}
	wantCode(t, w.UndoEmail(t.Context(), undo, from(1)), errs.Gone, "token_gone") // the administrator decides
	_, err = w.SetEmail(t.Context(), auth.Principal{View: session.View{Role: session.RoleOperator}}.Actor(), u.PublicID, "x@example.com", true)
	wantCode(t, err, errs.Forbidden, "role_required")
}

// What an administrator does may wait for an owner who confirms another address just then.
func TestTheAddressThatIsToldIsTheOneThatIsReplaced(t *testing.T) {
	t.Parallel()
	for topic, act := range map[string]func(w *world, id uuid.UUID) error{
		notify.TopicEmailReplaced: func(w *world, id uuid.UUID) error {
			_, err := w.SetEmail(t.Context(), auth.Console(), id, "ada@example.com", true)
			return err
		},
		auth.TopicDeleted: func(w *world, id uuid.UUID) error { return w.DeleteUser(t.Context(), auth.Console(), id) },
	} {
		t.Run(topic, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			u, g := w.verified("ada")
			w.ask(g, "ada@example.net")
			token := w.mailed(notify.TopicEmailConfirm)
			done := make(chan error, 1)
			err := w.db.InTx(t.Context(), func(tx *postgres.Tx) error {
				_, err := w.users.ConfirmEmail(t.Context(), tx, token, time.Hour)
				go func() { done <- act(w, u.PublicID) }()
				w.lockWaits(1)
				return err
			})
			if failure := <-done; err != nil || failure != nil {
				t.Fatal(err, failure)
			}
			var to string
			if err = w.db.QueryRow(t.Context(), `select target from outbox where topic = $1`, topic).Scan(&to); err != nil || to != "ada@example.net" {
				t.Errorf("told to %q, %v", to, err)
			}
		})
	}
}

// lasting are acts whose outcome would outlive a session. A factor is being set up in it.
func (w *world) lasting(p auth.Principal) map[string]func() error {
	w.t.Helper()
	made, err := w.EnrollTOTP(w.t.Context(), p, from(1))
	if err != nil {
		w.t.Fatal(err)
	}
	f := factor{w: w, id: made.FactorID, secret: made.Secret.Reveal()}
	return map[string]func() error{
		"another address": func() error { return w.ChangeEmail(w.t.Context(), p, "eve@example.net", from(1)) },
		"a factor":        func() error { _, e := w.ConfirmTOTP(w.t.Context(), p, f.id, f.next(), from(1)); return e },
	}
}

// A request may be under way while its session ends.
func TestASessionThatEndsLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u, g := w.verified("ada")
	acts := w.lasting(w.principal(g))
	done := make(chan error, len(acts))
	err := w.db.InTx(t.Context(), func(tx *postgres.Tx) error {
		_, err := w.sessions.RevokeAll(t.Context(), tx, u.ID, session.Cause{Reason: "user"})
		for _, act := range acts {
			go func() { done <- act() }()
		}
		w.lockWaits(len(acts)) // they found the session alive, and wait for the account
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for range acts {
		wantCode(t, <-done, errs.Unauthenticated, "unauthenticated")
	}
	if has, err := w.mfa.HasFactor(t.Context(), w.db, u.ID); has || err != nil || w.mails(notify.TopicEmailConfirm, u.PublicID) != 0 {
		t.Errorf("a factor is enabled: %v, or a token is mailed; %v", has, err)
	}
}

// A cache may believe in a session for a moment longer than the database.
func TestASessionThatHasEndedProvesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, g := w.verified("ada")
	p := w.principal(g)
	acts := w.lasting(p)
	acts["new codes"] = func() error { _, err := w.RegenerateBackupCodes(t.Context(), p, from(1)); return err }
	acts["another set-up"] = func() error { _, err := w.EnrollTOTP(t.Context(), p, from(1)); return err }
	acts["the end of the account"] = func() error { return w.DeleteAccount(t.Context(), p, from(1)) }
	if _, err := w.RevokeAllSessions(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	for name, act := range acts {
		if err := act(); errs.CodeOf(err) != "unauthenticated" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRequestsForAddressesAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mails := 0
	for _, name := range []string{"ada", "bob"} {
		u, g := w.verified(name)
		p := w.principal(g)
		for range 4 {
			w.ask(g, "victim@example.net")
		}
		wantCode(t, w.ChangeEmail(t.Context(), p, "victim@example.net", from(1)), errs.RateLimited, "rate_limited")
		mails += w.mails(notify.TopicEmailConfirm, u.PublicID)
	}
	if mails != 4 {
		t.Errorf("%d mails to one address, want 4", mails)
	}
}

func TestOneTokenChangesAnAddressOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u, g := w.verified("ada")
	w.ask(g, "ada@example.net")
	for _, use := range []func(string) error{
		func(token string) error { return w.ConfirmEmail(t.Context(), token, from(1)) },
		func(token string) error { return w.UndoEmail(t.Context(), token, from(1)) },
	} {
		topic := notify.TopicEmailConfirm
		if w.heard(u.PublicID, "user.email_changed") > 0 {
			topic = notify.TopicEmailChanged
		}
		token := w.mailed(topic)
		var won atomic.Int32
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				switch err := use(token); {
				case err == nil:
					won.Add(1)
				case errs.CodeOf(err) != "token_gone":
					t.Error(err)
				}
			})
		}
		all.Wait()
		if won.Load() != 1 {
			t.Errorf("%d uses of one token succeeded", won.Load())
		}
	}
	w.address(u.PublicID, "ada@example.org")
}

// The tokens are canaries: whatever the database holds afterwards is searched for them.
func TestTokensOfAddressesRestNowhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, g := w.verified("ada")
	w.ask(g, "ada@example.net")
	canaries := []string{w.mailed(notify.TopicEmailConfirm)}
	if err := w.ConfirmEmail(t.Context(), canaries[0], from(1)); err != nil {
		t.Fatal(err)
	}
	canaries = append(canaries, w.mailed(notify.TopicEmailChanged))
	for _, table := range []string{"email_changes", "user_tokens", "outbox", "events", "users"} {
		var dump string
		if err := w.db.QueryRow(t.Context(), `select coalesce(string_agg(t::text, ' '), '') from `+table+` t`).Scan(&dump); err != nil || dump == "" && table != "user_tokens" {
			t.Fatalf("%s: %v, %q", table, err, dump)
		}
		for _, c := range canaries {
			if strings.Contains(dump, c) || strings.Contains(dump, strings.TrimPrefix(c, "sut_")) {
				t.Errorf("a token is in %s", table)
			}
		}
		if (table == "outbox" || table == "events") && strings.Contains(dump, "ada@example") {
			t.Errorf("an address is in %s: %s", table, dump)
		}
	}
	for _, c := range canaries {
		if strings.Contains(w.logged.String(), c) {
			t.Error("a token is in the log")
		}
	}
	if !strings.Contains(canaries[1], "sut_") || canaries[0] == canaries[1] {
		t.Errorf("canaries %q", canaries)
	}
}

func TestOldChangesOfAddressesAreRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, g := w.verified("ada")
	w.ask(g, "ada@example.net")
	if n, err := w.Cleanup(t.Context()); err != nil || n != 0 {
		t.Errorf("removed %d, %v", n, err)
	}
	w.exec(`update email_changes set ends_at = clock_timestamp() - interval '2 days'`)
	if n, err := w.Cleanup(t.Context()); err != nil || n != 1 {
		t.Errorf("removed %d, %v; want the one that ended", n, err)
	}
}
