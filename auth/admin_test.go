package auth_test

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"rootstream/auth"
	"rootstream/errs"
	"rootstream/event"
	"rootstream/mfa"
	"rootstream/session"
	"rootstream/user"
)

func TestAdministering(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root, err := w.CreateUser(t.Context(), auth.Console(), auth.Account{
		Registration: auth.Registration{Username: "root", Email: "root@example.org", Password: password}, Role: user.RoleAdmin, Verified: true,
	})
	if err != nil || root.Role != user.RoleAdmin || !root.IsVerified {
		t.Fatalf("create: %+v, %v", root, err)
	}
	by := w.principal(w.login("root")).Actor()
	u := w.register("ada")
	g := w.login("ada")
	f := w.enroll(g)

	if v, roleErr := w.SetRole(t.Context(), by, u.PublicID, user.RoleOperator); roleErr != nil || v.Role != user.RoleOperator {
		t.Fatalf("set role: %+v, %v", v, roleErr)
	}
	w.refused(g) // it would live longer than an operator's may
	g = w.signIn("ada", f)
	if p := w.principal(g); p.Role != session.RoleOperator {
		t.Errorf("the new session is of %v", p.Role)
	}
	if v, verifyErr := w.VerifyUser(t.Context(), by, u.PublicID); verifyErr != nil || !v.IsVerified {
		t.Errorf("verify: %+v, %v", v, verifyErr)
	}
	if n, revokeErr := w.RevokeSessions(t.Context(), by, u.PublicID); revokeErr != nil || n != 1 {
		t.Errorf("revoke: %d, %v", n, revokeErr)
	}
	w.refused(g)
	g = w.signIn("ada", f)
	if v, roleErr := w.SetRole(t.Context(), by, u.PublicID, user.RoleUser); roleErr != nil || v.Role != user.RoleUser {
		t.Fatalf("set role: %+v, %v", v, roleErr)
	}
	if p := w.principal(g); p.Role != session.RoleUser {
		t.Errorf("with less to do the session goes on as %v", p.Role)
	}
	if err = w.ResetMFA(t.Context(), by, u.PublicID); err != nil {
		t.Fatal(err)
	}
	w.refused(g)
	g = w.login("ada")
	if v, disableErr := w.Disable(t.Context(), by, u.PublicID); disableErr != nil || v.IsActive {
		t.Fatalf("disable: %+v, %v", v, disableErr)
	}
	w.refused(g)
	if w.mails(auth.TopicDisabled, u.PublicID) != 1 {
		t.Error("the owner was not told")
	}
	if v, enableErr := w.Enable(t.Context(), by, u.PublicID); enableErr != nil || !v.IsActive {
		t.Fatalf("enable: %+v, %v", v, enableErr)
	}
	w.refused(g)
	g = w.login("ada")
	if err = w.DeleteUser(t.Context(), by, u.PublicID); err != nil {
		t.Fatal(err)
	}
	w.refused(g)
	all, err := event.NewStore(w.db).Audit(t.Context(), u.PublicID, event.Position{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"user.role_changed", "user.disabled", "user.enabled", "user.deleted", "user.verified", "mfa.removed"} {
		i := slices.IndexFunc(all, func(e event.Event) bool { return e.Name == name })
		if i < 0 || all[i].ActorID == nil || *all[i].ActorID != root.PublicID {
			t.Errorf("%s: not on record with its actor: %v", name, w.audit(u.PublicID))
		}
	}
	if w.heard(u.PublicID, "session.created") != w.heard(u.PublicID, "session.revoked") {
		t.Errorf("a session's end is not on record: %v", w.audit(u.PublicID))
	}
	if _, err := w.Enable(t.Context(), by, u.PublicID); !errors.Is(err, user.ErrNotFound) {
		t.Errorf("a deleted account: %v", err)
	}
}

func TestOnlyAdministratorsAdminister(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	operator := auth.Principal{View: session.View{UserID: uuid.New(), Role: session.RoleOperator}}.Actor()
	for _, by := range []auth.Actor{{}, operator, w.principal(w.login("ada")).Actor()} {
		ctx, id := t.Context(), u.PublicID
		_, create := w.CreateUser(ctx, by, auth.Account{})
		_, role := w.SetRole(ctx, by, id, user.RoleAdmin)
		_, disable := w.Disable(ctx, by, id)
		_, enable := w.Enable(ctx, by, id)
		_, verify := w.VerifyUser(ctx, by, id)
		_, revoke := w.RevokeSessions(ctx, by, id)
		for i, err := range []error{
			create, role, disable, enable, verify, revoke,
			w.DeleteUser(ctx, by, id), w.ResetMFA(ctx, by, id), w.ResumeMFA(ctx, by, id),
		} {
			if !errors.Is(err, auth.ErrRoleRequired) {
				t.Errorf("act %d: %v", i, err)
			}
		}
	}
	if v, err := w.users.ByPublicID(t.Context(), u.PublicID); err != nil || v.Role != user.RoleUser || v.IsVerified {
		t.Errorf("something happened: %+v, %v", v, err)
	}
}

// A cache may believe in a role for a moment longer than the database.
func TestWhoIsNoAdministratorAnyMoreDoesNotTakeTheRoleBack(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(w *world, id uuid.UUID) error{
		"demoted": func(w *world, id uuid.UUID) error {
			_, err := w.SetRole(t.Context(), auth.Console(), id, user.RoleUser)
			return err
		},
		"disabled": func(w *world, id uuid.UUID) error { _, err := w.Disable(t.Context(), auth.Console(), id); return err },
		"deleted":  func(w *world, id uuid.UUID) error { return w.DeleteUser(t.Context(), auth.Console(), id) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			for _, admin := range []string{"root", "eve"} {
				if _, err := w.SetRole(t.Context(), auth.Console(), w.register(admin).PublicID, user.RoleAdmin); err != nil {
					t.Fatal(err)
				}
			}
			p := w.principal(w.login("eve"))
			if err := end(w, p.UserID); err != nil {
				t.Fatal(err)
			}
			other := w.register("ada")
			_, back := w.SetRole(t.Context(), p.Actor(), p.UserID, user.RoleAdmin)
			_, friend := w.SetRole(t.Context(), p.Actor(), other.PublicID, user.RoleAdmin)
			_, made := w.CreateUser(t.Context(), p.Actor(), auth.Account{
				Registration: auth.Registration{Username: "eve2", Email: "eve2@example.org", Password: password}, Role: user.RoleAdmin,
			})
			for i, err := range []error{back, friend, made} {
				if !errors.Is(err, auth.ErrRoleRequired) {
					t.Errorf("act %d: %v", i, err)
				}
			}
		})
	}
}

func TestTheLastAdministratorStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ids := make([]uuid.UUID, 4)
	for i := range ids {
		u := w.register("admin-" + string(rune('a'+i)))
		ids[i] = u.PublicID
		if _, err := w.SetRole(t.Context(), auth.Console(), u.PublicID, user.RoleAdmin); err != nil {
			t.Fatal(err)
		}
	}
	last := w.principal(w.login("admin-d"))
	var refused atomic.Int32
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() {
			var err error
			switch i {
			case 0:
				_, err = w.SetRole(t.Context(), auth.Console(), id, user.RoleUser)
			case 1:
				_, err = w.Disable(t.Context(), auth.Console(), id)
			case 2:
				err = w.DeleteUser(t.Context(), auth.Console(), id)
			case 3:
				err = w.DeleteAccount(t.Context(), last, from(1))
			}
			if errors.Is(err, auth.ErrLastAdmin) {
				refused.Add(1)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if refused.Load() != 1 {
		t.Errorf("%d of 4 were refused, want 1", refused.Load())
	}
}

func TestTheFirstAdministrator(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stale, err := w.IssueSetupToken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	token, err := w.IssueSetupToken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	boot := func(token, name string) error {
		_, failure := w.BootstrapAdmin(t.Context(), token, auth.Registration{Username: name, Email: name + "@example.org", Password: password}, from(1))
		return failure
	}
	wantCode(t, boot(stale.Reveal(), "eve"), errs.Gone, "token_gone")
	wantCode(t, boot("", "eve"), errs.Gone, "token_gone")
	if err = boot(token.Reveal(), "x"); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a bad name: %v", err)
	}
	w.register("taken")
	wantCode(t, boot(token.Reveal(), "taken"), errs.Conflict, "username_taken") // and the token stays good
	var made atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			switch failure := boot(token.Reveal(), "boss-"+string(rune('a'+i))); {
			case failure == nil:
				made.Add(1)
			case errs.KindOf(failure) != errs.Gone && errs.KindOf(failure) != errs.Conflict:
				t.Error(failure)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Errorf("%d administrators were made, want 1", made.Load())
	}
	_, err = w.IssueSetupToken(t.Context())
	wantCode(t, err, errs.Conflict, "admin_exists")
	if _, err := w.db.Exec(t.Context(), `update user_tokens set consumed_at = null`); err != nil {
		t.Fatal(err)
	}
	wantCode(t, boot(token.Reveal(), "eve"), errs.Conflict, "admin_exists")
}

