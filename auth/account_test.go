package auth_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"rootstream/auth"
	"rootstream/errs"
	"rootstream/mfa"
	"rootstream/notify"
	"rootstream/notify/notifytest"
	"rootstream/postgres"
	"rootstream/user"
)

const another = "a wholly different sentence"

// Whoever waits for an account holds nothing of it yet that the one who has it may want: no deadlock ends what both do.
func TestAccountsAreLockedBeforeWhatBelongsToThem(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		table string
		begin func(w *world, g auth.Grant) func() error // the second half waits
	}{
		"a verification": {"user_tokens", func(w *world, _ auth.Grant) func() error {
			token := w.mailed(notify.TopicVerifyEmail)
			return func() error { return w.VerifyEmail(t.Context(), token, from(1)) }
		}},
		"a recovery": {"user_tokens", func(w *world, _ auth.Grant) func() error {
			if err := w.RequestRecovery(t.Context(), "ada", from(1)); err != nil {
				w.t.Fatal(err)
			}
			token := w.mailed(auth.TopicRecovery)
			return func() error { return w.ConfirmRecovery(t.Context(), token, password+"!", from(1)) }
		}},
		"another address": {"email_changes", func(w *world, g auth.Grant) func() error {
			w.ask(g, "ada@example.net")
			token := w.mailed(notify.TopicEmailConfirm)
			return func() error { return w.ConfirmEmail(t.Context(), token, from(1)) }
		}},
		"a code": {"mfa_guards", func(w *world, g auth.Grant) func() error {
			f := w.enroll(g)
			in := auth.MFAAnswer{ChallengeID: w.challenge("ada").ID, Method: mfa.TOTP, Code: f.next()}
			return func() error { _, err := w.VerifyMFA(t.Context(), in, from(1)); return err }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			u := w.register("ada")
			finish := c.begin(w, w.login("ada"))
			done := make(chan error, 1)
			free := 0
			err := w.db.InTx(t.Context(), func(tx *postgres.Tx) error {
				if _, err := tx.Exec(t.Context(), `select from users where id = $1 for no key update`, u.ID); err != nil {
					return err
				}
				go func() { done <- finish() }()
				w.lockWaits(1)
				return tx.QueryRow(t.Context(), `select count(*) from (select from `+c.table+` where user_id = $1 for update skip locked) f`, u.ID).Scan(&free)
			})
			if failure := <-done; err != nil || failure != nil || free == 0 {
				t.Errorf("%d rows of %s are free, %v, %v", free, c.table, err, failure)
			}
		})
	}
}

func TestChangePassword(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stillClock)
	u := w.register("ada")
	here, elsewhere := w.login("ada"), w.login("ada")
	p := w.principal(here)
	if _, err := w.ChangePassword(t.Context(), p, "wrong", another, from(1)); !errors.Is(err, auth.ErrWrongPassword) {
		t.Errorf("with a wrong password: %v", err)
	}
	if _, err := w.ChangePassword(t.Context(), p, password, "short", from(1)); errs.KindOf(err) != errs.Invalid {
		t.Errorf("to a short one: %v", err)
	}
	w.principal(elsewhere)
	changed, err := w.ChangePassword(t.Context(), p, password, another, from(1))
	if err != nil {
		t.Fatal(err)
	}
	if v := w.principal(changed); v.SessionID != p.SessionID || v.AAL != 1 {
		t.Errorf("the session became %+v", v)
	}
	w.refused(here) // whoever else knew its token
	w.refused(elsewhere)
	if w.mails(notify.TopicPasswordChanged, u.PublicID) != 1 || w.heard(u.PublicID, "user.password_changed") != 1 {
		t.Error("the change is not on record")
	}
	_, err = w.Login(t.Context(), auth.Credentials{Login: "ada", Password: password}, from(1))
	wantCode(t, err, errs.Unauthenticated, "invalid_credentials")
	if _, err := w.Login(t.Context(), auth.Credentials{Login: "ada", Password: another}, from(1)); err != nil {
		t.Error(err)
	}
}

