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
)

// fails has n failed tries written down, spread over the last days.
func (r *rig) fails(p phone, n, days int) {
	r.t.Helper()
	r.exec(`insert into mfa_attempts (user_id, method, reason, attempted_at)
		select $1, 'totp', 'wrong_code', to_timestamp($2) - make_interval(secs => (i + 0.5) * $4 * 86400 / $3) from generate_series(0, $3 - 1) i`,
		p.UserID, r.now.Load(), n, days)
}

func TestHundredFailuresInThirtyDaysSuspend(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p, q := r.setUp("ada"), r.setUp("bob")
	r.fails(p, 99, 29)
	r.exec(`insert into mfa_attempts (user_id, method, reason, attempted_at)
		select $1, 'totp', 'wrong_code', to_timestamp($2) - interval '31 days' from generate_series(1, 500)`, p.UserID, r.now.Load())
	if err := r.verify(p, mfa.BackupCode, p.codes[0]); err != nil {
		t.Fatalf("at 99 failures the right code = %v", err)
	}
	if err := r.verify(p, mfa.TOTP, r.wrong(p)); !errors.Is(err, mfa.ErrInvalidCode) {
		t.Fatalf("the hundredth failure = %v", err)
	}
	for _, a := range []mfa.Attempt{p.try(mfa.TOTP, r.code(p, 0)), p.try(mfa.BackupCode, p.codes[1])} {
		if _, err := r.Verify(t.Context(), a, nil); !errors.Is(err, mfa.ErrSuspended) || errs.KindOf(err) != errs.Forbidden {
			t.Errorf("the right %s afterwards = %v", a.Method, err)
		}
	}
	if got := r.events(p.Account); !strings.HasSuffix(got, "mfa.failed mfa.suspended") {
		t.Errorf("events = %s", got)
	}
	if s, err := r.Status(t.Context(), p.UserID); err != nil || s.SuspendedAt == nil {
		t.Errorf("status = %+v, %v", s, err)
	}
	r.wait(40 * 24 * time.Hour)
	if err := r.verify(p, mfa.TOTP, r.code(p, 0)); !errors.Is(err, mfa.ErrSuspended) {
		t.Errorf("forty days later = %v", err)
	}
	if err := r.verify(q, mfa.TOTP, r.code(q, 0)); err != nil {
		t.Errorf("another account = %v", err)
	}
}

func TestParallelGuessesStopAtTheHundredthFailure(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *mfa.Config) { c.MaxTries = 1000 })
	p := r.setUp("ada")
	r.fails(p, 90, 20)
	wrong, compared := r.wrong(p), 0
	for _, err := range parallel(60, func(int) error { return r.verify(p, mfa.TOTP, wrong) }) {
		switch {
		case errors.Is(err, mfa.ErrInvalidCode):
			compared++
		case !errors.Is(err, mfa.ErrSuspended) && !errors.Is(err, mfa.ErrTooManyAttempts):
			t.Error(err)
		}
	}
	if compared != 10 {
		t.Errorf("%d guesses were compared after 90 failures", compared)
	}
	if n := strings.Count(r.events(p.Account), "mfa.suspended"); n != 1 {
		t.Errorf("%d events say it is suspended", n)
	}
}

func TestTriesThatNeverEndedCountAsFailures(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	r.fails(p, 100, 20)
	r.exec(`update mfa_attempts set reason = 'reserved' where user_id = $1 and not success`, p.UserID) // all killed while comparing
	if err := r.verify(p, mfa.TOTP, r.code(p, 0)); !errors.Is(err, mfa.ErrSuspended) {
		t.Errorf("verify = %v", err)
	}
	if got := r.events(p.Account); !strings.HasSuffix(got, "mfa.suspended") {
		t.Errorf("events = %s", got)
	}
}

func TestATryUnderWayIsNoFailureYet(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	r.fails(p, 99, 20)
	r.exec(`insert into mfa_attempts (user_id, method, reason, attempted_at) values ($1, 'totp', 'reserved', to_timestamp($2))`, p.UserID, r.now.Load()-1)
	if err := r.verify(p, mfa.TOTP, r.code(p, 0)); !errors.Is(err, mfa.ErrTooManyAttempts) || errs.RetryAfter(err) != time.Second {
		t.Errorf("verify = %v, retry after %v", err, errs.RetryAfter(err))
	}
	r.exec(`update mfa_attempts set success = true where reason = 'reserved'`)
	if err := r.verify(p, mfa.TOTP, r.code(p, 0)); err != nil {
		t.Errorf("verify once it turned out right = %v", err)
	}
}

