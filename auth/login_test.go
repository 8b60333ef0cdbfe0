package auth_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"rootstream/auth"
	"rootstream/errs"
	"rootstream/mfa"
	"rootstream/notify"
	"rootstream/postgres"
	"rootstream/session"
	"rootstream/user"
)

func TestSigningUpInAndOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	if u.IsVerified || u.Role != user.RoleUser || w.mails(notify.TopicVerifyEmail, u.PublicID) != 1 {
		t.Errorf("a new account: %+v", u)
	}
	token := w.mailed(notify.TopicVerifyEmail)
	if err := w.VerifyEmail(t.Context(), token, from(1)); err != nil {
		t.Fatal(err)
	}
	wantCode(t, w.VerifyEmail(t.Context(), token, from(1)), errs.Gone, "token_gone")
	g := w.login("ADA@example.org")
	p := w.principal(g)
	if !p.Verified || p.UserID != u.PublicID || p.AAL != 1 || !slices.Equal(g.Session.AMR, []string{"pwd"}) {
		t.Errorf("session %+v of %+v", g.Session, p)
	}
	if g.User.LastLoginAt == nil || g.Session.Device.ID == "" {
		t.Errorf("grant %+v", g)
	}
	next, err := w.Refresh(t.Context(), g.Token.Reveal(), from(2))
	if err != nil {
		t.Fatal(err)
	}
	if next.Token.Equal(g.Token) || next.Session.ID != g.Session.ID {
		t.Error("refresh must give the same session another token")
	}
	if err := w.Logout(t.Context(), next.Token.Reveal()); err != nil {
		t.Fatal(err)
	}
	w.refused(next)
	w.refused(g)
	wantCode(t, w.Logout(t.Context(), next.Token.Reveal()), errs.Unauthenticated, "unauthenticated")
	want := []string{"user.created", "user.verified", "session.created", "user.login_succeeded", "session.refreshed", "session.revoked"}
	if got := w.audit(u.PublicID); !slices.Equal(got, want) {
		t.Errorf("audit trail %v, want %v", got, want)
	}
}

func TestRegisteringATakenAddressLooksLikeSuccess(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	owner := w.register("ada")
	fake, err := w.Register(t.Context(), auth.Registration{Username: "eve", Email: "ADA@Example.org", Password: password}, from(2))
	if err != nil {
		t.Fatal(err)
	}
	if fake.PublicID == uuid.Nil || fake.PublicID.Version() != 7 || fake.Username != "eve" || fake.Email != "ADA@example.org" ||
		fake.Role != user.RoleUser || !fake.IsActive || fake.CreatedAt.IsZero() || fake.CreatedAt.Location() != time.UTC {
		t.Errorf("the made-up answer %+v gives itself away", fake)
	}
	if _, err = w.users.ByPublicID(t.Context(), fake.PublicID); !errors.Is(err, user.ErrNotFound) {
		t.Errorf("an account was made: %v", err)
	}
	if n := w.mails(notify.TopicRegisterAttempt, owner.PublicID); n != 1 {
		t.Errorf("%d mails to the owner, want 1", n)
	}
	if to, text := w.letter(notify.TopicRegisterAttempt); to != "ada@example.org" || strings.Contains(text, "eve") {
		t.Errorf("mail to %s:\n%s", to, text)
	}
	for range 10 { // strangers cannot fill the owner's mailbox
		if _, err = w.Register(t.Context(), auth.Registration{Username: "eve", Email: "ada@example.org", Password: password}, from(2)); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.mails(notify.TopicRegisterAttempt, owner.PublicID); n != 4 {
		t.Errorf("%d mails to the owner, want 4", n)
	}
	_, err = w.Register(t.Context(), auth.Registration{Username: "Ada", Email: "other@example.org", Password: password}, from(2))
	wantCode(t, err, errs.Conflict, "username_taken")
	_, err = w.Register(t.Context(), auth.Registration{Username: "x", Email: "y", Password: "z"}, from(2))
	if len(errs.FieldsOf(err)) != 3 {
		t.Errorf("faults %v, want three", errs.FieldsOf(err))
	}
}

// Both kinds of account are slowed down after the same number of failures.
// The work itself is compared, not the clock: a failed sign-in costs the same
// statements and one committed transaction, whoever it is for.
// statements counts what a database was asked, by the first word.
func TestPitfall31RehashWhenParametersGrew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	w.weaken(u)
	w.login("ada")
	stored, err := w.users.PasswordHash(t.Context(), u.PublicID)
	if err != nil {
		t.Fatal(err)
	}
	v, err := w.hasher.Verify(t.Context(), stored.Reveal(), password)
	if err != nil || !v.OK || v.NeedsRehash {
		t.Errorf("after a sign-in: %+v, %v", v, err)
	}
	w.login("ada")
}