func TestPitfall29RecoveryNeverYieldsAAL2(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	if err := w.VerifyEmail(t.Context(), w.mailed(notify.TopicVerifyEmail), from(1)); err != nil {
		t.Fatal(err)
	}
	g := w.login("ada")
	f := w.enroll(g)
	begun := w.challenge("ada")
	if err := w.RequestRecovery(t.Context(), "Ada@Example.org", from(2)); err != nil {
		t.Fatal(err)
	}
	to, text := w.letter(auth.TopicRecovery)
	token := w.mailed(auth.TopicRecovery)
	if to != "ada@example.org" || !strings.Contains(text, "https://example.org/recover#token=sut_") || !strings.Contains(text, "30 minutes") {
		t.Errorf("mail to %s:\n%s", to, text)
	}
	if err := w.ConfirmRecovery(t.Context(), token, "short", from(2)); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a short password: %v", err)
	}
	if err := w.ConfirmRecovery(t.Context(), token, "ada@example.org", from(2)); errs.KindOf(err) != errs.Invalid {
		t.Errorf("one that leans on the name: %v", err)
	}
	if err := w.ConfirmRecovery(t.Context(), token, another, from(2)); err != nil {
		t.Fatal(err)
	}
	wantCode(t, w.ConfirmRecovery(t.Context(), token, another, from(2)), errs.Gone, "token_gone")
	w.refused(g)
	if n, err := w.sessions.Count(t.Context(), u.ID); n != 0 || err != nil {
		t.Errorf("%d sessions after a recovery, %v", n, err)
	}
	_, err := w.VerifyMFA(t.Context(), auth.MFAAnswer{ChallengeID: begun.ID, Method: mfa.TOTP, Code: f.next()}, from(1))
	wantCode(t, err, errs.Gone, "challenge_gone")
	l, err := w.Login(t.Context(), auth.Credentials{Login: "ada", Password: another}, from(1))
	if err != nil || l.Grant != nil || l.Challenge == nil {
		t.Fatalf("the factor must still be asked for: %+v, %v", l, err)
	}
	if v, err := w.users.ByPublicID(t.Context(), u.PublicID); err != nil || !v.IsVerified {
		t.Errorf("who read the mail owns the address: %+v, %v", v, err)
	}
	if w.mails(notify.TopicPasswordChanged, u.PublicID) != 1 {
		t.Error("the owner was not told")
	}
}

func TestAStrangersFactorDoesNotKeepTheOwnerOfAnAddressOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada") // by somebody who does not own the address
	g := w.login("ada")
	f := w.enroll(g)
	g = w.signIn("ada", f)
	if err := w.RequestRecovery(t.Context(), "ada@example.org", from(2)); err != nil {
		t.Fatal(err)
	}
	if err := w.ConfirmRecovery(t.Context(), w.mailed(auth.TopicRecovery), "eight-ch", from(2)); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a password that is short without a factor: %v", err)
	}
	if err := w.ConfirmRecovery(t.Context(), w.mailed(auth.TopicRecovery), another, from(2)); err != nil {
		t.Fatal(err)
	}
	w.refused(g)
	l, err := w.Login(t.Context(), auth.Credentials{Login: "ada", Password: another}, from(2))
	if err != nil || l.Grant == nil {
		t.Fatalf("the owner is asked for the stranger's factor: %+v, %v", l, err)
	}
	if w.mails(notify.TopicFactorRemoved, u.PublicID) != 1 || w.heard(u.PublicID, "mfa.removed") == 0 {
		t.Error("the removal is not on record")
	}
}

func TestRecoveryDoesNotTellWhoExists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u, off := w.register("ada"), w.register("off")
	if _, err := w.Disable(t.Context(), auth.Console(), off.PublicID); err != nil {
		t.Fatal(err)
	}
	for _, login := range []string{"ada", "nobody", "nobody@example.org", "off"} {
		if err := w.RequestRecovery(t.Context(), login, from(2)); err != nil {
			t.Errorf("%s: %v", login, err)
		}
	}
	if w.mails(auth.TopicRecovery, u.PublicID) != 1 || w.mails(auth.TopicRecovery, off.PublicID) != 0 {
		t.Error("mails went to the wrong people")
	}
	for range 8 { // more than the hour's share is dropped without a word
		if err := w.RequestRecovery(t.Context(), "ada", from(2)); err != nil {
			t.Error(err)
		}
	}
	if n := w.mails(auth.TopicRecovery, u.PublicID); n != 4 {
		t.Errorf("%d mails in an hour, want 4", n)
	}
	wantCode(t, w.ConfirmRecovery(t.Context(), "sut_made-up", another, from(2)), errs.Gone, "token_gone")
	token := w.mailed(auth.TopicRecovery)
	if _, err := w.Disable(t.Context(), auth.Console(), u.PublicID); err != nil {
		t.Fatal(err)
	}
	wantCode(t, w.ConfirmRecovery(t.Context(), token, another, from(2)), errs.Gone, "token_gone")
}

func TestDeletingOnesOwnAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	g := w.login("ada")
	p := w.principal(g)
	if err := w.DeleteAccount(t.Context(), p, from(1)); err != nil {
		t.Fatal(err)
	}
	w.refused(g)
	wantCode(t, w.DeleteAccount(t.Context(), p, from(1)), errs.Unauthenticated, "unauthenticated")
	if got := w.audit(u.PublicID); !slices.Contains(got, "user.deleted") || !slices.Contains(got, "session.revoked") {
		t.Errorf("audit trail %v", got)
	}
	var target string
	if err := w.db.QueryRow(t.Context(), `select target from outbox where topic = $1`, auth.TopicDeleted).Scan(&target); err != nil || target != "ada@example.org" {
		t.Errorf("farewell to %q, %v", target, err)
	}
	w.letter(auth.TopicDeleted)
	// Whose account is gone gets the answer of a session that is gone.
	_, exportErr := w.Export(t.Context(), p)
	_, patchErr := w.UpdateProfile(t.Context(), p, user.Profile{})
	_, enrollErr := w.EnrollTOTP(t.Context(), p, from(1))
	_, changeErr := w.ChangePassword(t.Context(), p, password, another, from(1))
	for _, err := range []error{exportErr, patchErr, enrollErr, changeErr} {
		wantCode(t, err, errs.Unauthenticated, "unauthenticated")
	}
}

func TestExportHoldsEverythingButSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	g := w.login("ada")
	f := w.enroll(g)
	name := "Ada L."
	p := w.principal(g)
	if v, err := w.UpdateProfile(t.Context(), p, user.Profile{DisplayName: &name}); err != nil || v.DisplayName != name {
		t.Fatalf("update profile: %+v, %v", v, err)
	}
	c := w.challenge("ada")
	_, err := w.Export(t.Context(), p)
	wantCode(t, err, errs.Forbidden, "aal_required") // with a factor, that must be fresh
	e, err := w.Export(t.Context(), w.principal(w.signIn("ada", f)))
	if err != nil {
		t.Fatal(err)
	}
	if e.Account.Email != "ada@example.org" || len(e.Sessions) != 2 || e.Truncated || !e.Factors.Enabled || len(e.Attempts) == 0 || e.Streams == nil {
		t.Errorf("export %+v", e)
	}
	if len(e.Audit) != len(w.audit(u.PublicID)) || e.Audit[0].Name != "user.created" {
		t.Errorf("audit trail of %d events, want %d", len(e.Audit), len(w.audit(u.PublicID)))
	}
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := w.users.PasswordHash(t.Context(), u.PublicID)
	if err != nil {
		t.Fatal(err)
	}
	for what, secret := range map[string]string{
		"password": password, "token": g.Token.Reveal(), "hash": stored.Reveal(), "TOTP secret": f.secret,
		"backup code": f.backup[0], "challenge": c.ID,
	} {
		if strings.Contains(string(text), secret) {
			t.Errorf("the export holds the %s", what)
		}
		if strings.Contains(w.logged.String(), secret) {
			t.Errorf("the log holds the %s", what)
		}
	}
	if strings.Contains(w.logged.String(), "example.org") {
		t.Error("the log holds an address")
	}
}

func TestLongTrailsAreExportedWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	p := w.principal(w.login("ada"))
	if _, err := w.db.Exec(t.Context(), `insert into events (shard, seq, aggregate_type, aggregate_id, version, name, user_id, at)
		select event_shard($1), (select max(seq) from events where shard = event_shard($1)) + n, 'user', $1,
			(select max(version) from events where aggregate_type = 'user' and aggregate_id = $1) + n, 'user.updated', $1,
			now() + (n / 100) * interval '1 second'
		from generate_series(1, 2500) n`, u.PublicID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.db.Exec(t.Context(), `insert into mfa_attempts (user_id, method, success, attempted_at)
		select $1, 'totp', false, now() from generate_series(1, 2500)`, u.ID); err != nil {
		t.Fatal(err)
	}
	e, err := w.ExportUser(t.Context(), auth.Console(), u.PublicID)
	if err != nil {
		t.Fatal(err)
	}
	var want int
	if err = w.db.QueryRow(t.Context(), `select count(*) from events where user_id = $1`, u.PublicID).Scan(&want); err != nil {
		t.Fatal(err)
	}
	if len(e.Audit) != want || len(e.Attempts) != 2500 || e.Truncated {
		t.Errorf("%d events and %d tries, truncated: %v; want %d and 2500", len(e.Audit), len(e.Attempts), e.Truncated, want)
	}
	// Their owner gets the newest, and is told so.
	own, err := w.Export(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if len(own.Audit) != 1000 || len(own.Attempts) != 1000 || !own.Truncated {
		t.Errorf("%d events and %d tries, truncated: %v; want 1000 of each", len(own.Audit), len(own.Attempts), own.Truncated)
	}
	if own.Audit[999].Version != e.Audit[want-1].Version {
		t.Errorf("the last event is version %d, want %d", own.Audit[999].Version, e.Audit[want-1].Version)
	}
}

func TestExportsAreFewAndFresh(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.register("ada")
	p := w.principal(w.login("ada"))
	w.clock.Advance(16 * time.Minute)
	_, err := w.Export(t.Context(), p)
	wantCode(t, err, errs.Forbidden, "aal_required")
	w.clock.Advance(-16 * time.Minute)
	refused := 0
	for range 11 {
		if _, err := w.Export(t.Context(), p); errors.Is(err, auth.ErrRateLimited) {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if refused != 1 {
		t.Errorf("%d of 11 exports in an hour were refused, want 1", refused)
	}
}

func TestVerificationIsMailedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	p := w.principal(w.login("ada"))
	if err := w.ResendVerification(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if n := w.mails(notify.TopicVerifyEmail, u.PublicID); n != 2 {
		t.Errorf("%d mails, want 2", n)
	}
}

func TestCleanup(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) { o.config.SweepEvery = 10 * time.Millisecond })
	w.register("ada")
	w.enroll(w.login("ada"))
	w.challenge("ada")
	kept := w.challenge("ada")
	token := w.mailed(notify.TopicVerifyEmail)
	for _, sql := range []string{
		`insert into auth_challenges (token_hash, purpose, user_id, expires_at)
			select sha256(n::text::bytea), 'login', u.id, now() - interval '2 days' from generate_series(1, 1200) n, users u`,
		`update user_tokens set expires_at = now() - interval '2 days'`,
	} {
		if _, err := w.db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	w.run(w.Run)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var challenges, tokens int
		err := w.db.QueryRow(t.Context(), `select (select count(*) from auth_challenges), (select count(*) from user_tokens)`).Scan(&challenges, &tokens)
		if err != nil {
			t.Fatal(err)
		}
		if challenges == 2 && tokens == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d challenges, %d tokens are left", challenges, tokens)
		}
	}
	wantCode(t, w.VerifyEmail(t.Context(), token, from(1)), errs.Gone, "token_gone")
	_, err := w.VerifyMFA(t.Context(), auth.MFAAnswer{ChallengeID: kept.ID, Method: mfa.TOTP, Code: "000000"}, from(1))
	wantCode(t, err, errs.Unauthenticated, "invalid_code")
}

