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
	err = m.finish(ctx, t, a, use,
		func(_ context.Context, tx *postgres.Tx, left int) error {
			r.BackupCodesLeft = left
			data := map[string]any{"factor_id": r.FactorID, "method": r.Method}
			if r.Method == BackupCode {
				data["left"] = left
				if e := tell(tx, a.UserPublicID, "mfa.backup_code_used", data); e != nil {
					return e
				}
			}
			return tell(tx, a.UserPublicID, "mfa.verified", data)
		},
		func(ctx context.Context, tx *postgres.Tx, _ int) error {
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

// after is what follows from a code that was used up; left is the number of
// backup codes that are, or -1.
type after func(ctx context.Context, tx *postgres.Tx, left int) error

// finish settles a try as right, uses the code up and does what follows, in one transaction.
func (m *Manager) finish(ctx context.Context, t try, a Attempt, use consume, steps ...after) error {
	err := m.db.InTx(ctx, func(tx *postgres.Tx) error {
		left, err := settle(ctx, tx, t, a, use)
		if err != nil {
			return err
		}
		for _, step := range steps {
			if err := step(ctx, tx, left); err != nil {
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

// consume queues the statement that uses a right code up. It returns one row,
// the number of backup codes left or -1, if the code was not used before.
type consume func(b *pgx.Batch) *pgx.QueuedQuery

// compare judges a code. It returns nil for a wrong one.
func (m *Manager) compare(ctx context.Context, t try, a Attempt, code string) (consume, error) {
	if a.Method == BackupCode {
		return m.compareBackup(ctx, t, a, code)
	}
	steps, ok, err := m.compareTOTP(t, a, code)
	if err != nil || !ok {
		return nil, err
	}
	return func(b *pgx.Batch) *pgx.QueuedQuery {
		// The row's own last step decides: what was read at the reservation may be old.
		return b.Queue(`update user_mfa set last_step = $3, last_used_at = $4
			where id = $1 and is_enabled and last_step < $2 returning -1`, t.rowID, steps.first, steps.last, t.at)
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
	return func(b *pgx.Batch) *pgx.QueuedQuery {
		// Looked up by hash, so nothing about the code leaks by time. A code that
		// is not there was used, or never was one: nobody can tell.
		return b.Queue(`update user_mfa set last_used_at = $4,
				backup_codes = array(select c from unnest(backup_codes) c where c <> all($3::bytea[]))
			where id = $1 and is_enabled and backup_salt = $2 and backup_codes && $3::bytea[]
			returning cardinality(backup_codes)`, t.rowID, t.salt, hashes, t.at)
	}, nil
}

// settle closes a try as successful, starts the account's window afresh and
// uses the code up. The account comes first, for whoever goes on to change it, then
// the guard: everything of one account waits there.
func settle(ctx context.Context, tx *postgres.Tx, t try, a Attempt, use consume) (left int, err error) {
	open, used := false, []int(nil)
	b := &pgx.Batch{}
	b.Queue(`select from users where id = $1 for no key update`, a.UserID)
	b.Queue(`update mfa_guards set tries = 0 where user_id = $1 returning suspended_at is null`, a.UserID).
		QueryRow(func(row pgx.Row) error { return row.Scan(&open) })
	b.Queue(`update mfa_attempts set success = true, reason = $2 where id = $1`, t.id, accepted)
	use(b).Query(func(rows pgx.Rows) (err error) {
		used, err = pgx.CollectRows(rows, pgx.RowTo[int])
		return err
	})
	err = tx.SendBatch(ctx, b).Close()
	switch {
	case postgres.Violates(err, "user_mfa_enabled_key"):
		return 0, ErrFactorExists
	case errors.Is(err, postgres.ErrNoRows): // the account's factors were reset since
		return 0, ErrFactorNotFound
	case err != nil:
		return 0, fmt.Errorf("use a code: %w", err)
	case !open: // suspended since the try was reserved
		return 0, ErrSuspended
	case len(used) == 0:
		return 0, errSpent
	}
	return used[0], nil
}
