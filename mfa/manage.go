package mfa

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/postgres"
)

// Status is what an account has set up.
type Status struct {
	Enabled         bool       `json:"enabled"`           // an authenticator is set up
	Methods         []Method   `json:"methods"`           // ways to answer a challenge now
	Factors         []Factor   `json:"factors"`           // without secrets
	BackupCodesLeft int        `json:"backup_codes_left"` // unused ones
	LockedUntil     *time.Time `json:"locked_until"`      // the window's tries are used up until then
	SuspendedAt     *time.Time `json:"suspended_at"`      // until an operator lifts it
}

// Factor is one enabled factor.
type Factor struct {
	ID          uuid.UUID  `json:"id"`
	Method      Method     `json:"method"`
	Name        string     `json:"name"`
	CreatedAt   time.Time  `json:"created_at"`
	ConfirmedAt *time.Time `json:"confirmed_at"`
	LastUsedAt  *time.Time `json:"last_used_at"`
}

const hasFactor = `select exists (select from user_mfa where user_id = $1 and method = 'totp' and is_enabled)`

// HasFactor reports whether signing in to the account needs a second factor.
func (*Manager) HasFactor(ctx context.Context, q postgres.Querier, userID int64) (bool, error) {
	var has bool
	err := q.QueryRow(ctx, hasFactor, userID).Scan(&has)
	if err != nil {
		return false, fmt.Errorf("look for a factor: %w", err)
	}
	return has, nil
}

// Status reads what an account has set up.
func (m *Manager) Status(ctx context.Context, userID int64) (Status, error) {
	s := Status{Methods: []Method{}, Factors: []Factor{}}
	b := &pgx.Batch{}
	b.Queue(`select public_id, method, name, created_at, confirmed_at, last_used_at, cardinality(backup_codes)
		from user_mfa where user_id = $1 and is_enabled order by method desc`, userID).Query(func(rows pgx.Rows) error {
		var f Factor
		var left int
		_, err := pgx.ForEachRow(rows, []any{&f.ID, &f.Method, &f.Name, &f.CreatedAt, &f.ConfirmedAt, &f.LastUsedAt, &left}, func() error {
			s.Factors = append(s.Factors, f)
			s.BackupCodesLeft += left
			s.Enabled = s.Enabled || f.Method == TOTP
			if f.Method == TOTP || left > 0 {
				s.Methods = append(s.Methods, f.Method)
			}
			return nil
		})
		return err
	})
	b.Queue(`select suspended_at, case when tries >= $3 and window_started + $4::interval > c.at
			then window_started + $4::interval end
		from mfa_guards, (select coalesce($2::timestamptz, clock_timestamp()) as at) c
		where user_id = $1`, userID, m.clock(), m.cfg.MaxTries, m.cfg.Window).Query(func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&s.SuspendedAt, &s.LockedUntil}, func() error { return nil })
		return err
	})
	if err := m.db.SendBatch(ctx, b).Close(); err != nil {
		return Status{}, fmt.Errorf("read an account's factors: %w", err)
	}
	return s, nil
}

// Unenroll removes an authenticator, enabled or pending. Backup codes go with
// the last one: they open nothing by themselves.
func (m *Manager) Unenroll(ctx context.Context, tx *postgres.Tx, a Account, factor uuid.UUID) error {
	if _, err := m.lockFactors(ctx, tx, a.UserID); err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, `delete from user_mfa where user_id = $1 and public_id = $2 and method = 'totp'`, a.UserID, factor)
	if err != nil {
		return fmt.Errorf("remove a factor: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return ErrFactorNotFound
	}
	_, err = tx.Exec(ctx, `delete from user_mfa where user_id = $1 and method = 'backup_code'
		and not exists (select from user_mfa where user_id = $1 and method = 'totp' and is_enabled)`, a.UserID)
	if err != nil {
		return fmt.Errorf("remove backup codes: %w", err)
	}
	return tell(tx, a.UserPublicID, "mfa.removed", map[string]any{"factor_id": factor, "method": TOTP})
}

// Reset removes all factors of an account, its suspension and its budget. It
// is for operators; by is who did it, uuid.Nil for the machine's own operator.
func (m *Manager) Reset(ctx context.Context, tx *postgres.Tx, a Account, by uuid.UUID) error {
	var removed []Factor
	b := &pgx.Batch{}
	queueGuard(b, a.UserID)
	b.Queue(`delete from user_mfa where user_id = $1 returning public_id, method`, a.UserID).Query(func(rows pgx.Rows) error {
		var f Factor
		_, err := pgx.ForEachRow(rows, []any{&f.ID, &f.Method}, func() error { removed = append(removed, f); return nil })
		return err
	})
	m.queueForgive(b, a.UserID)
	b.Queue(`delete from mfa_guards where user_id = $1`, a.UserID)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("reset an account's factors: %w", err)
	}
	for _, f := range removed {
		e := map[string]any{"factor_id": f.ID, "method": f.Method, "reason": "reset"}
		if err := tellBy(tx, a.UserPublicID, by, "mfa.removed", e); err != nil {
			return err
		}
	}
	return nil
}

// Resume lifts an account's suspension; its factors stay as they are.
func (m *Manager) Resume(ctx context.Context, tx *postgres.Tx, a Account, by uuid.UUID) error {
	b := &pgx.Batch{}
	b.Queue(`update mfa_guards set suspended_at = null, tries = 0 where user_id = $1`, a.UserID)
	m.queueForgive(b, a.UserID)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("resume an account's factors: %w", err)
	}
	return tellBy(tx, a.UserPublicID, by, "mfa.resumed", nil)
}

// queueForgive stops counting the account's failures so far.
func (m *Manager) queueForgive(b *pgx.Batch, userID int64) {
	b.Queue(`update mfa_attempts set reason = $2 where user_id = $1 and not success
		and attempted_at > coalesce($3::timestamptz, clock_timestamp()) - $4::interval`,
		userID, forgiven, m.clock(), m.cfg.SuspendWindow)
}