// weaken stores the password as an older version would have hashed it.
func (w *world) weaken(u user.User) {
	w.t.Helper()
	weak, err := user.NewHasher(user.HasherConfig{Cost: user.Argon2{MemoryKiB: 32, Time: 1, Parallelism: 1}})
	if err != nil {
		w.t.Fatal(err)
	}
	hash, err := weak.Hash(w.t.Context(), password)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err = w.db.Exec(w.t.Context(), `update users set password_hash = $2 where public_id = $1`, u.PublicID, hash); err != nil {
		w.t.Fatal(err)
	}
}

// lockWaits waits until n statements wait for a lock.
func (w *world) lockWaits(n int) {
	w.t.Helper()
	for ctx, waiting := w.t.Context(), 0; waiting < n; {
		if err := w.db.QueryRow(ctx, `select count(*) from pg_stat_activity
			where wait_event_type = 'Lock' and datname = current_database()`).Scan(&waiting); err != nil {
			w.t.Fatal(err)
		}
	}
}

// Sign-ins that find an old hash at once all replace it; only one can, and the others are right as well.
func TestParallelSignInsRehashAndAllSucceed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	plain, strong := w.register("ada"), w.register("bob")
	f := w.enroll(w.login("bob"))
	for _, u := range []user.User{plain, strong} {
		w.weaken(u)
		const many = 3
		answers := make(chan auth.Login, many)
		var all sync.WaitGroup
		err := w.db.InTx(t.Context(), func(tx *postgres.Tx) error { // until all have read and proven the old hash
			_, err := tx.Exec(t.Context(), `select from users where id = $1 for update`, u.ID)
			for range many {
				all.Go(func() {
					l, failure := w.Login(t.Context(), auth.Credentials{Login: u.Username, Password: password}, from(1))
					if failure != nil {
						t.Errorf("%s: %v", u.Username, failure)
					}
					answers <- l
				})
			}
			w.lockWaits(many)
			return err
		})
		all.Wait()
		if err != nil {
			t.Fatal(err)
		}
		close(answers)
		for l := range answers {
			if l.Challenge == nil {
				continue
			}
			if _, err := w.VerifyMFA(t.Context(), auth.MFAAnswer{ChallengeID: l.Challenge.ID, Method: mfa.TOTP, Code: f.next()}, from(1)); err != nil {
				t.Errorf("the challenge of %s: %v", u.Username, err)
			}
		}
	}
}

func TestHundredParallelLoginsNeverPassTheSessionLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) { o.session.MaxSessions = 3 })
	u := w.register("ada")
	stop := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			if n, err := w.sessions.Count(t.Context(), u.ID); err != nil || n > 3 {
				t.Errorf("%d sessions live: %v", n, err)
			}
		}
	})
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if _, err := w.Login(t.Context(), auth.Credentials{Login: "ada", Password: password}, from(1)); err != nil {
				t.Errorf("login: %v", err)
			}
		})
	}
	wg.Wait()
	close(stop)
	watcher.Wait()
	if n, err := w.sessions.Count(t.Context(), u.ID); err != nil || n != 3 {
		t.Errorf("%d sessions live in the end, want 3: %v", n, err)
	}
}

func TestSessionsBelongToTheClassOfTheRole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for role, class := range map[user.Role]string{
		user.RoleUser: session.ClassUser, user.RoleOperator: session.ClassCreator, user.RoleAdmin: session.ClassAdmin,
	} {
		name := "the-" + string(role)
		u := w.register(name)
		if _, err := w.SetRole(t.Context(), auth.Console(), u.PublicID, role); err != nil {
			t.Fatal(err)
		}
		l, err := w.Login(t.Context(), auth.Credentials{Login: name, Password: password, Remember: true, DeviceName: "Desk"}, from(1))
		if err != nil {
			t.Fatal(err)
		}
		s := l.Grant.Session
		if s.Class != class || s.Remembered != (role == user.RoleUser) || s.Device.Name != "Desk" {
			t.Errorf("%s got %+v", role, s)
		}
	}
}

