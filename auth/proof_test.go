package auth_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rootstream/auth"
	"rootstream/errs"
	"rootstream/event"
	"rootstream/mfa"
	"rootstream/notify"
	"rootstream/session"
)

func TestSecondFactorTurnsSignInIntoAChallenge(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	f := w.enroll(w.login("ada"))
	c := w.challenge("ada")
	if left := time.Until(c.ExpiresAt); left > 5*time.Minute || left < 4*time.Minute || !slices.Equal(c.Methods, []mfa.Method{mfa.TOTP, mfa.BackupCode}) {
		t.Errorf("challenge %+v", c)
	}
	sessions, err := w.sessions.Count(t.Context(), u.ID)
	if err != nil || sessions != 1 {
		t.Fatalf("%d sessions before the code, %v; want the one that enrolled", sessions, err)
	}
	_, err = w.VerifyMFA(t.Context(), auth.MFAAnswer{ChallengeID: c.ID, Method: mfa.TOTP, Code: "000000"}, from(1))
	wantCode(t, err, errs.Unauthenticated, "invalid_code")
	// The challenge stands, and another network may answer it (pitfall 26).
	g, err := w.VerifyMFA(t.Context(), auth.MFAAnswer{ChallengeID: c.ID, Method: mfa.TOTP, Code: f.next()}, from(77))
	if err != nil {
		t.Fatal(err)
	}
	p := w.principal(g)
	if p.AAL != 2 || p.MFAAt == 0 || !slices.Equal(g.Session.AMR, []string{"pwd", "otp"}) {
		t.Errorf("session %+v", g.Session)
	}
	_, err = w.VerifyMFA(t.Context(), auth.MFAAnswer{ChallengeID: c.ID, Method: mfa.TOTP, Code: f.next()}, from(1))
	wantCode(t, err, errs.Gone, "challenge_gone")
	if w.heard(u.PublicID, "user.login_succeeded") != 2 || w.heard(u.PublicID, "mfa.failed") != 1 {
		t.Errorf("audit trail %v", w.audit(u.PublicID))
	}
}

func TestChallengesThatAreGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	f := w.enroll(w.login("ada"))
	answer := func(id string) error {
		_, err := w.VerifyMFA(t.Context(), auth.MFAAnswer{ChallengeID: id, Method: mfa.TOTP, Code: f.next()}, from(1))
		return err
	}
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := w.db.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"", "sch_", auth.NewChallengeID(), "sst_x"} {
		wantCode(t, answer(id), errs.Gone, "challenge_gone")
	}
	expired := w.challenge("ada")
	exec(`update auth_challenges set expires_at = now() - interval '1 second' where consumed_at is null`)
	wantCode(t, answer(expired.ID), errs.Gone, "challenge_gone")

	// The password that began it is not the password any more.
	stale := w.challenge("ada")
	exec(`update users set password_hash = password_hash || 'x' where public_id = $1`, u.PublicID)
	wantCode(t, answer(stale.ID), errs.Gone, "challenge_gone")
	exec(`update users set password_hash = left(password_hash, -1) where public_id = $1`, u.PublicID)

	reset := w.challenge("ada")
	exec(`delete from user_mfa`)
	wantCode(t, answer(reset.ID), errs.Gone, "challenge_gone")

	f = w.enroll(w.login("ada"))
	disabled := w.challenge("ada")
	if _, err := w.Disable(t.Context(), auth.Console(), u.PublicID); err != nil {
		t.Fatal(err)
	}
	wantCode(t, answer(disabled.ID), errs.Gone, "challenge_gone")
	var kept int
	if err := w.db.QueryRow(t.Context(), `select count(*) from auth_challenges where detail::text like '%' || $1 || '%'`, disabled.ID).Scan(&kept); err != nil || kept != 0 {
		t.Errorf("a challenge's id is kept: %d, %v", kept, err)
	}
}

