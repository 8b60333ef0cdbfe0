package mfa_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"rootstream/errs"
	"rootstream/mfa"
	"rootstream/postgres"
)

func TestPitfall01TOTPReplayIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	code := r.code(p, 0)
	res, err := r.Verify(t.Context(), p.try(mfa.TOTP, code), nil)
	if err != nil || res.Method != mfa.TOTP || res.FactorID != p.factor || res.BackupCodesLeft != -1 {
		t.Fatalf("verify = %+v, %v", res, err)
	}
	for _, later := range []time.Duration{0, 15 * time.Second, 15 * time.Second, 29 * time.Second} {
		r.wait(later)
		if err := r.verify(p, mfa.TOTP, code); !errors.Is(err, mfa.ErrInvalidCode) {
			t.Errorf("the same code = %v", err)
		}
	}
	if err := r.verify(p, mfa.TOTP, r.code(p, 0)); err != nil {
		t.Errorf("the next code = %v", err)
	}
}

func TestWrongAndUsedCodesGetOneAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	used := r.code(p, 0)
	if err := r.verify(p, mfa.TOTP, used); err != nil {
		t.Fatal(err)
	}
	want := r.verify(p, mfa.TOTP, r.wrong(p))
	if got := r.verify(p, mfa.TOTP, used); got.Error() != want.Error() || errs.KindOf(got) != errs.Unauthenticated {
		t.Errorf("used: %v, wrong: %v", got, want)
	}
	if got := r.verify(p, mfa.BackupCode, "00000-00000"); got.Error() != want.Error() {
		t.Errorf("wrong backup code: %v, wrong: %v", got, want)
	}
}

func TestCodesAreGoodForThreeStepsAndForTwoIfStrict(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for i, tt := range []struct {
		strict bool
		steps  int64
		second int64 // within the step
		good   bool
	}{
		{false, -2, 0, false},
		{false, -1, 0, true},
		{false, -1, 29, true},
		{false, 0, 29, true},
		{false, 1, 0, true},
		{false, 1, 29, true},
		{false, 2, 29, false},
		{true, -1, 29, true},
		{true, 0, 0, true},
		{true, 1, 29, false},
	} {
		p := r.setUp(fmt.Sprint("user", i))
		r.Manager = r.manager(func(c *mfa.Config) { c.Strict = tt.strict })
		r.now.Store(1_800_003_000 + int64(i)*3000 + tt.second)
		err := r.verify(p, mfa.TOTP, r.code(p, tt.steps))
		if (err == nil) != tt.good || err != nil && !errors.Is(err, mfa.ErrInvalidCode) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

func TestPitfall03UsedStepOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	code := r.code(p, 0)
	if err := r.verify(p, mfa.TOTP, code); err != nil {
		t.Fatal(err)
	}
	r.Manager = r.manager(nil) // as after a restart, or on another instance
	if err := r.verify(p, mfa.TOTP, code); !errors.Is(err, mfa.ErrInvalidCode) {
		t.Errorf("the same code after a restart = %v", err)
	}
}

func TestPitfall04ParallelGuessesAreCountedBeforeTheyAreCompared(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	wrong := r.wrong(p)
	before := r.count(`select count(*) from mfa_attempts`)
	compared := 0
	for _, err := range parallel(500, func(i int) error {
		if i%2 == 0 {
			return r.verify(p, mfa.TOTP, wrong)
		}
		return r.verify(p, mfa.BackupCode, "00000-00000") // one budget for both
	}) {
		switch {
		case errors.Is(err, mfa.ErrInvalidCode):
			compared++
		case !errors.Is(err, mfa.ErrTooManyAttempts) || errs.RetryAfter(err) != 15*time.Minute:
			t.Errorf("%v, retry after %v", err, errs.RetryAfter(err))
		}
	}
	tries := r.count(`select count(*) from mfa_attempts`) - before
	if compared != 5 || tries != 5 {
		t.Errorf("%d guesses were compared, %d written down; want 5", compared, tries)
	}
	if err := r.verify(p, mfa.TOTP, r.code(p, 0)); !errors.Is(err, mfa.ErrTooManyAttempts) {
		t.Errorf("the right code in a used-up window = %v", err)
	}
	r.wait(15 * time.Minute)
	if err := r.verify(p, mfa.TOTP, r.code(p, 0)); err != nil {
		t.Errorf("the right code in the next window = %v", err)
	}
}

func TestATryIsOnRecordBeforeItIsCompared(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	seen := -1
	r.Manager = r.manager(func(c *mfa.Config) {
		c.Derive = func(ctx context.Context, _, _ []byte) ([]byte, error) {
			// Another connection sees it: it is committed.
			err := r.db.QueryRow(ctx, `select count(*) from mfa_attempts where user_id = $1 and not success and reason = 'reserved'
				and ip_address = '203.0.113.7'`, p.UserID).Scan(&seen)
			return make([]byte, 32), err
		}
	})
	if err := r.verify(p, mfa.BackupCode, p.codes[0]); !errors.Is(err, mfa.ErrInvalidCode) {
		t.Fatal(err)
	}
	if seen != 1 {
		t.Errorf("%d tries on record while comparing, want 1", seen)
	}
}

func TestParallelSubmitsOfOneTOTPCodeSucceedOnce(t *testing.T) {
	t.Parallel()
	for name, tries := range map[string]int{"usual budget": 0, "boundless budget": 10000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(c *mfa.Config) { c.MaxTries = tries; c.SuspendAfter = 10000 })
			p := r.setUp("ada")
			code := r.code(p, 0)
			onlyOne(t, parallel(200, func(int) error { return r.verify(p, mfa.TOTP, code) }))
		})
	}
}