// A password that changes between its check and the session it was checked
// for lets nobody in.
func TestPasswordChangedDuringSignInLetsNobodyIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	held, hold := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- w.db.InTx(t.Context(), func(tx *postgres.Tx) error {
			hash, err := w.hasher.Hash(t.Context(), "another good password")
			if err != nil {
				return err
			}
			err = w.users.SetPassword(t.Context(), tx, u.PublicID, hash, uuid.Nil)
			close(held)
			<-hold
			return err
		})
	}()
	<-held
	answer := make(chan error, 1)
	go func() {
		_, err := w.Login(t.Context(), auth.Credentials{Login: "ada", Password: password}, from(1))
		answer <- err
	}()
	time.Sleep(200 * time.Millisecond) // the sign-in now waits for the account's row
	close(hold)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantCode(t, <-answer, errs.Unauthenticated, "invalid_credentials")
	if n, err := w.sessions.Count(t.Context(), u.ID); n != 0 || err != nil {
		t.Errorf("%d sessions, %v", n, err)
	}
}

func TestPitfall15TokensAreNewAtEveryStep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.register("ada")
	a, b := w.login("ada"), w.login("ada")
	if a.Token.Equal(b.Token) || a.Session.ID == b.Session.ID {
		t.Error("two sign-ins share a session")
	}
	f := w.enroll(a)
	up, err := w.Reauthenticate(t.Context(), w.principal(a), auth.Proof{Code: f.next()}, from(1))
	if err != nil {
		t.Fatal(err)
	}
	if up.Token.Equal(a.Token) || up.Session.ID != a.Session.ID || up.Session.AAL != 2 {
		t.Errorf("step-up gave %+v", up.Session)
	}
	w.refused(a)
	w.principal(up)
}

func TestReusedTokenEndsTheSessionAndTellsTheOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	g := w.login("ada")
	next, err := w.Refresh(t.Context(), g.Token.Reveal(), from(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err = w.db.Exec(t.Context(), `update session_retired_tokens set retired_at = now() - interval '1 minute', valid_until = now() - interval '50 seconds'`); err != nil {
		t.Fatal(err)
	}
	_, err = w.Refresh(t.Context(), g.Token.Reveal(), from(1))
	wantCode(t, err, errs.Unauthenticated, "unauthenticated")
	w.refused(next)
	if w.mails(notify.TopicTokenReused, u.PublicID) != 1 {
		t.Error("the owner was not told")
	}
}

func TestACrowdOfSignInsLeavesTheDatabaseToOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) { o.still = true })
	locked, unlock := make(chan struct{}), make(chan struct{})
	var crowd sync.WaitGroup
	crowd.Go(func() {
		err := w.db.InTx(t.Context(), func(tx *postgres.Tx) error {
			_, err := tx.Exec(t.Context(), "lock table users in access exclusive mode")
			close(locked)
			<-unlock
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-locked
	for i := range 30 {
		crowd.Go(func() {
			_, err := w.Login(t.Context(), auth.Credentials{Login: fmt.Sprint("nobody", i), Password: "wrong"}, from(byte(i)))
			if !errors.Is(err, auth.ErrInvalidCredentials) {
				t.Errorf("sign-in %d: %v", i, err)
			}
		})
	}
	for full := 0; full < 40 && !t.Failed(); { // looks that found the door full; without one all connections wait within the first few
		var waiting int
		if err := w.db.QueryRow(t.Context(), `select count(*) from pg_locks where relation = 'users'::regclass and not granted
			and database = (select oid from pg_database where datname = current_database())`).Scan(&waiting); err != nil { // those of other tests have the same numbers
			t.Error(err)
		}
		if waiting > 4 {
			t.Errorf("%d sign-ins hold connections", waiting)
		}
		if waiting == 4 {
			full++
		}
		time.Sleep(5 * time.Millisecond)
	}
	close(unlock)
	crowd.Wait()
}
