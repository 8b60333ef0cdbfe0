package user_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"rootstream/postgres"
	"rootstream/user"
)

func TestRowsOfAnOldWriterAreReadAsTheyAre(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	id := legacyInsert(t, db, "Ärger & Söhne", "boss@Example.org", "md5:5f4dcc3b5aa765d61d8327deb882cf99")
	if _, err := db.Exec(t.Context(), `update users set is_verified = null, is_active = null, display_name = null,
		created_at = null where id = $1`, id); err != nil {
		t.Fatal(err)
	}
	u, err := s.ByLogin(t.Context(), "Ärger & Söhne")
	if err != nil || u.ID != id || u.Email != "boss@Example.org" || u.IsActive || u.IsVerified || u.Role != user.RoleUser {
		t.Errorf("%+v, %v", u, err)
	}
	inTx(t, db, func(tx *postgres.Tx) error {
		_, failed := s.SetActive(t.Context(), tx, u.PublicID, true, uuid.Nil)
		return failed
	})
	// Nobody knows what that hash is: it never verifies, it never fails, and it can be replaced.
	hash, err := s.PasswordHash(t.Context(), u.PublicID)
	if err != nil {
		t.Fatal(err)
	}
	h := newHasher(t, user.HasherConfig{Cost: quick})
	for _, password := range []string{"password", hash.Reveal(), ""} {
		if verdict(t, h, hash.Reveal(), password).OK {
			t.Errorf("a placeholder hash opened for %q", password)
		}
	}
	fresh := mustHash(t, h, "wet socks on tuesday")
	inTx(t, db, func(tx *postgres.Tx) error { return s.SetPassword(t.Context(), tx, u.PublicID, fresh, uuid.Nil) })
}

func TestNamesThatDifferOnlyByCaseAnswerToTheirExactSpelling(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	first := legacyInsert(t, db, "Ada", "ada@example.org", "x")
	second := legacyInsert(t, db, "ada", "Ada@Example.org", "x")
	third := legacyInsert(t, db, "ADA", "other@example.org", "x")
	for login, want := range map[string]int64{
		"Ada": first, "ada": second, "ADA": third, "aDa": first,
		"ada@example.org": first, "Ada@Example.org": second, "ADA@EXAMPLE.ORG": first, "other@example.org": third,
	} {
		if u, err := s.ByLogin(t.Context(), login); err != nil || u.ID != want {
			t.Errorf("ByLogin(%s) = %d, %v, want %d", login, u.ID, err, want)
		}
		if u, err := s.Credentials(t.Context(), login); err != nil || u.ID != want {
			t.Errorf("Credentials(%s) = %d, %v, want %d", login, u.ID, err, want)
		}
	}
	// The third is a duplicate by its name, so its address answers to exact spelling alone.
	if u, err := s.ByLogin(t.Context(), "OTHER@example.org"); !errors.Is(err, user.ErrNotFound) {
		t.Errorf("ByLogin = %+v, %v", u, err)
	}
	if u, err := s.ByUsername(t.Context(), "ADA"); err != nil || u.ID != third {
		t.Errorf("ByUsername = %+v, %v", u, err)
	}
	if u, err := s.ByEmail(t.Context(), "Ada@Example.org"); err != nil || u.ID != second {
		t.Errorf("ByEmail = %+v, %v", u, err)
	}
}

func TestADuplicatesNameIsTakenEvenWithItsOwnerGone(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	first := legacyInsert(t, db, "Ada", "ada@example.org", "x")
	legacyInsert(t, db, "ADA", "other@example.org", "x")
	u, err := s.ByID(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	inTx(t, db, func(tx *postgres.Tx) error { return s.Delete(t.Context(), tx, u.PublicID, uuid.Nil) })
	if _, err := create(t.Context(), s, db, user.New{Username: "ada", Email: "new@example.org"}); !errors.Is(err, user.ErrUsernameTaken) {
		t.Errorf("Create = %v", err)
	}
	if _, err := create(t.Context(), s, db, user.New{Username: "new", Email: "Other@example.org"}); !errors.Is(err, user.ErrEmailTaken) {
		t.Errorf("Create = %v", err)
	}
}

func TestAnOldWriterMeetsOurNamesByExactSpelling(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	mustCreate(t, s, db, "ada")
	legacyInsert(t, db, "ADA", "second@example.org", "x")
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		if _, err := tx.Exec(t.Context(), "select set_config('rootstream.writer', '', true)"); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), "insert into users (username, email, password_hash) values ('ada', 'third@example.org', 'x')")
		return err
	})
	if !postgres.UniqueViolation(err, "users") {
		t.Errorf("a second ada: %v", err)
	}
}

func TestDuplicatesAreReportedUntilTheyAreResolved(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	first := legacyInsert(t, db, "ada", "ada@example.org", "x")
	second := legacyInsert(t, db, "bob", "ADA@example.org", "x")
	a, errA := s.ByID(t.Context(), first)
	b, errB := s.ByID(t.Context(), second)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	if a.IsCaseDuplicate || !b.IsCaseDuplicate {
		t.Errorf("first %v, second %v", a.IsCaseDuplicate, b.IsCaseDuplicate)
	}
	if _, err := db.Exec(t.Context(), `insert into adoption_findings (kind, found_in, row_id, detail, found_at)
		values ('case_duplicate', 'users', $1, 'x', '2020-02-02 00:00Z')`, second); err != nil {
		t.Fatal(err)
	}
	found, err := s.LegacyFindings(t.Context())
	want := []user.Finding{{
		Kind: "case_duplicate", UserID: b.PublicID, Username: "bob", Email: "ADA@example.org", Others: []uuid.UUID{a.PublicID},
		FoundAt: time.Date(2020, 2, 2, 0, 0, 0, 0, time.UTC),
	}}
	if diff := cmp.Diff(want, found); err != nil || diff != "" {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	inTx(t, db, func(tx *postgres.Tx) error {
		_, err := s.SetEmail(t.Context(), tx, b.PublicID, "bob@example.org", uuid.Nil)
		return err
	})
	if found, err := s.LegacyFindings(t.Context()); err != nil || len(found) != 0 {
		t.Errorf("%+v, %v", found, err)
	}
	if u, err := s.ByLogin(t.Context(), "BOB@example.org"); err != nil || u.ID != second {
		t.Errorf("ByLogin = %+v, %v", u, err)
	}
}
