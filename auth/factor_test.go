package auth_test

import (
	"errors"
	"testing"
	"time"

	"rootstream/auth"
	"rootstream/errs"
	"rootstream/mfa"
	"rootstream/notify"
	"rootstream/postgres"
	"rootstream/session"
)

func TestPitfall05TheFirstFactorResetsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stillClock)
	w.register("ada")
	f := w.enroll(w.login("ada"))
	w.clock.Advance(16 * time.Minute)
	for i := range 7 {
		c := w.challenge("ada") // the right password, each time
		_, err := w.VerifyMFA(t.Context(), auth.MFAAnswer{ChallengeID: c.ID, Method: mfa.TOTP, Code: "000000"}, from(1))
		want := "invalid_code"
		if i >= 5 {
			want = "too_many_attempts"
		}
		if errs.CodeOf(err) != want {
			t.Errorf("guess %d: %v, want %s", i+1, err, want)
		}
	}
	w.clock.Advance(16 * time.Minute)

	// Wrong passwords are not forgiven by a right one whose code never comes.
	c := from(5)
	wrong := func() error {
		_, err := w.Login(t.Context(), auth.Credentials{Login: "ada", Password: "wrong"}, c)
		return err
	}
	for range 4 {
		wantCode(t, wrong(), errs.Unauthenticated, "invalid_credentials")
	}
	l, err := w.Login(t.Context(), auth.Credentials{Login: "ada", Password: password}, c)
	if err != nil || l.Challenge == nil {
		t.Fatalf("login: %+v, %v", l, err)
	}
	wantCode(t, wrong(), errs.Unauthenticated, "invalid_credentials")
	wantCode(t, wrong(), errs.RateLimited, "rate_limited")
	// The end of a sign-in does.
	if _, err := w.VerifyMFA(t.Context(), auth.MFAAnswer{ChallengeID: l.Challenge.ID, Method: mfa.TOTP, Code: f.next()}, c); err != nil {
		t.Fatal(err)
	}
	wantCode(t, wrong(), errs.Unauthenticated, "invalid_credentials")
}

func TestPitfall06CodesAreLimitedByAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.register("ada")
	w.enroll(w.login("ada"))
	c := w.challenge("ada")
	compared := 0
	for n := range 30 {
		method := []mfa.Method{mfa.TOTP, mfa.BackupCode}[n%2]
		code := []string{"000000", "00000-00000"}[n%2]
		_, err := w.VerifyMFA(t.Context(), auth.MFAAnswer{ChallengeID: c.ID, Method: method, Code: code}, from(byte(n)))
		if errors.Is(err, mfa.ErrInvalidCode) {
			compared++
		}
	}
	if compared != 5 {
		t.Errorf("%d guesses from 30 networks were compared, want 5", compared)
	}
}

func TestBackupCodesAreMailedAndRunLow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	f := w.enroll(w.login("ada"))
	if len(f.backup) != 10 {
		t.Fatalf("%d backup codes", len(f.backup))
	}
	for i, code := range f.backup[:7] {
		_, err := w.VerifyMFA(t.Context(), auth.MFAAnswer{ChallengeID: w.challenge("ada").ID, Method: mfa.BackupCode, Code: code}, from(1))
		if err != nil {
			t.Fatalf("code %d: %v", i+1, err)
		}
	}
	if used, low := w.mails(notify.TopicBackupCodeUsed, u.PublicID), w.mails(notify.TopicBackupCodesLow, u.PublicID); used != 7 || low != 1 {
		t.Errorf("%d mails about a used code, %d about few left; want 7 and 1", used, low)
	}
	if to, text := w.letter(notify.TopicBackupCodesLow); to != "ada@example.org" {
		t.Errorf("mail to %s:\n%s", to, text)
	}
}