func TestResumeLiftsTheSuspensionAndForgives(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	operator := uuid.New()
	r.fails(p, 100, 20)
	if err := r.verify(p, mfa.TOTP, r.code(p, 0)); !errors.Is(err, mfa.ErrSuspended) {
		t.Fatal(err)
	}
	if err := r.tx(func(ctx context.Context, tx *postgres.Tx) error { return r.Resume(ctx, tx, p.Account, operator) }); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if err := r.verify(p, mfa.TOTP, r.wrong(p)); !errors.Is(err, mfa.ErrInvalidCode) {
			t.Errorf("wrong code %d = %v", i, err)
		}
	}
	if err := r.verify(p, mfa.TOTP, r.code(p, 0)); err != nil {
		t.Errorf("the right code = %v", err)
	}
	if n := r.count(`select count(*) from events where name = 'mfa.resumed' and actor_id = $1`, operator); n != 1 {
		t.Errorf("%d events name the operator", n)
	}
}

func TestResetRemovesEverything(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	r.fails(p, 100, 20)
	_ = r.verify(p, mfa.TOTP, r.code(p, 0))
	if err := r.tx(func(ctx context.Context, tx *postgres.Tx) error { return r.Reset(ctx, tx, p.Account, uuid.Nil) }); err != nil {
		t.Fatal(err)
	}
	if s, err := r.Status(t.Context(), p.UserID); err != nil || s.Enabled || len(s.Factors) != 0 || s.SuspendedAt != nil {
		t.Errorf("status = %+v, %v", s, err)
	}
	if got := r.events(p.Account); !strings.HasSuffix(got, "mfa.suspended mfa.removed mfa.removed") {
		t.Errorf("events = %s", got)
	}
	e, err := r.enroll(p.Account)
	if err != nil {
		t.Fatal(err)
	}
	p.factor, p.key = e.FactorID, decode(t, e.Secret.Reveal())
	if _, err := r.ConfirmTOTP(t.Context(), p.confirm(r.code(p, 0)), nil); err != nil {
		t.Errorf("setting up anew = %v", err)
	}
}

func TestACursorHasOneText(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	_ = r.verify(p, mfa.TOTP, r.wrong(p))
	_, next, err := r.Attempts(t.Context(), p.UserID, 1, "")
	if err != nil || next == "" {
		t.Fatal(next, err)
	}
	for _, cursor := range []string{next + "\n", "\r" + next, next[:4] + "\n" + next[4:], next + "="} {
		if _, _, err := r.Attempts(t.Context(), p.UserID, 1, cursor); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%q = %v", cursor, err)
		}
	}
}

func TestAResetDuringAVerificationLeavesNoFactorToVerify(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	r.Manager = r.manager(func(c *mfa.Config) {
		c.Derive = func(ctx context.Context, code, salt []byte) ([]byte, error) {
			if err := r.tx(func(ctx context.Context, tx *postgres.Tx) error { return r.Reset(ctx, tx, p.Account, uuid.Nil) }); err != nil {
				t.Error(err)
			}
			return quick(ctx, code, salt)
		}
	})
	_, err := r.Verify(t.Context(), p.try(mfa.BackupCode, p.codes[0]), func(context.Context, *postgres.Tx, mfa.Result) error {
		t.Error("it was granted")
		return nil
	})
	if !errors.Is(err, mfa.ErrFactorNotFound) {
		t.Errorf("verify = %v", err)
	}
}

