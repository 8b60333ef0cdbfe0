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
			w.clock.Advance(16 * time.Minute) // the budget of codes begins anew
		})
	}
}

// The first factor alone gives neither budget back.
// Codes are counted by account wherever they come from, not by address.
func TestReauthenticate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.register("ada")
	g := w.login("ada")
	f := w.enroll(g)
	w.clock.Advance(time.Hour)
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

// Failures are on record as well as successes, each as an event of its own.
func TestPitfall35FailuresAreInTheAuditTrail(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("grace")
	g := w.login("grace")
	f := w.enroll(g)
	_, err := w.Login(t.Context(), auth.Credentials{Login: "grace", Password: "wrong"}, from(1))
	wantCode(t, err, errs.Unauthenticated, "invalid_credentials")
	c := w.challenge("grace")
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
	all, err := event.NewStore(w.db).Audit(t.Context(), u.PublicID, event.Position{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		for _, personal := range []string{"grace", "example.org", "10.0.", "Firefox", g.Token.Reveal()} { // a name that no id can hold
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

// Codes that are all right and all different: the challenge lets one of them
// in, and what the others would have used up stays good.
func TestPitfall11OneChallengeGivesOneSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	f := w.enroll(w.login("ada"))
	c := w.challenge("ada")
	answers := []auth.MFAAnswer{{ChallengeID: c.ID, Method: mfa.TOTP, Code: f.next()}}
	for _, code := range f.backup[:4] {
		answers = append(answers, auth.MFAAnswer{ChallengeID: c.ID, Method: mfa.BackupCode, Code: code})
	}
	var granted, byCode atomic.Int32
	var wg sync.WaitGroup
	for _, a := range answers {
		wg.Go(func() {
			switch _, err := w.VerifyMFA(t.Context(), a, from(1)); {
			case err == nil:
				granted.Add(1)
				if a.Method == mfa.BackupCode {
					byCode.Add(1)
				}
			case !errors.Is(err, auth.ErrChallengeGone):
				t.Errorf("answer: %v", err)
			}
		})
	}
	wg.Wait()
	status, err := w.mfa.Status(t.Context(), u.ID)
	if err != nil {
		t.Fatal(err)
	}
	if granted.Load() != 1 || status.BackupCodesLeft != 10-int(byCode.Load()) {
		t.Errorf("%d sessions, %d of them by backup code, %d codes left", granted.Load(), byCode.Load(), status.BackupCodesLeft)
	}
}

// What was proven is written with the database's time, so a process whose clock
// is behind must not take it for fresh any longer.
func TestPitfall37FreshnessIsJudgedByTheDatabasesClock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) { o.ahead = true })
	w.register("ada")
	g := w.login("ada")
	if err := w.RequireFresh(t.Context(), w.principal(g)); err != nil {
		t.Errorf("at once: %v", err)
	}
	if _, err := w.db.Exec(t.Context(), `update sessions set authenticated_at = authenticated_at - interval '16 minutes', version = version + 1`); err != nil {
		t.Fatal(err)
	}
	if err := w.sessions.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantCode(t, w.RequireFresh(t.Context(), w.principal(g)), errs.Forbidden, "aal_required")
}