func TestPitfall09ParallelSubmitsOfOneBackupCodeSucceedOnce(t *testing.T) {
	t.Parallel()
	for name, tries := range map[string]int{"usual budget": 0, "boundless budget": 10000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(c *mfa.Config) { c.MaxTries = tries; c.SuspendAfter = 10000 })
			p := r.setUp("ada")
			onlyOne(t, parallel(200, func(int) error { return r.verify(p, mfa.BackupCode, p.codes[3]) }))
			s, err := r.Status(t.Context(), p.UserID)
			if err != nil || s.BackupCodesLeft != 9 {
				t.Errorf("%d codes left, %v", s.BackupCodesLeft, err)
			}
		})
	}
}

func onlyOne(t *testing.T, results []error) {
	t.Helper()
	won := 0
	for _, err := range results {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, mfa.ErrInvalidCode) && !errors.Is(err, mfa.ErrTooManyAttempts):
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d submits of one code succeeded", won)
	}
}

func TestPitfall05OnlyTheSecondFactorResetsItsBudget(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	for range 4 {
		_ = r.verify(p, mfa.TOTP, r.wrong(p))
	}
	if err := r.verify(p, mfa.BackupCode, p.codes[0]); err != nil { // the owner's own success
		t.Fatal(err)
	}
	for i := range 5 {
		if err := r.verify(p, mfa.TOTP, r.wrong(p)); !errors.Is(err, mfa.ErrInvalidCode) {
			t.Fatalf("wrong code %d of the fresh window = %v", i, err)
		}
	}
	if err := r.verify(p, mfa.TOTP, r.wrong(p)); !errors.Is(err, mfa.ErrTooManyAttempts) {
		t.Errorf("one more = %v", err)
	}
}

func TestPitfall06SecondFactorHasOneBudgetOnAllInstances(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	for i := range 6 {
		r.Manager = r.manager(nil) // another instance, or the same one restarted
		err := r.verify(p, mfa.TOTP, r.wrong(p))
		if want := mfa.ErrInvalidCode; i < 5 && !errors.Is(err, want) || i == 5 && !errors.Is(err, mfa.ErrTooManyAttempts) {
			t.Errorf("guess %d = %v", i, err)
		}
	}
}

func TestPitfall08BudgetIsPerAccountWhateverTheAddress(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p, q := r.setUp("ada"), r.setUp("bob")
	for i := range 6 {
		a := p.try(mfa.TOTP, r.wrong(p))
		for range i {
			a.IP = a.IP.Next()
		}
		_, err := r.Verify(t.Context(), a, nil)
		if i < 5 != errors.Is(err, mfa.ErrInvalidCode) {
			t.Errorf("guess %d from %v = %v", i, a.IP, err)
		}
	}
	if err := r.verify(q, mfa.TOTP, r.code(q, 0)); err != nil {
		t.Errorf("another account = %v", err)
	}
}

func TestPitfall11GrantAndCodeGoTogether(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	sick := errors.New("no session today")
	for _, a := range []mfa.Attempt{p.try(mfa.TOTP, r.code(p, 0)), p.try(mfa.BackupCode, p.codes[0])} {
		for range 6 { // what failed on our side costs no try
			_, err := r.Verify(t.Context(), a, func(context.Context, *postgres.Tx, mfa.Result) error { return sick })
			if !errors.Is(err, sick) {
				t.Fatalf("verify = %v", err)
			}
		}
		granted := 0
		_, err := r.Verify(t.Context(), a, func(ctx context.Context, tx *postgres.Tx, res mfa.Result) error {
			granted++
			if res.Method != a.Method || res.At.Unix() != r.now.Load() {
				t.Errorf("grant of %+v", res)
			}
			_, err := tx.Exec(ctx, `update users set last_login_at = now() where id = $1`, a.UserID)
			return err
		})
		if err != nil || granted != 1 {
			t.Errorf("%s after a failed grant = %v, granted %d times", a.Method, err, granted)
		}
		if _, err := r.Verify(t.Context(), a, func(context.Context, *postgres.Tx, mfa.Result) error { granted++; return nil }); !errors.Is(err, mfa.ErrInvalidCode) || granted != 1 {
			t.Errorf("%s again = %v, granted %d times", a.Method, err, granted)
		}
	}
}

func TestBackupCodeIsReadTolerantlyAndCountsDown(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	for i, code := range p.codes {
		res, err := r.Verify(t.Context(), p.try(mfa.BackupCode, " "+strings.ToLower(strings.ReplaceAll(code, "-", " "))), nil)
		if err != nil || res.BackupCodesLeft != 9-i {
			t.Fatalf("code %d: %d left, %v", i, res.BackupCodesLeft, err)
		}
	}
	s, err := r.Status(t.Context(), p.UserID)
	if err != nil || s.BackupCodesLeft != 0 || len(s.Methods) != 1 {
		t.Errorf("status = %+v, %v", s, err)
	}
	if !strings.HasSuffix(r.events(p.Account), "mfa.backup_code_used mfa.verified") {
		t.Errorf("events = %s", r.events(p.Account))
	}
}
