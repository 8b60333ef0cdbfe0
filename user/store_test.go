package user_test

import (
	"encoding/json"
	"errors"
	"fmt"
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
			"Credentials": func() error { _, err := s.Credentials(t.Context(), login); return err },
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
	got, err := s.Credentials(t.Context(), "ADA@example.org")
	hash := got.Hash
	if diff := cmp.Diff(u, got.User); err != nil || diff != "" {
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
			if _, err := s.List(t.Context(), limit, p.NextCursor+"\n", f); err == nil {
				t.Error("a cursor with a line break was read")
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