// A mail that waits long may no longer be for anybody: it is given up.
func TestMootMailsAreGivenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	if err := w.RequestRecovery(t.Context(), "ada", from(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Disable(t.Context(), auth.Console(), u.PublicID); err != nil {
		t.Fatal(err)
	}
	_, err := w.render(auth.TopicRecovery)
	wantCode(t, err, errs.Gone, "mail_moot")
	if _, err = w.Enable(t.Context(), auth.Console(), u.PublicID); err != nil {
		t.Fatal(err)
	}
	if _, err = w.VerifyUser(t.Context(), auth.Console(), u.PublicID); err != nil {
		t.Fatal(err)
	}
	_, err = w.render(notify.TopicVerifyEmail)
	wantCode(t, err, errs.Gone, "mail_moot")
	if err = w.DeleteUser(t.Context(), auth.Console(), u.PublicID); err != nil {
		t.Fatal(err)
	}
	_, err = w.render(auth.TopicDisabled)
	wantCode(t, err, errs.Gone, "mail_moot")
}

// Everything that is mailed, through the sender and a real SMTP server.
func TestMailsArrive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	smtp := notifytest.NewSMTP(t, notifytest.Config{})
	sender, err := notify.New(w.db, notify.Config{
		Mail: notify.MailConfig{
			From: "no-reply@example.org", SMTP: notify.SMTPConfig{Host: smtp.Host, Port: smtp.Port, TLS: notify.TLSNone},
		},
		Renderers: auth.Renderers(w.users, w.sessions, auth.MailConfig{Product: "Stage"}),
		Poll:      20 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.run(sender.Run)
	w.register("ada")
	if err = w.RequestRecovery(t.Context(), "ada", from(1)); err != nil {
		t.Fatal(err)
	}
	tokens := map[string]string{}
	for _, m := range smtp.Wait(t, 2) {
		for line := range strings.Lines(m.Text()) {
			if strings.HasPrefix(line, "sut_") {
				tokens[m.Header("Subject")] = strings.TrimSpace(line)
			}
		}
		if m.To[0] != "ada@example.org" {
			t.Errorf("mail to %v", m.To)
		}
	}
	if err = w.VerifyEmail(t.Context(), tokens["Confirm your e-mail address for Stage"], from(1)); err != nil {
		t.Errorf("verify with %v: %v", tokens, err)
	}
	if err = w.ConfirmRecovery(t.Context(), tokens["Set a new password for Stage"], another, from(1)); err != nil {
		t.Errorf("recover with %v: %v", tokens, err)
	}
	var kept int
	err = w.db.QueryRow(t.Context(), `select count(*) from outbox where payload::text like '%sut_%' or payload::text like '%@%'`).Scan(&kept)
	if err != nil || kept != 0 {
		t.Errorf("%d rows of the outbox hold a token or an address, %v", kept, err)
	}
}
