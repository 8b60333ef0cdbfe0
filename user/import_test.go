package user_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/user"
)

const bcryptUU = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW" // of U*U

func TestImportMakesAccountsAndReportsEveryLine(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	mustCreate(t, s, db, "taken")
	lines := []string{
		`{"username":"ada","email":"Ada@Example.org","password_hash":"` + bcryptUU + `","verified":true,"role":"admin","created_at":"2019-03-10T02:30:00-05:00"}`,
		`{"username":"bob","email":"bob@example.org","display_name":"Bob","active":false}`,
		``,
		`{"username":"TAKEN","email":"new@example.org"}`,
		`{"username":"eve","email":"ADA@example.org"}`,
		`{"username":"x","email":"x","password_hash":"md5"}`,
		`{"username":"eve","email":"eve@example.org","is_admin":true}`,
		`not json`,
		`{"username":"eve","email":"eve@example.org"} {}`,
		"{\"username\":\"eve\xff\",\"email\":\"eve@example.org\"}",
		`{"username":"eve","email":"eve@example.org","password_hash":"` + strings.Replace(bcryptUU, "$05$", "$20$", 1) + `"}`,
		`{"username":"eve","email":"eve@example.org"}`,
	}
	var report []string
	sum, err := s.Import(t.Context(), strings.NewReader(strings.Join(lines, "\n")), user.ImportOptions{Report: func(l user.ImportLine) {
		report = append(report, fmt.Sprintf("%d %s %s made=%v", l.Line, l.Username, errs.CodeOf(l.Err), l.UserID != uuid.Nil))
	}})
	want := []string{
		"1 ada internal made=true", "2 bob internal made=true", "4 TAKEN username_taken made=false", "5 eve email_taken made=false",
		"6 x invalid made=false", "7 eve malformed_line made=false", "8  malformed_line made=false", "9 eve malformed_line made=false",
		"10 eve\ufffd malformed_line made=false", "11 eve invalid made=false", "12 eve internal made=true",
	}
	if diff := cmp.Diff(want, report); err != nil || diff != "" {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	if sum != (user.ImportSummary{Imported: 3, Refused: 8}) {
		t.Errorf("summary %+v", sum)
	}
	ada, err := s.Credentials(t.Context(), "ada")
	if err != nil || ada.Role != user.RoleAdmin || !ada.IsVerified || !ada.CreatedAt.Equal(time.Date(2019, 3, 10, 7, 30, 0, 0, time.UTC)) {
		t.Errorf("%+v, %v", ada, err)
	}
	h := newHasher(t, user.HasherConfig{Cost: quick})
	if v := verdict(t, h, ada.Hash.Reveal(), "U*U"); !v.OK || !v.NeedsRehash {
		t.Errorf("the imported password: %+v", v)
	}
	if bob, err := s.Credentials(t.Context(), "bob"); err != nil || bob.IsActive || verdict(t, h, bob.Hash.Reveal(), "").OK {
		t.Errorf("an account without a password: %+v, %v", bob, err)
	}
	if events := told(t, db, ada.PublicID); len(events) != 1 {
		t.Errorf("events: %v", events)
	}
}

func TestImportOfManyLinesWritesInBatches(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	var b strings.Builder
	for i := range 250 {
		fmt.Fprintf(&b, `{"username":"user%d","email":"user%d@example.org"}`+"\n", i%240, i)
	}
	sum, err := s.Import(t.Context(), strings.NewReader(b.String()), user.ImportOptions{})
	if err != nil || sum != (user.ImportSummary{Imported: 240, Refused: 10}) {
		t.Errorf("%+v, %v", sum, err)
	}
	if n := count(t, db, "select count(*) from events"); n != 240 {
		t.Errorf("%d events", n)
	}
}

func TestADryRunFindsTheSameFaultsAndWritesNothing(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	in := `{"username":"ada","email":"ada@example.org"}` + "\n" + `{"username":"ADA","email":"b@example.org"}` + "\n"
	sum, err := s.Import(t.Context(), strings.NewReader(in), user.ImportOptions{DryRun: true, Report: func(l user.ImportLine) {
		if l.UserID != uuid.Nil {
			t.Errorf("line %d tells an id that is not there", l.Line)
		}
	}})
	if err != nil || sum != (user.ImportSummary{Imported: 1, Refused: 1}) {
		t.Errorf("%+v, %v", sum, err)
	}
	if n := count(t, db, "select (select count(*) from users) + (select count(*) from events)"); n != 0 {
		t.Errorf("%d rows written", n)
	}
}

func TestAnImportThatBreaksOffKeepsWhatItReported(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	good := `{"username":"ada","email":"ada@example.org"}` + "\n"
	sum, err := s.Import(t.Context(), strings.NewReader(good+strings.Repeat("x", 2<<20)), user.ImportOptions{})
	if errs.KindOf(err) != errs.Malformed || !strings.Contains(err.Error(), "line 2") || sum.Imported != 1 {
		t.Errorf("a line of 2 MiB: %+v, %v", sum, err)
	}
	broken := errors.New("disk on fire")
	_, err = s.Import(t.Context(), io.MultiReader(strings.NewReader(""), iotest.ErrReader(broken)), user.ImportOptions{})
	if !errors.Is(err, broken) {
		t.Errorf("a reader that fails: %v", err)
	}
	db.Close()
	if _, err := s.Import(t.Context(), strings.NewReader(`{"username":"bob","email":"bob@example.org"}`), user.ImportOptions{}); err == nil {
		t.Error("no error without a database")
	}
}

func TestAnExportHoldsEverythingButHashes(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	u, err := create(t.Context(), s, db, user.New{Username: "ada", Email: "ada@example.org", Verified: true})
	if err != nil {
		t.Fatal(err)
	}
	token := issue(t, s, db, user.TokenRequest{Purpose: user.Recover, UserID: u.PublicID, TTL: time.Hour, Detail: map[string]string{"email": "new@example.org"}})
	if _, err = db.Exec(t.Context(), "insert into billing_accounts (user_id, payment_method, monthly_limit_gb) values ($1, 'card', 50)", u.ID); err != nil {
		t.Fatal(err)
	}
	e, err := s.Export(t.Context(), u.PublicID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(u, e.User); diff != "" || e.EmailVerifiedAt == nil || e.PasswordChangedAt == nil || len(e.Tokens) != 1 || e.Billing == nil {
		t.Errorf("%+v, -want +got:\n%s", e, diff)
	}
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"username":"ada"`, `"id":"` + u.PublicID.String(), `"purpose":"recover"`, `"new@example.org"`, `"payment_method":"card"`, `"monthly_limit_gb":50`, `"last_login_ip":null`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	if strings.Contains(string(text), "argon2") || strings.Contains(string(text), token.Reveal()) {
		t.Errorf("a secret in %s", text)
	}
}