func TestPitfall28FactorsChangeOnlyAfterAFreshProof(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	g := w.login("ada")
	p := w.principal(g)
	w.clock.Advance(16 * time.Minute)
	_, err := w.EnrollTOTP(t.Context(), p, from(1))
	wantCode(t, err, errs.Forbidden, "aal_required")
	wantCode(t, w.DeleteAccount(t.Context(), p, from(1)), errs.Forbidden, "aal_required")
	w.clock.Advance(-16 * time.Minute)
	if _, err = w.RegenerateBackupCodes(t.Context(), p, from(1)); !errors.Is(err, mfa.ErrFactorNotFound) {
		t.Errorf("codes without an authenticator: %v", err)
	}
	f := w.enroll(g)
	if w.mails(notify.TopicFactorAdded, u.PublicID) != 1 {
		t.Error("the owner was not told about a new factor")
	}
	if v := w.principal(g); v.AAL != 1 {
		t.Error("enrolling raised the session")
	}
	everything := func(p auth.Principal) map[string]error {
		_, enroll := w.EnrollTOTP(t.Context(), p, from(1))
		_, codes := w.RegenerateBackupCodes(t.Context(), p, from(1))
		_, change := w.ChangePassword(t.Context(), p, password, "another good password", from(1))
		return map[string]error{
			"enroll": enroll, "codes": codes, "remove": w.RemoveTOTP(t.Context(), p, f.id, from(1)),
			"password": change,
			"delete":   w.DeleteAccount(t.Context(), p, from(1)), "fresh": w.RequireFresh(t.Context(), p),
		}
	}
	for what, err := range everything(p) {
		if !errors.Is(err, auth.ErrAALRequired) {
			t.Errorf("%s at AAL1: %v", what, err)
		}
	}
	up, err := w.Reauthenticate(t.Context(), p, auth.Proof{Code: f.next()}, from(1))
	if err != nil {
		t.Fatal(err)
	}
	q := w.principal(up)
	w.clock.Advance(16 * time.Minute)
	for what, err := range everything(q) {
		if !errors.Is(err, auth.ErrAALRequired) {
			t.Errorf("%s with a stale second factor: %v", what, err)
		}
	}
	w.clock.Advance(-16 * time.Minute)
	if _, err := w.EnrollTOTP(t.Context(), q, from(1)); !errors.Is(err, mfa.ErrFactorExists) {
		t.Errorf("a second authenticator: %v", err)
	}
	if codes, err := w.RegenerateBackupCodes(t.Context(), q, from(1)); err != nil || len(codes) != 10 {
		t.Errorf("new codes: %v", err)
	}
	if err := w.RemoveTOTP(t.Context(), q, f.id, from(1)); err != nil {
		t.Fatal(err)
	}
	if err := w.RemoveTOTP(t.Context(), q, f.id, from(1)); !errors.Is(err, mfa.ErrFactorNotFound) {
		t.Errorf("removed again: %v", err)
	}
	if w.mails(notify.TopicFactorRemoved, u.PublicID) != 1 || w.mails(auth.TopicBackupCodesNew, u.PublicID) != 1 {
		t.Error("the owner was not told about a removed factor or new codes")
	}
	w.login("ada")
}

func TestConfirmingAFactorOfSomebodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.register("ada")
	w.register("eve")
	made, err := w.EnrollTOTP(t.Context(), w.principal(w.login("ada")), from(1))
	if err != nil {
		t.Fatal(err)
	}
	f := factor{w: w, id: made.FactorID, secret: made.Secret.Reveal()}
	eve := w.principal(w.login("eve"))
	_, err = w.ConfirmTOTP(t.Context(), eve, f.id, f.next(), from(1))
	wantCode(t, err, errs.NotFound, "factor_not_found")
	wantCode(t, w.RemoveTOTP(t.Context(), eve, f.id, from(1)), errs.NotFound, "factor_not_found")
}

func TestSuspensionIsMailedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) {
		o.config.Rate = auth.Rates{MFANetwork: 10_000, LoginAccount: 10_000, LoginNetwork: 10_000}
	})
	u := w.register("ada")
	w.enroll(w.login("ada"))
	c := w.challenge("ada")
	suspended := false
	for range 130 {
		w.clock.Advance(4 * time.Minute)
		_, err := w.VerifyMFA(t.Context(), auth.MFAAnswer{ChallengeID: c.ID, Method: mfa.TOTP, Code: "000000"}, from(1))
		suspended = suspended || errors.Is(err, mfa.ErrSuspended)
	}
	if n := w.mails(notify.TopicFactorSuspended, u.PublicID); !suspended || n != 1 {
		t.Errorf("suspended: %v, %d mails; want one", suspended, n)
	}
	if err := w.ResumeMFA(t.Context(), auth.Console(), u.PublicID); err != nil {
		t.Fatal(err)
	}
	_, err := w.VerifyMFA(t.Context(), auth.MFAAnswer{ChallengeID: c.ID, Method: mfa.TOTP, Code: "000000"}, from(1))
	wantCode(t, err, errs.Unauthenticated, "invalid_code")
}

func TestARequiredFactorIsSetUpAndStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) { o.config.FactorRequired = true })
	w.register("bob")
	g := w.login("bob")
	wantCode(t, w.RequireFactor(t.Context(), w.principal(g)), errs.Forbidden, "factor_required")
	f := w.enroll(g)
	strong := w.principal(w.signIn("bob", f))
	if err := w.RequireFactor(t.Context(), strong); err != nil {
		t.Error(err)
	}
	wantCode(t, w.RemoveTOTP(t.Context(), strong, f.id, from(1)), errs.Forbidden, "factor_required")
	w.challenge("bob") // it still asks for it
}

// Of an account with a second factor there is more that a thief would like to do at the last moment.
func TestASessionThatEndsTakesNothingAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u, g := w.verified("ada")
	f := w.enroll(g)
	p := w.principal(w.signIn("ada", f))
	acts := []func() error{
		func() error { return w.RemoveTOTP(t.Context(), p, f.id, from(1)) },
		func() error { _, err := w.RegenerateBackupCodes(t.Context(), p, from(1)); return err },
		func() error { return w.DeleteAccount(t.Context(), p, from(1)) },
	}
	done := make(chan error, len(acts))
	err := w.db.InTx(t.Context(), func(tx *postgres.Tx) error {
		_, err := w.sessions.RevokeAll(t.Context(), tx, u.ID, session.Cause{Reason: "user"})
		for _, act := range acts {
			go func() { done <- act() }()
		}
		w.lockWaits(len(acts))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for range acts {
		wantCode(t, <-done, errs.Unauthenticated, "unauthenticated")
	}
	if s, err := w.mfa.Status(t.Context(), u.ID); err != nil || !s.Enabled || w.mails(auth.TopicBackupCodesNew, u.PublicID) != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}
