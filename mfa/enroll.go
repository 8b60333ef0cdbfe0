package mfa

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/postgres"
	"rootstream/secret"
)

// Enrollment is a new authenticator, shown once and pending until a code proves it.
type Enrollment struct {
	FactorID uuid.UUID
	Secret   secret.Secret // base 32, to type in
	URI      secret.Secret // otpauth URI, to open
	QR       secret.Secret // SVG of the URI, to scan
}

// EnrollTOTP begins the set-up of an authenticator; it replaces one that was
// begun and not confirmed. ErrFactorExists if one is set up already.
func (m *Manager) EnrollTOTP(ctx context.Context, tx *postgres.Tx, a Account) (Enrollment, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Enrollment{}, fmt.Errorf("name a factor: %w", err)
	}
	raw := make([]byte, secretSize)
	_, _ = rand.Read(raw) // never fails
	sealed, err := m.keys.Seal(bind(id, a.UserPublicID), raw)
	if err != nil {
		return Enrollment{}, fmt.Errorf("seal a TOTP secret: %w", err)
	}
	text := encodeSecret(raw)
	uri := otpauthURI(m.cfg.Issuer, a.Label, text)
	svg, err := qrSVG(uri)
	if err != nil {
		return Enrollment{}, err
	}
	if err := m.replacePending(ctx, tx, a, id, sealed); err != nil {
		return Enrollment{}, err
	}
	if err := tell(tx, a.UserPublicID, "mfa.enrolled", map[string]any{"factor_id": id, "method": TOTP}); err != nil {
		return Enrollment{}, err
	}
	return Enrollment{
		FactorID: id, Secret: secret.FromString(text), URI: secret.FromString(uri), QR: secret.FromString(svg),
	}, nil
}

func (m *Manager) replacePending(ctx context.Context, tx *postgres.Tx, a Account, id uuid.UUID, sealed []byte) error {
	exists, err := m.lockFactors(ctx, tx, a.UserID)
	if err != nil {
		return err
	}
	if exists {
		return ErrFactorExists
	}
	b := &pgx.Batch{}
	b.Queue(`delete from user_mfa where user_id = $1 and method = 'totp' and not is_enabled`, a.UserID)
	b.Queue(`insert into user_mfa (public_id, user_id, method, secret, created_at)
		values ($1, $2, 'totp', $3, coalesce($4, clock_timestamp()))`, id, a.UserID, sealed, m.clock())
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("store a factor: %w", err)
	}
	return nil
}

// lockFactors makes factors of one account change one after the other, and
// reports whether it has an authenticator. The account comes first: whatever
// ends its sessions waits for the transaction, or comes before it.
func (m *Manager) lockFactors(ctx context.Context, tx *postgres.Tx, userID int64) (has bool, err error) {
	b := &pgx.Batch{}
	b.Queue(`select from users where id = $1 for no key update`, userID)
	queueGuard(b, userID)
	b.Queue(hasFactor, userID).QueryRow(func(row pgx.Row) error { return row.Scan(&has) })
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return false, fmt.Errorf("lock an account's factors: %w", err)
	}
	return has, nil
}

// queueGuard locks the account's guard row: the first lock of every transaction of this room, after the account's own
// where that is locked at all.
func queueGuard(b *pgx.Batch, userID int64) {
	b.Queue(`insert into mfa_guards (user_id) values ($1) on conflict (user_id) do update set user_id = excluded.user_id`, userID)
}

// Confirmation is the first code of a new authenticator.
type Confirmation struct {
	UserID       int64
	UserPublicID uuid.UUID
	FactorID     uuid.UUID
	Code         string
	IP           netip.Addr
}

// ConfirmTOTP enables the authenticator if the code is right and returns new
// backup codes, which are shown this once. The code is spent; it counts
// against the same budget as any other try. also runs in the transaction that
// enables the factor; it may be nil.
func (m *Manager) ConfirmTOTP(ctx context.Context, c Confirmation, also func(ctx context.Context, tx *postgres.Tx) error) ([]string, error) {
	code, err := normalTOTP(c.Code)
	if err != nil {
		return nil, err
	}
	if m.keys == nil { // no try is spent
		return nil, secret.ErrKeysetMissing
	}
	a := Attempt{UserID: c.UserID, UserPublicID: c.UserPublicID, Method: TOTP, IP: c.IP}
	t, err := m.reserve(ctx, a, &c.FactorID)
	if err == nil && t.rowID == 0 { // confirmed or removed while this try waited for its turn
		m.refund(ctx, t, a)
		err = ErrFactorNotFound
	}
	if err != nil {
		return nil, m.whyNotPending(ctx, c, err)
	}
	steps, ok, err := m.compareTOTP(t, a, code)
	if err != nil {
		m.refund(ctx, t, a)
		return nil, err
	}
	if !ok {
		return nil, m.fail(ctx, t, a, wrongCode)
	}
	codes, batch, err := m.newBackupCodes(ctx, c.UserPublicID)
	if err != nil {
		m.refund(ctx, t, a)
		return nil, err
	}
	enable := func(b *pgx.Batch) *pgx.QueuedQuery { // no row if it was confirmed, replaced or removed meanwhile
		return b.Queue(`update user_mfa set is_enabled = true, last_step = $2, confirmed_at = $3, last_used_at = $3
			where id = $1 and not is_enabled returning -1`, t.rowID, steps.last, t.at)
	}
	err = m.finish(ctx, t, a, enable, func(ctx context.Context, tx *postgres.Tx, _ int) error {
		if e := m.storeBackupCodes(ctx, tx, a.UserID, batch); e != nil {
			return e
		}
		if e := tell(tx, a.UserPublicID, "mfa.confirmed", map[string]any{"factor_id": t.factorID, "method": TOTP}); e != nil {
			return e
		}
		if e := tellCodes(tx, a.UserPublicID, batch); e != nil || also == nil {
			return e
		}
		return also(ctx, tx)
	})
	if err != nil {
		return nil, err
	}
	return codes, nil
}

// whyNotPending tells apart what a factor that cannot be confirmed is.
func (m *Manager) whyNotPending(ctx context.Context, c Confirmation, err error) error {
	if !errors.Is(err, ErrFactorNotFound) {
		return err
	}
	var enabled bool
	scan := m.db.QueryRow(ctx, `select is_enabled from user_mfa where public_id = $1 and user_id = $2 and method = 'totp'`,
		c.FactorID, c.UserID).Scan(&enabled)
	switch {
	case errors.Is(scan, postgres.ErrNoRows):
		return err
	case scan != nil:
		return fmt.Errorf("find a factor: %w", scan)
	case enabled:
		return ErrFactorExists
	default:
		return ErrEnrollmentExpired
	}
}