//nolint:tparallel // the subtests share one account's budget of codes
func TestPitfall01And11OneCodeGivesOneSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) { o.config.Rate.MFANetwork = 10_000 })
	u := w.register("ada")
	f := w.enroll(w.login("ada"))
	for _, method := range []mfa.Method{mfa.TOTP, mfa.BackupCode} {
		t.Run(string(method), func(t *testing.T) {
			before, err := w.sessions.Count(t.Context(), u.ID)
			if err != nil {
				t.Fatal(err)
			}
			// One challenge for half of them, one of their own for the others.
			shared := w.challenge("ada")
			own := make([]auth.Challenge, 20)
			for i := range own {
				own[i] = w.challenge("ada")
			}
			code := f.backup[0]
			if method == mfa.TOTP {
				code = f.next()
			}
			var granted atomic.Int32
			var wg sync.WaitGroup
			for i := range 200 {
				id := shared.ID
				if i%2 == 1 {
					id = own[i/2%len(own)].ID
				}
				wg.Go(func() {
					_, failure := w.VerifyMFA(t.Context(), auth.MFAAnswer{ChallengeID: id, Method: method, Code: code}, from(1))
					kinds := []errs.Kind{errs.Unauthenticated, errs.RateLimited, errs.Gone}
					if failure == nil {
						granted.Add(1)
					} else if !slices.Contains(kinds, errs.KindOf(failure)) {
						t.Errorf("answer: %v", failure)
					}
				})
			}
			wg.Wait()
			after, err := w.sessions.Count(t.Context(), u.ID)
			if granted.Load() != 1 || after != before+1 || err != nil {
				t.Errorf("%d granted, %d sessions more, %v; want one", granted.Load(), after-before, err)
			}
			w.clock.advance(16 * time.Minute) // the budget of codes begins anew
		})
	}
}

// The first factor alone gives neither budget back.
func TestPitfall05TheFirstFactorResetsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stillClock)
	w.register("ada")
	f := w.enroll(w.login("ada"))
	w.clock.advance(16 * time.Minute)
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
	w.clock.advance(16 * time.Minute)

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

// Codes are counted by account wherever they come from, not by address.
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

func TestReauthenticate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.register("ada")
	g := w.login("ada")
	f := w.enroll(g)
	w.clock.advance(time.Hour)
	p := w.principal(g)
	for _, in := range []auth.Proof{{}, {Method: mfa.TOTP}} {
		if _, err := w.Reauthenticate(t.Context(), p, in, from(1)); errs.KindOf(err) != errs.Invalid {
			t.Errorf("nothing proven: %v", err)
		}
	}
	if _, err := w.Reauthenticate(t.Context(), p, auth.Proof{Password: "wrong"}, from(1)); !errors.Is(err, auth.ErrWrongPassword) {
		t.Errorf("wrong password: %v", err)
	}
	if _, err := w.Reauthenticate(t.Context(), p, auth.Proof{Password: password, Code: "000000"}, from(1)); !errors.Is(err, mfa.ErrInvalidCode) {
		t.Errorf("wrong code: %v", err)
	}
	w.principal(g) // what failed changed nothing

	byPassword, err := w.Reauthenticate(t.Context(), p, auth.Proof{Password: password}, from(1))
	if err != nil {
		t.Fatal(err)
	}
	w.refused(g)
	q := w.principal(byPassword)
	if q.AAL != 1 || q.MFAAt != 0 || q.AuthAt <= p.AuthAt {
		t.Errorf("by password: %+v", q)
	}
	both, err := w.Reauthenticate(t.Context(), q, auth.Proof{Password: password, Code: f.next()}, from(1))
	if err != nil {
		t.Fatal(err)
	}
	w.refused(byPassword)
	r := w.principal(both)
	if r.AAL != 2 || r.MFAAt == 0 || r.SessionID != p.SessionID {
		t.Errorf("by both: %+v", r)
	}
	again, err := w.Reauthenticate(t.Context(), r, auth.Proof{Password: password}, from(1))
	if err != nil {
		t.Fatal(err)
	}
	if v := w.principal(again); v.AAL != 2 || v.MFAAt != r.MFAAt {
		t.Errorf("a password must not touch the second factor: %+v", v)
	}
	// Whose session ended meanwhile gets nothing.
	if err := w.Logout(t.Context(), again.Token.Reveal()); err != nil {
		t.Fatal(err)
	}
	for _, in := range []auth.Proof{{Password: password}, {Code: f.next()}} {
		_, err := w.Reauthenticate(t.Context(), r, in, from(1))
		wantCode(t, err, errs.Unauthenticated, "unauthenticated")
	}
}

// A thief of a session can neither guess on for ever nor hold the owner up.
func TestReauthenticateIsLimitedBySession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stillClock)
	u := w.register("ada")
	stolen, own := w.principal(w.login("ada")), w.principal(w.login("ada"))
	limited := 0
	for range 8 {
		if _, err := w.Reauthenticate(t.Context(), stolen, auth.Proof{Password: "wrong"}, from(1)); errors.Is(err, auth.ErrRateLimited) {
			limited++
		}
	}
	if limited != 3 {
		t.Errorf("%d of 8 were refused, want 3", limited)
	}
	if _, err := w.Reauthenticate(t.Context(), own, auth.Proof{Password: password}, from(1)); err != nil {
		t.Errorf("the owner: %v", err)
	}
	if w.heard(u.PublicID, "user.login_failed") != 5 || w.heard(u.PublicID, "user.locked") != 1 {
		t.Errorf("audit trail %v", w.audit(u.PublicID))
	}
}