func TestUnenrolTakesTheBackupCodesWithTheLastFactor(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p, q := r.setUp("ada"), r.setUp("bob")
	unenroll := func(a mfa.Account, id uuid.UUID) error {
		return r.tx(func(ctx context.Context, tx *postgres.Tx) error { return r.Unenroll(ctx, tx, a, id) })
	}
	if err := unenroll(q.Account, p.factor); !errors.Is(err, mfa.ErrFactorNotFound) {
		t.Errorf("a foreign factor = %v", err)
	}
	if err := unenroll(p.Account, p.factor); err != nil {
		t.Fatal(err)
	}
	if err := unenroll(p.Account, p.factor); !errors.Is(err, mfa.ErrFactorNotFound) {
		t.Errorf("again = %v", err)
	}
	if n := r.count(`select count(*) from user_mfa where user_id = $1`, p.UserID); n != 0 {
		t.Errorf("%d rows are left", n)
	}
	if err := r.verify(p, mfa.BackupCode, p.codes[0]); !errors.Is(err, mfa.ErrFactorNotFound) {
		t.Errorf("a backup code afterwards = %v", err)
	}
	if s, err := r.Status(t.Context(), q.UserID); err != nil || !s.Enabled {
		t.Errorf("the other account = %+v, %v", s, err)
	}
	if !strings.HasSuffix(r.events(p.Account), "mfa.removed") {
		t.Errorf("events = %s", r.events(p.Account))
	}
}

func TestUnenrolAndVerifyAtOnceDoNotBothSucceedLate(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	_, err := r.Verify(t.Context(), p.try(mfa.TOTP, r.code(p, 0)), func(ctx context.Context, tx *postgres.Tx, _ mfa.Result) error {
		return r.Unenroll(ctx, tx, p.Account, p.factor) // with the proof of the factor itself
	})
	if err != nil {
		t.Fatal(err)
	}
	if has, err := r.HasFactor(t.Context(), r.db, p.UserID); has || err != nil {
		t.Errorf("HasFactor = %v, %v", has, err)
	}
}

func TestNewBackupCodesReplaceTheOldOnes(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	codes, err := r.GenerateBackupCodes(t.Context(), p.Account, nil)
	if err != nil || len(codes) != 10 {
		t.Fatal(codes, err)
	}
	if err := r.verify(p, mfa.BackupCode, p.codes[0]); !errors.Is(err, mfa.ErrInvalidCode) {
		t.Errorf("an old code = %v", err)
	}
	if err := r.verify(p, mfa.BackupCode, codes[0]); err != nil {
		t.Errorf("a new code = %v", err)
	}
	sick := errors.New("no")
	if _, err := r.GenerateBackupCodes(t.Context(), p.Account, func(context.Context, *postgres.Tx) error { return sick }); !errors.Is(err, sick) {
		t.Errorf("a failed part of the caller = %v", err)
	}
	if err := r.verify(p, mfa.BackupCode, codes[1]); err != nil {
		t.Errorf("the codes that stayed = %v", err)
	}
	if _, err := r.GenerateBackupCodes(t.Context(), r.account("bob"), nil); !errors.Is(err, mfa.ErrFactorNotFound) {
		t.Errorf("codes without an authenticator = %v", err)
	}
}

func TestStatusTellsWhenTheNextTryIsPossible(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	for range 5 {
		_ = r.verify(p, mfa.TOTP, r.wrong(p))
		r.wait(time.Minute)
	}
	s, err := r.Status(t.Context(), p.UserID)
	if err != nil || s.LockedUntil == nil || s.LockedUntil.Unix() != r.now.Load()+600 {
		t.Fatalf("status = %+v, %v", s, err)
	}
	if err = r.verify(p, mfa.TOTP, r.code(p, 0)); errs.RetryAfter(err) != 10*time.Minute {
		t.Errorf("retry after %v", errs.RetryAfter(err))
	}
	r.wait(10 * time.Minute)
	if s, err = r.Status(t.Context(), p.UserID); err != nil || s.LockedUntil != nil {
		t.Errorf("status in the next window = %+v, %v", s, err)
	}
}