func TestOwnSessions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.register("ada")
	w.register("bob")
	grants := []auth.Grant{w.login("ada"), w.login("ada"), w.login("ada"), w.login("ada")}
	p, stranger := w.principal(grants[0]), w.principal(w.login("bob"))
	id := grants[1].Session.ID
	if s, err := w.RenameSession(t.Context(), p, id, "Kitchen"); err != nil || s.Device.Name != "Kitchen" {
		t.Errorf("rename: %+v, %v", s, err)
	}
	// Sessions of others are as if they were not (pitfall 36).
	_, err := w.RenameSession(t.Context(), stranger, id, "Mine")
	wantCode(t, err, errs.NotFound, "session_not_found")
	wantCode(t, w.RevokeSession(t.Context(), stranger, id), errs.NotFound, "session_not_found")
	wantCode(t, w.EndSession(t.Context(), stranger.Actor(), id), errs.Forbidden, "role_required")
	if err = w.RevokeSession(t.Context(), p, id); err != nil {
		t.Fatal(err)
	}
	w.refused(grants[1])
	if err = w.EndSession(t.Context(), auth.Console(), grants[2].Session.ID); err != nil {
		t.Fatal(err)
	}
	w.refused(grants[2])
	if s, readErr := w.Session(t.Context(), grants[2].Session.ID); readErr != nil || s.Active {
		t.Errorf("an ended session: %+v, %v", s, readErr)
	}
	if n, revokeErr := w.RevokeOtherSessions(t.Context(), p); revokeErr != nil || n != 1 {
		t.Errorf("others: %d, %v", n, revokeErr)
	}
	w.refused(grants[3])
	w.principal(grants[0])
	w.enroll(grants[0])
	begun := w.challenge("ada")
	if n, revokeErr := w.RevokeAllSessions(t.Context(), p); revokeErr != nil || n != 1 {
		t.Errorf("all: %d, %v", n, revokeErr)
	}
	w.refused(grants[0])
	_, err = w.VerifyMFA(t.Context(), auth.MFAAnswer{ChallengeID: begun.ID, Method: mfa.TOTP, Code: "000000"}, from(1))
	wantCode(t, err, errs.Gone, "challenge_gone")
}

func TestExportForAnAdministrator(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	if e, err := w.ExportUser(t.Context(), auth.Console(), u.PublicID); err != nil || e.Account.PublicID != u.PublicID {
		t.Errorf("export: %+v, %v", e, err)
	}
	_, err := w.ExportUser(t.Context(), auth.Actor{}, u.PublicID)
	wantCode(t, err, errs.Forbidden, "role_required")
	_, err = w.ExportUser(t.Context(), auth.Console(), uuid.New())
	wantCode(t, err, errs.NotFound, "user_not_found")
}
