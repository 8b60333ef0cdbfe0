package mfa

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/secret"
)

// Attempt is one code presented for an account.
type Attempt struct {
	UserID       int64
	UserPublicID uuid.UUID
	Method       Method
	Code         string
	IP           netip.Addr // for the record; the zero value means unknown
}

// Result is what a right code proved.
type Result struct {
	Method          Method
	FactorID        uuid.UUID
	At              time.Time // by the clock that judged the code
	BackupCodesLeft int       // after a backup code was used; -1 after TOTP
}

// errSpent says inside this room that a right code was used before.
var errSpent = errors.New("mfa: the code was used before")

// Verify checks a code and, if it is right, runs grant in the transaction that
// uses it up: both happen or neither. grant may be nil and may run again.
//
// Wrong and used codes are both ErrInvalidCode. A code of the wrong shape is
// an error of kind Invalid and costs no try.
func (m *Manager) Verify(ctx context.Context, a Attempt, grant func(ctx context.Context, tx *postgres.Tx, r Result) error) (Result, error) {
	code, err := a.normal()
	if err != nil {
		return Result{}, err
	}
	if m.keys == nil { // no try is spent
		return Result{}, secret.ErrKeysetMissing
	}
	t, err := m.reserve(ctx, a, nil)
	if err != nil {
		return Result{}, err
	}
	if t.rowID == 0 {
		return Result{}, m.fail(ctx, t, a, noFactor)
	}
	use, err := m.compare(ctx, t, a, code)
	if err != nil {
		m.refund(ctx, t, a)
		return Result{}, err
	}
	if use == nil {
		return Result{}, m.fail(ctx, t, a, wrongCode)
	}
	r := Result{Method: a.Method, FactorID: t.factorID, At: t.at, BackupCodesLeft: -1}
	err = m.finish(ctx, t, a,
		func(ctx context.Context, tx *postgres.Tx) error { return use(ctx, tx, &r) },
		func(_ context.Context, tx *postgres.Tx) error {
			return tell(tx, a.UserPublicID, "mfa.verified", map[string]any{"factor_id": r.FactorID, "method": r.Method})
		},
		func(ctx context.Context, tx *postgres.Tx) error {
			if grant == nil {
				return nil
			}
			return grant(ctx, tx, r)
		})
	if err != nil {
		return Result{}, err
	}
	return r, nil
}

// finish settles a try as right and does what follows from it, in one transaction.
func (m *Manager) finish(ctx context.Context, t try, a Attempt, steps ...func(context.Context, *postgres.Tx) error) error {
	err := m.db.InTx(ctx, func(tx *postgres.Tx) error {
		if err := m.settle(ctx, tx, t, a); err != nil {
			return err
		}
		for _, step := range steps {
			if step == nil {
				continue
			}
			if err := step(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errSpent):
		return m.fail(ctx, t, a, spentCode)
	default:
		m.refund(ctx, t, a)
		return err
	}
}

func (a Attempt) normal() (string, error) {
	switch a.Method {
	case TOTP:
		return normalTOTP(a.Code)
	case BackupCode:
		return normalBackupCode(a.Code)
	default:
		return "", errs.NewInvalid("method", "must be totp or backup_code")
	}
}

// consume uses a right code up, or returns errSpent.
type consume func(ctx context.Context, tx *postgres.Tx, r *Result) error

// compare judges a code. It returns nil for a wrong one.
func (m *Manager) compare(ctx context.Context, t try, a Attempt, code string) (consume, error) {
	if a.Method == BackupCode {
		return m.compareBackup(ctx, t, a, code)
	}
	steps, ok, err := m.compareTOTP(t, a, code)
	if err != nil || !ok {
		return nil, err
	}
	return func(ctx context.Context, tx *postgres.Tx, _ *Result) error {
		// The row's own last step decides: what was read at the reservation may be old.
		tag, err := tx.Exec(ctx, `update user_mfa set last_step = $3, last_used_at = $4
			where id = $1 and is_enabled and last_step < $2`, t.rowID, steps.first, steps.last, t.at)
		if err != nil {
			return fmt.Errorf("use a code: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return errSpent
		}
		return nil
	}, nil
}

func (m *Manager) compareTOTP(t try, a Attempt, code string) (match, bool, error) {
	raw, err := m.keys.Unseal(bind(t.factorID, a.UserPublicID), t.secret)
	if err != nil {
		return match{}, false, fmt.Errorf("open a TOTP secret: %w", err)
	}
	steps, ok := matchTOTP(raw, code, stepAt(t.at), m.cfg.Strict)
	return steps, ok, nil
}

func (m *Manager) compareBackup(ctx context.Context, t try, a Attempt, code string) (consume, error) {
	hash, err := m.cfg.Derive(ctx, []byte(code), t.salt)
	if err != nil {
		return nil, err
	}
	macs, err := m.keys.MACs(pepper, a.UserPublicID[:], hash)
	if err != nil {
		return nil, err
	}
	hashes := make([][]byte, len(macs))
	for i := range macs {
		hashes[i] = macs[i][:]
	}
	// Its place in the set is looked up by hash: nothing about the code leaks by time.
	return func(ctx context.Context, tx *postgres.Tx, r *Result) error {
		err := tx.QueryRow(ctx, `update user_mfa set last_used_at = $4,
				backup_codes = array(select c from unnest(backup_codes) c where c <> all($3::bytea[]))
			where id = $1 and is_enabled and backup_salt = $2 and backup_codes && $3::bytea[]
			returning cardinality(backup_codes)`, t.rowID, t.salt, hashes, t.at).Scan(&r.BackupCodesLeft)
		if errors.Is(err, postgres.ErrNoRows) {
			return errSpent // or never was one: only the hash is kept, so nobody can tell
		}
		if err != nil {
			return fmt.Errorf("use a backup code: %w", err)
		}
		return tell(tx, a.UserPublicID, "mfa.backup_code_used", map[string]any{"factor_id": t.factorID, "left": r.BackupCodesLeft})
	}, nil
}

// settle closes a try as successful: the account's window starts afresh.
func (m *Manager) settle(ctx context.Context, tx *postgres.Tx, t try, a Attempt) error {
	open := false
	b := &pgx.Batch{}
	b.Queue(`update mfa_guards set tries = 0 where user_id = $1 returning suspended_at is null`, a.UserID).
		QueryRow(func(row pgx.Row) error { return row.Scan(&open) })
	b.Queue(`update mfa_attempts set success = true, reason = $2 where id = $1`, t.id, accepted)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("settle a try: %w", err)
	}
	if !open { // suspended since the try was reserved
		return ErrSuspended
	}
	return nil
}