func TestAttemptsAreListedInPagesWithoutGapsOrSerialIDs(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p, q := r.setUp("ada"), r.setUp("bob")
	r.exec(`delete from mfa_attempts`)
	// Bursts of tries in the very same microsecond.
	r.exec(`insert into mfa_attempts (user_id, method, reason, attempted_at)
		select $1, 'totp', i::text, to_timestamp($2 + i / 7) from generate_series(0, 39) i`, p.UserID, r.now.Load())
	r.exec(`insert into mfa_attempts (user_id, method, attempted_at) values ($1, 'totp', now())`, q.UserID)
	for _, limit := range []int{1, 3, 7, 10, 40, 0} {
		got, cursor := []string{}, ""
		for range 50 {
			records, next, err := r.Attempts(t.Context(), p.UserID, limit, cursor)
			if err != nil {
				t.Fatal(err)
			}
			for _, rec := range records {
				got = append(got, rec.Reason)
			}
			if cursor = next; next == "" {
				break
			}
		}
		for i := range 40 {
			if len(got) != 40 || got[i] != fmt.Sprint(39-i) {
				t.Fatalf("pages of %d give %v", limit, got)
			}
		}
	}
	for _, bad := range []struct {
		limit  int
		cursor string
	}{{-1, ""}, {201, ""}, {0, "x"}, {0, "!"}, {0, "MTIz"}, {0, "MS4tMQ"}} {
		if _, _, err := r.Attempts(t.Context(), p.UserID, bad.limit, bad.cursor); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%+v = %v", bad, err)
		}
	}
}

func TestCleanupKeepsWhatCounts(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	r.fails(p, 900, 180)
	before := r.count(`select count(*) from mfa_attempts`)
	n, err := r.Cleanup(t.Context())
	if after := r.count(`select count(*) from mfa_attempts`); err != nil || n != 450 || before-after != 450 {
		t.Errorf("Cleanup = %d, %v; %d rows of %d are left", n, err, after, before)
	}
	if has, err := r.HasFactor(t.Context(), r.db, p.UserID); !has || err != nil {
		t.Errorf("the factor = %v, %v", has, err)
	}
}

func TestPitfall34SecretsAreSealedAgainAfterKeyRotation(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p, q := r.setUp("ada"), r.setUp("bob")
	var before []byte
	if err := r.db.QueryRow(t.Context(), `select secret from user_mfa where public_id = $1`, p.factor).Scan(&before); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Reseal(t.Context()); n != 0 || err != nil {
		t.Fatalf("Reseal before the rotation = %d, %v", n, err)
	}
	if err := r.keys.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.verify(p, mfa.BackupCode, p.codes[0]); err != nil {
		t.Errorf("a backup code hashed under the old key = %v", err)
	}
	r.exec(`update user_mfa set secret = 'garbage' where public_id = $1`, q.factor)
	if n, err := r.Reseal(t.Context()); n != 1 || err == nil || !strings.Contains(err.Error(), q.factor.String()) {
		t.Errorf("Reseal = %d, %v; want 1 and the broken factor named", n, err)
	}
	r.exec(`delete from user_mfa where public_id = $1`, q.factor)
	if n, err := r.Reseal(t.Context()); n != 0 || err != nil {
		t.Errorf("Reseal again = %d, %v", n, err)
	}
	if r.keys.NeedsReseal(before) == false {
		t.Error("the old secret was not sealed by an old key")
	}
	if err := r.verify(p, mfa.TOTP, r.code(p, 0)); err != nil {
		t.Errorf("verify after sealing again = %v", err)
	}
}

func TestRunSweepsAndStops(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *mfa.Config) { c.SweepEvery = 10 * time.Millisecond })
	if _, err := r.enroll(r.account("ada")); err != nil {
		t.Fatal(err)
	}
	r.wait(time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	for r.count(`select count(*) from user_mfa`) != 0 {
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestADeadDatabaseIsUnavailableAndGrantsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := r.setUp("ada")
	r.db.Close()
	calls := map[string]func() error{
		"verify":   func() error { return r.verify(p, mfa.TOTP, r.code(p, 0)) },
		"confirm":  func() error { _, err := r.ConfirmTOTP(t.Context(), p.confirm("000000"), nil); return err },
		"codes":    func() error { _, err := r.GenerateBackupCodes(t.Context(), p.Account, nil); return err },
		"status":   func() error { _, err := r.Status(t.Context(), p.UserID); return err },
		"attempts": func() error { _, _, err := r.Attempts(t.Context(), p.UserID, 0, ""); return err },
		"cleanup":  func() error { _, err := r.Cleanup(t.Context()); return err },
		"reseal":   func() error { _, err := r.Reseal(t.Context()); return err },
	}
	for name, call := range calls {
		if err := call(); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("%s = %v", name, err)
		}
	}
}