func TestPitfall28FactorsChangeOnlyAfterAFreshProof(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	g := w.login("ada")
	p := w.principal(g)
	w.clock.advance(16 * time.Minute)
	_, err := w.EnrollTOTP(t.Context(), p, from(1))
	wantCode(t, err, errs.Forbidden, "aal_required")
	wantCode(t, w.DeleteAccount(t.Context(), p, from(1)), errs.Forbidden, "aal_required")
	w.clock.advance(-16 * time.Minute)
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
		return map[string]error{
			"enroll": enroll, "codes": codes, "remove": w.RemoveTOTP(t.Context(), p, f.id, from(1)),
			"password": w.ChangePassword(t.Context(), p, password, "another good password", from(1)),
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
	w.clock.advance(16 * time.Minute)
	for what, err := range everything(q) {
		if !errors.Is(err, auth.ErrAALRequired) {
			t.Errorf("%s with a stale second factor: %v", what, err)
		}
	}
	w.clock.advance(-16 * time.Minute)
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
		w.clock.advance(4 * time.Minute)
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

// Failures are on record as well as successes, each as an event of its own.
func TestPitfall35FailuresAreInTheAuditTrail(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	g := w.login("ada")
	f := w.enroll(g)
	_, err := w.Login(t.Context(), auth.Credentials{Login: "ada", Password: "wrong"}, from(1))
	wantCode(t, err, errs.Unauthenticated, "invalid_credentials")
	c := w.challenge("ada")
	_, err = w.VerifyMFA(t.Context(), auth.MFAAnswer{ChallengeID: c.ID, Method: mfa.TOTP, Code: "000000"}, from(1))
	wantCode(t, err, errs.Unauthenticated, "invalid_code")
	if _, err = w.VerifyMFA(t.Context(), auth.MFAAnswer{ChallengeID: c.ID, Method: mfa.TOTP, Code: f.next()}, from(1)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{
		"user.login_failed": 1, "mfa.failed": 1, "mfa.verified": 1, "user.login_succeeded": 2, "session.created": 2,
	} {
		if got := w.heard(u.PublicID, name); got != want {
			t.Errorf("%d events %s, want %d: %v", got, name, want, w.audit(u.PublicID))
		}
	}
	all, err := event.NewStore(w.db).Audit(t.Context(), u.PublicID, time.Now().Add(time.Hour), 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		for _, personal := range []string{"ada", "example.org", "10.0.", "Firefox", g.Token.Reveal()} {
			if s := string(e.Data); strings.Contains(s, personal) {
				t.Errorf("event %s carries %q: %s", e.Name, personal, s)
			}
		}
	}
}

func TestPrincipalRules(t *testing.T) {
	t.Parallel()
	now := time.Now()
	at := func(ago time.Duration) int64 { return now.Add(-ago).UnixMicro() }
	for _, tt := range []struct {
		name       string
		view       session.View
		login, mfa bool
	}{
		{"never", session.View{AAL: 1}, false, false},
		{"password just now", session.View{AAL: 1, AuthAt: at(time.Minute)}, true, false},
		{"password long ago", session.View{AAL: 1, AuthAt: at(16 * time.Minute)}, false, false},
		{"code just now", session.View{AAL: 2, AuthAt: at(time.Hour), MFAAt: at(time.Minute)}, false, true},
		{"code long ago", session.View{AAL: 2, AuthAt: at(time.Hour), MFAAt: at(16 * time.Minute)}, false, false},
		{"a time without the level", session.View{AAL: 1, MFAAt: at(0)}, false, false},
	} {
		p := auth.Principal{View: tt.view}
		if err := p.RequireFreshLogin(now, 15*time.Minute); (err == nil) != tt.login {
			t.Errorf("%s: fresh login: %v", tt.name, err)
		}
		if err := p.RequireFreshMFA(now, 15*time.Minute); (err == nil) != tt.mfa {
			t.Errorf("%s: fresh second factor: %v", tt.name, err)
		}
	}
	for have := session.RoleUser; have <= session.RoleAdmin; have++ {
		for least := session.RoleUser; least <= session.RoleAdmin; least++ {
			err := auth.Principal{View: session.View{Role: have}}.RequireRole(least)
			if (err == nil) != (have >= least) || (err != nil && errs.CodeOf(err) != "role_required") {
				t.Errorf("%v asked for %v: %v", have, least, err)
			}
		}
	}
}
