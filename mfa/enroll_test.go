package mfa_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/mfa"
	"rootstream/postgres"
	"rootstream/secret"
)

func TestEnrolmentIsProvedByItsFirstCode(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := phone{Account: r.account("ada")}
	e, err := r.enroll(p.Account)
	if err != nil {
		t.Fatal(err)
	}
	p.factor, p.key = e.FactorID, decode(t, e.Secret.Reveal())
	if e.FactorID.Version() != 7 {
		t.Errorf("factor id is version %d", e.FactorID.Version())
	}
	if got := scan(t, e.QR.Reveal()); got != e.URI.Reveal() || !strings.Contains(got, e.Secret.Reveal()) {
		t.Errorf("the picture says %q", got)
	}
	codes, err := r.ConfirmTOTP(t.Context(), p.confirm(r.code(p, 0)), func(ctx context.Context, tx *postgres.Tx) error {
		has, e := r.HasFactor(ctx, tx, p.UserID)
		if !has {
			t.Error("the factor is not enabled where the caller's part runs")
		}
		return e
	})
	if err != nil || len(codes) != 10 {
		t.Fatalf("confirm = %d codes, %v", len(codes), err)
	}
	if err = r.verify(p, mfa.TOTP, r.code(p, 0)); !errors.Is(err, mfa.ErrInvalidCode) {
		t.Errorf("the code of the confirmation once more = %v", err)
	}
	s, err := r.Status(t.Context(), p.UserID)
	if err != nil || !s.Enabled || s.BackupCodesLeft != 10 || fmt.Sprint(s.Methods) != "[totp backup_code]" || s.Factors[0].ID != p.factor {
		t.Errorf("status = %+v, %v", s, err)
	}
	if got, want := r.events(p.Account), "mfa.enrolled mfa.confirmed mfa.backup_codes_created mfa.failed"; got != want {
		t.Errorf("events = %s, want %s", got, want)
	}
}

func TestPitfall12SecretHas160Bits(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	e, err := r.enroll(r.account("ada"))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(decode(t, e.Secret.Reveal())); n != 20 {
		t.Errorf("the secret has %d bytes", n)
	}
}

func TestPitfall13SecretsAreWhollyRandom(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	a := r.account("ada")
	var zero [20]int // how often each byte was zero
	const rounds = 60
	for range rounds {
		e, err := r.enroll(a)
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range decode(t, e.Secret.Reveal()) {
			if b == 0 {
				zero[i]++
			}
		}
	}
	for i, n := range zero {
		if n > rounds/4 {
			t.Errorf("byte %d was zero %d times in %d", i, n, rounds)
		}
	}
}

func TestPitfall27EnrolmentIsInactiveUntilProved(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := phone{Account: r.account("ada")}
	e, err := r.enroll(p.Account)
	if err != nil {
		t.Fatal(err)
	}
	p.factor, p.key = e.FactorID, decode(t, e.Secret.Reveal())
	if has, err := r.HasFactor(t.Context(), r.db, p.UserID); has || err != nil {
		t.Errorf("HasFactor = %v, %v while pending", has, err)
	}
	if err := r.verify(p, mfa.TOTP, r.code(p, 0)); !errors.Is(err, mfa.ErrFactorNotFound) {
		t.Errorf("verify with a pending factor = %v", err)
	}
	r.wait(10*time.Minute + time.Second)
	if _, err := r.ConfirmTOTP(t.Context(), p.confirm(r.code(p, 0)), nil); !errors.Is(err, mfa.ErrEnrollmentExpired) {
		t.Errorf("confirm after ten minutes = %v", err)
	}
	if n, err := r.Cleanup(t.Context()); n != 1 || err != nil {
		t.Errorf("Cleanup = %d, %v", n, err)
	}
	if _, err := r.ConfirmTOTP(t.Context(), p.confirm(r.code(p, 0)), nil); !errors.Is(err, mfa.ErrFactorNotFound) {
		t.Errorf("confirm after the clean-up = %v", err)
	}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v", e, e, e)} {
		if strings.Contains(text, e.Secret.Reveal()) || strings.Contains(text, "otpauth") || strings.Contains(text, "<svg") {
			t.Errorf("an enrolment prints what it must hide: %s", text)
		}
	}
}

func TestNextEnrolmentReplacesAPendingOne(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := phone{Account: r.account("ada")}
	first, err := r.enroll(p.Account)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range parallel(8, func(int) error { _, err := r.enroll(p.Account); return err }) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := r.count(`select count(*) from user_mfa where user_id = $1`, p.UserID); n != 1 {
		t.Errorf("%d enrolments are pending", n)
	}
	p.factor, p.key = first.FactorID, decode(t, first.Secret.Reveal())
	if _, err := r.ConfirmTOTP(t.Context(), p.confirm(r.code(p, 0)), nil); !errors.Is(err, mfa.ErrFactorNotFound) {
		t.Errorf("confirm of the replaced one = %v", err)
	}
}

func TestSecondAuthenticatorIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	if _, err := r.enroll(p.Account); !errors.Is(err, mfa.ErrFactorExists) || errs.KindOf(err) != errs.Conflict {
		t.Errorf("enrol = %v", err)
	}
	if _, err := r.ConfirmTOTP(t.Context(), p.confirm(r.code(p, 0)), nil); !errors.Is(err, mfa.ErrFactorExists) {
		t.Errorf("confirm again = %v", err)
	}
	// A pending one that was begun before, as an old writer could leave it.
	r.exec(`insert into user_mfa (user_id, method, secret, public_id, created_at) select user_id, method, secret, $2, $3 from user_mfa
		where user_id = $1 and method = 'totp'`, p.UserID, uuid.New(), time.Unix(r.now.Load(), 0))
	if n := r.count(`select count(*) from user_mfa where user_id = $1 and method = 'totp'`, p.UserID); n != 2 {
		t.Fatal(n)
	}
}

func TestParallelConfirmationsEnableOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *mfa.Config) { c.MaxTries = 1000 })
	p := phone{Account: r.account("ada")}
	e, err := r.enroll(p.Account)
	if err != nil {
		t.Fatal(err)
	}
	p.factor, p.key = e.FactorID, decode(t, e.Secret.Reveal())
	won := 0
	for _, err := range parallel(6, func(int) error {
		_, err := r.ConfirmTOTP(t.Context(), p.confirm(r.code(p, 0)), nil)
		return err
	}) {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, mfa.ErrInvalidCode) && !errors.Is(err, mfa.ErrFactorExists):
			t.Error(err)
		}
	}
	if n := r.count(`select cardinality(backup_codes) from user_mfa where user_id = $1 and method = 'backup_code'`, p.UserID); won != 1 || n != 10 {
		t.Errorf("%d confirmations won, %d backup codes", won, n)
	}
}

func TestConfirmationSharesTheBudget(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := phone{Account: r.account("ada")}
	e, err := r.enroll(p.Account)
	if err != nil {
		t.Fatal(err)
	}
	p.factor, p.key = e.FactorID, decode(t, e.Secret.Reveal())
	for i := range 5 {
		if _, err = r.ConfirmTOTP(t.Context(), p.confirm(r.wrong(p)), nil); !errors.Is(err, mfa.ErrInvalidCode) {
			t.Fatalf("wrong code %d = %v", i, err)
		}
	}
	_, err = r.ConfirmTOTP(t.Context(), p.confirm(r.code(p, 0)), nil)
	if !errors.Is(err, mfa.ErrTooManyAttempts) || errs.RetryAfter(err) != 15*time.Minute {
		t.Errorf("the sixth = %v, retry after %v", err, errs.RetryAfter(err))
	}
	other := r.account("eve")
	if _, err := r.ConfirmTOTP(t.Context(), mfa.Confirmation{
		UserID: other.UserID, UserPublicID: other.UserPublicID, FactorID: p.factor, Code: r.code(p, 0),
	}, nil); !errors.Is(err, mfa.ErrFactorNotFound) {
		t.Errorf("confirm of a foreign factor = %v", err)
	}
}

func TestFailureOfTheCallersPartConfirmsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := phone{Account: r.account("ada")}
	e, err := r.enroll(p.Account)
	if err != nil {
		t.Fatal(err)
	}
	p.factor, p.key = e.FactorID, decode(t, e.Secret.Reveal())
	sick := errors.New("no")
	for range 7 { // more than the budget: what was not judged is given back
		if _, err := r.ConfirmTOTP(t.Context(), p.confirm(r.code(p, 0)), func(context.Context, *postgres.Tx) error { return sick }); !errors.Is(err, sick) {
			t.Fatalf("confirm = %v", err)
		}
	}
	if _, err := r.ConfirmTOTP(t.Context(), p.confirm(r.code(p, 0)), nil); err != nil {
		t.Errorf("confirm afterwards = %v", err)
	}
}

func TestWithoutAKeysetNothingIsSealedAndNoTryIsSpent(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	bare, err := mfa.New(r.db, nil, mfa.Config{})
	if err != nil {
		t.Fatal(err)
	}
	before := r.count(`select count(*) from mfa_attempts`)
	fresh := r.account("bob")
	calls := map[string]func() error{
		"enrol": func() error {
			return r.tx(func(ctx context.Context, tx *postgres.Tx) error {
				_, err := bare.EnrollTOTP(ctx, tx, fresh)
				return err
			})
		},
		"confirm": func() error { _, err := bare.ConfirmTOTP(t.Context(), p.confirm("000000"), nil); return err },
		"verify":  func() error { _, err := bare.Verify(t.Context(), p.try(mfa.TOTP, "000000"), nil); return err },
		"codes":   func() error { _, err := bare.GenerateBackupCodes(t.Context(), p.Account, nil); return err },
		"reseal":  func() error { _, err := bare.Reseal(t.Context()); return err },
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, secret.ErrKeysetMissing) || errs.CodeOf(err) != "keyset_missing" {
			t.Errorf("%s = %v", name, err)
		}
	}
	if after := r.count(`select count(*) from mfa_attempts`); after != before {
		t.Errorf("%d tries were spent", after-before)
	}
}

func TestConfigFaultsComeBackTogether(t *testing.T) {
	t.Parallel()
	_, err := mfa.New(nil, nil, mfa.Config{MaxTries: -1, Window: -1, KeepAttempts: time.Hour})
	for _, want := range []string{"MaxTries", "Window", "KeepAttempts"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}
