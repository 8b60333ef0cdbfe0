package mfa_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"rootstream/errs"
	"rootstream/mfa"
)

func TestPitfall35FailuresAreOnRecordToo(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	code := r.code(p, 0)
	_ = r.verify(p, mfa.TOTP, r.wrong(p))
	_ = r.verify(p, mfa.TOTP, code)
	_ = r.verify(p, mfa.TOTP, code)
	_ = r.verify(p, mfa.BackupCode, "00000-00000")
	hung, cancel := context.WithCancel(t.Context())
	r.Manager = r.manager(func(c *mfa.Config) {
		c.Derive = func(context.Context, []byte, []byte) ([]byte, error) { cancel(); return make([]byte, 32), nil }
	})
	_, _ = r.Verify(hung, p.try(mfa.BackupCode, "00000-00000"), nil) // hangs up while it is compared
	records, next, err := r.Attempts(t.Context(), p.UserID, 0, "")
	if err != nil || next != "" {
		t.Fatal(next, err)
	}
	got := ""
	for _, rec := range records {
		got += rec.Reason + " "
		if rec.IP != nil && rec.IP.String() != "203.0.113.7" || rec.Success != (rec.Reason == "accepted") {
			t.Errorf("record %+v", rec)
		}
	}
	if want := "reserved used_code used_code accepted wrong_code accepted "; got != want {
		t.Errorf("tries, newest first = %s, want %s", got, want)
	}
	if got, want := r.events(p.Account), "mfa.enrolled mfa.confirmed mfa.backup_codes_created mfa.failed mfa.verified mfa.failed mfa.failed"; got != want {
		t.Errorf("events = %s, want %s", got, want)
	}
}

func TestWrongShapesCostNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	before := r.count(`select count(*) from mfa_attempts`)
	for _, a := range []mfa.Attempt{
		p.try(mfa.TOTP, "12345"), p.try(mfa.TOTP, "' or 1=1"), p.try(mfa.BackupCode, "123456"), p.try(mfa.BackupCode, "\x00"), p.try("sms", "123456"),
	} {
		if _, err := r.Verify(t.Context(), a, nil); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s %q = %v", a.Method, a.Code, err)
		}
	}
	if _, err := r.ConfirmTOTP(t.Context(), p.confirm("x"), nil); errs.KindOf(err) != errs.Invalid {
		t.Errorf("confirm = %v", err)
	}
	if after := r.count(`select count(*) from mfa_attempts`); after != before {
		t.Errorf("%d tries were spent", after-before)
	}
}

func TestAnAccountWithoutFactorsHasNothingToVerify(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := phone{Account: r.account("ada")}
	for _, m := range []mfa.Method{mfa.TOTP, mfa.BackupCode} {
		code := map[mfa.Method]string{mfa.TOTP: "123456", mfa.BackupCode: "00000-00000"}[m]
		if err := r.verify(p, m, code); !errors.Is(err, mfa.ErrFactorNotFound) {
			t.Errorf("%s = %v", m, err)
		}
	}
	if n := r.count(`select (select count(*) from mfa_attempts) + (select count(*) from mfa_guards)`); n != 0 {
		t.Errorf("%d rows were written", n)
	}
	q := r.setUp("bob")
	r.exec(`delete from user_mfa where method = 'backup_code'`)
	if err := r.verify(q, mfa.BackupCode, q.codes[0]); !errors.Is(err, mfa.ErrInvalidCode) {
		t.Errorf("a backup code where there are none = %v", err)
	}
}

func TestBusyHasherGivesTheTryBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	good := r.Manager
	r.Manager = r.manager(func(c *mfa.Config) {
		c.Derive = func(context.Context, []byte, []byte) ([]byte, error) { return nil, mfa.ErrBusy }
	})
	for range 8 {
		if err := r.verify(p, mfa.BackupCode, p.codes[0]); !errors.Is(err, mfa.ErrBusy) {
			t.Fatal(err)
		}
	}
	r.Manager = good
	if err := r.verify(p, mfa.BackupCode, p.codes[0]); err != nil {
		t.Error(err)
	}
}

func TestPitfall33SealedSecretOpensInItsOwnRowOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	eve, ada := r.setUp("eve"), r.setUp("ada")
	r.exec(`update user_mfa set secret = (select secret from user_mfa where public_id = $1) where public_id = $2`, eve.factor, ada.factor)
	stolen := ada
	stolen.key = eve.key
	err := r.verify(stolen, mfa.TOTP, r.code(stolen, 0))
	if err == nil || errs.KindOf(err) != errs.Internal {
		t.Errorf("a code of the planted secret = %v", err)
	}
}

func TestPitfall10BackupCodesCannotBeReadBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *mfa.Config) { c.Derive = nil }) // Argon2id
	p, q := r.setUp("ada"), r.setUp("bob")
	var dump string
	if err := r.db.QueryRow(t.Context(), `select string_agg(m::text, ' ') || (select string_agg(e::text, ' ') from events e) from user_mfa m`).Scan(&dump); err != nil {
		t.Fatal(err)
	}
	for _, code := range append(p.codes, strings.ReplaceAll(p.codes[0], "-", "")) {
		if strings.Contains(dump, code) {
			t.Errorf("code %s lies in the database", code)
		}
	}
	// Copied to another account, a row opens nothing: the owner is part of what is hashed.
	r.exec(`update user_mfa m set backup_salt = o.backup_salt, backup_codes = o.backup_codes from user_mfa o
		where m.user_id = $1 and m.method = 'backup_code' and o.user_id = $2 and o.method = 'backup_code'`, q.UserID, p.UserID)
	if err := r.verify(q, mfa.BackupCode, p.codes[0]); !errors.Is(err, mfa.ErrInvalidCode) {
		t.Errorf("a code of the copied row = %v", err)
	}
}

func TestPitfall37DatabaseClockJudgesByDefault(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *mfa.Config) { c.Now = nil })
	r.now.Store(time.Now().Unix()) // one machine, one clock
	p := phone{Account: r.account("ada")}
	e, err := r.enroll(p.Account)
	if err != nil {
		t.Fatal(err)
	}
	p.factor, p.key = e.FactorID, decode(t, e.Secret.Reveal())
	if _, err = r.ConfirmTOTP(t.Context(), p.confirm(mfa.HOTP(p.key, time.Now().Unix()/30, 6)), nil); err != nil {
		t.Fatal(err)
	}
	res, err := r.Verify(t.Context(), p.try(mfa.TOTP, mfa.HOTP(p.key, time.Now().Unix()/30+1, 6)), nil)
	if err != nil || time.Since(res.At).Abs() > time.Minute {
		t.Errorf("verify = %+v, %v", res, err)
	}
}
