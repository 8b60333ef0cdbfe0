package user_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/user"
)

func TestCreateKeepsWhatWasGivenAndAppendsItsEvent(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	admin := uuid.New()
	u, err := create(t.Context(), s, db, user.New{
		Username: "Ada", Email: "Ada.L@Example.ORG", DisplayName: " Ada  Lovelace ", AvatarURL: "https://example.org/a.png",
		Role: user.RoleOperator, Verified: true, Actor: admin,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := user.User{
		ID: u.ID, PublicID: u.PublicID, Username: "Ada", Email: "Ada.L@example.org", DisplayName: "Ada  Lovelace",
		AvatarURL: "https://example.org/a.png", Role: user.RoleOperator, IsVerified: true, IsActive: true,
		CreatedAt: u.CreatedAt, UpdatedAt: u.UpdatedAt,
	}
	if diff := cmp.Diff(want, u); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if u.PublicID.Version() != 7 || time.Since(u.CreatedAt).Abs() > time.Minute || u.CreatedAt.Location() != time.UTC {
		t.Errorf("id %v, created %v", u.PublicID, u.CreatedAt)
	}
	for name, find := range map[string]func() (user.User, error){
		"public id": func() (user.User, error) { return s.ByPublicID(t.Context(), u.PublicID) },
		"id":        func() (user.User, error) { return s.ByID(t.Context(), u.ID) },
		"username":  func() (user.User, error) { return s.ByUsername(t.Context(), "aDA") },
		"e-mail":    func() (user.User, error) { return s.ByEmail(t.Context(), "ada.l@EXAMPLE.org") },
		"login":     func() (user.User, error) { return s.ByLogin(t.Context(), "ADA") },
	} {
		got, err := find()
		if diff := cmp.Diff(u, got); err != nil || diff != "" {
			t.Errorf("by %s: %v, -want +got:\n%s", name, err, diff)
		}
	}
	wantEvents := []string{`user.created {"role": "operator", "active": true, "verified": true} by ` + admin.String()}
	if diff := cmp.Diff(wantEvents, told(t, db, u.PublicID)); diff != "" {
		t.Errorf("events -want +got:\n%s", diff)
	}
}

func TestANameOrAddressIsTakenInAnyCase(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	mustCreate(t, s, db, "Ada")
	for name, tt := range map[string]struct {
		in   user.New
		want error
	}{
		"same name":        {user.New{Username: "Ada", Email: "b@example.org"}, user.ErrUsernameTaken},
		"name in capitals": {user.New{Username: "ADA", Email: "b@example.org"}, user.ErrUsernameTaken},
		"same address":     {user.New{Username: "bob", Email: "ada@example.org"}, user.ErrEmailTaken},
		"address in case":  {user.New{Username: "bob", Email: "ADA@Example.org"}, user.ErrEmailTaken},
		"both":             {user.New{Username: "ada", Email: "ada@example.org"}, user.ErrUsernameTaken},
	} {
		if _, err := create(t.Context(), s, db, tt.in); !errors.Is(err, tt.want) || errs.KindOf(err) != errs.Conflict {
			t.Errorf("%s: Create = %v, want %v", name, err, tt.want)
		}
	}
	if n := count(t, db, "select count(*) from events"); n != 1 {
		t.Errorf("%d events after one success", n)
	}
}

func TestATakenAddressLeavesTheTransactionUsable(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	mustCreate(t, s, db, "ada")
	inTx(t, db, func(tx *postgres.Tx) error {
		if _, err := s.Create(t.Context(), tx, user.New{Username: "bob", Email: "ada@example.org"}); !errors.Is(err, user.ErrEmailTaken) {
			t.Errorf("Create = %v", err)
		}
		_, err := s.Create(t.Context(), tx, user.New{Username: "bob", Email: "bob@example.org"})
		return err
	})
}

func TestOfManyWhoWantOneNameAtOnceExactlyOneGetsIt(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	const many = 40
	var won, name, email atomic.Int32
	var group sync.WaitGroup
	for i := range many {
		group.Go(func() {
			in := user.New{Username: "Ada", Email: fmt.Sprintf("ada%d@example.org", i)}
			if i%2 == 1 {
				in = user.New{Username: fmt.Sprintf("ada%d", i), Email: "one@example.org"}
			}
			if i%4 < 2 {
				in.Username, in.Email = strings.ToUpper(in.Username), strings.ToUpper(in.Email)
			}
			switch _, err := create(t.Context(), s, db, in); {
			case err == nil:
				won.Add(1)
			case errors.Is(err, user.ErrUsernameTaken):
				name.Add(1)
			case errors.Is(err, user.ErrEmailTaken):
				email.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	group.Wait()
	if won.Load() != 2 || name.Load() != many/2-1 || email.Load() != many/2-1 {
		t.Errorf("%d won, %d names taken, %d addresses taken", won.Load(), name.Load(), email.Load())
	}
}

func TestCreateRefusesWhatTheRulesRefuse(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	_, err := create(t.Context(), s, db, user.New{
		Username: "a b", Email: "x", DisplayName: "\x00", AvatarURL: "x", Role: "king", PasswordHash: "plain", CreatedAt: time.Unix(-1e10, 0),
	})
	var fields []string
	for _, f := range errs.FieldsOf(err) {
		fields = append(fields, f.Field)
	}
	want := []string{"username", "email", "display_name", "avatar_url", "role", "password_hash", "created_at"}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Errorf("%v: -want +got:\n%s", err, diff)
	}
	if n := count(t, db, "select count(*) from users"); n != 0 {
		t.Errorf("%d rows written", n)
	}
}

func TestNobodyIsFoundForNonsense(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	mustCreate(t, s, db, "ada")
	for _, login := range []string{"", "bob", "ada\x00", "\xff\xfe", "' or 1=1 --", "%", "ad_", strings.Repeat("a", 1<<20)} {
		for name, find := range map[string]func() error{
			"ByLogin":     func() error { _, err := s.ByLogin(t.Context(), login); return err },
			"ByUsername":  func() error { _, err := s.ByUsername(t.Context(), login); return err },
			"ByEmail":     func() error { _, err := s.ByEmail(t.Context(), login); return err },
			"Credentials": func() error { _, _, err := s.Credentials(t.Context(), login); return err },
		} {
			if err := find(); !errors.Is(err, user.ErrNotFound) {
				t.Errorf("%s(%.20q) = %v", name, login, err)
			}
		}
	}
	if _, err := s.ByPublicID(t.Context(), uuid.New()); !errors.Is(err, user.ErrNotFound) {
		t.Errorf("ByPublicID = %v", err)
	}
	if _, err := s.PasswordHash(t.Context(), uuid.New()); !errors.Is(err, user.ErrNotFound) {
		t.Errorf("PasswordHash = %v", err)
	}
}

func TestCredentialsComeWithTheHashAndNothingElseDoes(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	h := newHasher(t, user.HasherConfig{Cost: quick})
	u, err := create(t.Context(), s, db, user.New{Username: "ada", Email: "ada@example.org", PasswordHash: mustHash(t, h, "wet socks")})
	if err != nil {
		t.Fatal(err)
	}
	got, hash, err := s.Credentials(t.Context(), "ADA@example.org")
	if diff := cmp.Diff(u, got); err != nil || diff != "" {
		t.Fatalf("Credentials: %v\n%s", err, diff)
	}
	if !verdict(t, h, hash.Reveal(), "wet socks").OK {
		t.Error("the hash does not fit")
	}
	same, err := s.PasswordHash(t.Context(), u.PublicID)
	if err != nil || !same.Equal(hash) {
		t.Errorf("PasswordHash = %v", err)
	}
	text, err := json.Marshal(got)
	if err != nil || strings.Contains(string(text), "argon2") || strings.Contains(fmt.Sprintf("%+v %#v", got, hash), "argon2") {
		t.Errorf("a hash is printed: %s, %v", text, err)
	}
}

func TestPitfall36RowIdsStayInside(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	u := mustCreate(t, s, db, "ada")
	text, err := json.Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	var keys map[string]any
	if err := json.Unmarshal(text, &keys); err != nil {
		t.Fatal(err)
	}
	if keys["id"] != u.PublicID.String() || keys["ID"] != nil {
		t.Errorf("JSON of a user: %s", text)
	}
}

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
		`user.updated {"fields": ["display_name"]}`, `user.updated {"fields": ["avatar_url"]}`, `user.updated {"fields": ["display_name", "avatar_url"]}`,
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
	if last := events[len(events)-1]; last != `user.updated {"fields": ["email"]}` {
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

func TestAListIsReadPageByPageInOneOrder(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	var want []string
	for i := range 7 {
		want = append(want, mustCreate(t, s, db, fmt.Sprintf("user%d", i)).Username)
	}
	inTx(t, db, func(tx *postgres.Tx) error {
		u, err := s.ByUsername(t.Context(), "user3")
		if err == nil {
			_, err = s.SetActive(t.Context(), tx, u.PublicID, false, uuid.Nil)
		}
		return err
	})
	read := func(limit int, f user.Filter) (got []string, pages int) {
		for cursor := ""; ; {
			p, err := s.List(t.Context(), limit, cursor, f)
			if err != nil {
				t.Fatal(err)
			}
			pages++
			for _, u := range p.Items {
				got = append(got, u.Username)
			}
			if cursor = p.NextCursor; cursor == "" {
				return got, pages
			}
		}
	}
	for limit, pages := range map[int]int{1: 7, 3: 3, 7: 1, 200: 1, 0: 1} {
		got, n := read(limit, user.Filter{})
		if diff := cmp.Diff(want, got); diff != "" || n != pages {
			t.Errorf("limit %d: %d pages, -want +got:\n%s", limit, n, diff)
		}
	}
	yes, no := true, false
	for name, tt := range map[string]struct {
		f    user.Filter
		want []string
	}{
		"inactive": {user.Filter{Active: &no}, []string{"user3"}},
		"verified": {user.Filter{Verified: &yes}, nil},
		"role":     {user.Filter{Role: user.RoleAdmin}, nil},
		"search":   {user.Filter{Search: "SER2@"}, []string{"user2"}},
		"pattern":  {user.Filter{Search: "user_"}, nil},
		"both":     {user.Filter{Active: &yes, Search: "user3"}, nil},
	} {
		if got, _ := read(2, tt.f); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestAListRefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	for _, limit := range []int{-1, 201} {
		_, err := s.List(t.Context(), limit, "no cursor", user.Filter{Role: "king", Search: "\x00"})
		if len(errs.FieldsOf(err)) != 4 {
			t.Errorf("List(%d) = %v", limit, err)
		}
	}
}

func TestRolesAreOrdered(t *testing.T) {
	t.Parallel()
	order := []user.Role{user.RoleUser, user.RoleOperator, user.RoleAdmin}
	for i, a := range order {
		for j, b := range order {
			if a.AtLeast(b) != (i >= j) {
				t.Errorf("%s.AtLeast(%s) = %v", a, b, a.AtLeast(b))
			}
		}
		if a.AtLeast("") || user.Role("").AtLeast(a) || user.Role("king").AtLeast("king") {
			t.Errorf("an unknown role compares with %s", a)
		}
	}
}
