package mfa

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"rootstream/postgres"
)

// pepper is the purpose of the keyset's MAC over backup codes.
const pepper = "mfa.backup_code"

// batch is what is kept of ten backup codes.
type batch struct {
	id     uuid.UUID
	salt   []byte
	hashes [][]byte
}

// newBackupCodes draws ten codes. All share one salt, so checking one later
// costs one Argon2id whichever it is.
func (m *Manager) newBackupCodes(ctx context.Context, user uuid.UUID) ([]string, batch, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, batch{}, fmt.Errorf("name backup codes: %w", err)
	}
	b := batch{id: id, salt: make([]byte, saltSize)}
	_, _ = rand.Read(b.salt) // never fails
	codes := make([]string, backupCount)
	for i := range codes {
		codes[i] = newBackupCode()
		hash, err := m.cfg.Derive(ctx, []byte(strings.ReplaceAll(codes[i], "-", "")), b.salt)
		if err != nil {
			return nil, batch{}, err
		}
		mac, err := m.keys.MAC(pepper, user[:], hash)
		if err != nil {
			return nil, batch{}, err
		}
		b.hashes = append(b.hashes, mac[:])
	}
	return codes, b, nil
}

// storeBackupCodes replaces the account's codes.
func (m *Manager) storeBackupCodes(ctx context.Context, tx *postgres.Tx, userID int64, b batch) error {
	_, err := tx.Exec(ctx, `insert into user_mfa (public_id, user_id, method, is_enabled, backup_salt, backup_codes, created_at, confirmed_at)
		select $1, $2, 'backup_code', true, $3, $4, c.at, c.at from (select coalesce($5::timestamptz, clock_timestamp()) as at) c
		on conflict (user_id, method) where is_enabled do update set public_id = excluded.public_id,
			backup_salt = excluded.backup_salt, backup_codes = excluded.backup_codes, created_at = excluded.created_at,
			confirmed_at = excluded.confirmed_at, last_used_at = null`, b.id, userID, b.salt, b.hashes, m.clock())
	if err != nil {
		return fmt.Errorf("store backup codes: %w", err)
	}
	return nil
}

// GenerateBackupCodes replaces the account's backup codes by ten new ones,
// shown this once. also runs in the same transaction; it may be nil.
// ErrFactorNotFound if the account has no authenticator they could back up.
func (m *Manager) GenerateBackupCodes(ctx context.Context, a Account, also func(ctx context.Context, tx *postgres.Tx) error) ([]string, error) {
	switch has, err := m.HasFactor(ctx, m.db, a.UserID); {
	case err != nil:
		return nil, err
	case !has:
		return nil, ErrFactorNotFound
	}
	codes, b, err := m.newBackupCodes(ctx, a.UserPublicID) // slow: before the transaction
	if err != nil {
		return nil, err
	}
	err = m.db.InTx(ctx, func(tx *postgres.Tx) error {
		has, e := m.lockFactors(ctx, tx, a.UserID)
		switch {
		case e != nil:
			return e
		case !has: // it has gone since
			return ErrFactorNotFound
		}
		if e = m.storeBackupCodes(ctx, tx, a.UserID, b); e != nil {
			return e
		}
		if e = tellCodes(tx, a.UserPublicID, b); e != nil || also == nil {
			return e
		}
		return also(ctx, tx)
	})
	if err != nil {
		return nil, err
	}
	return codes, nil
}

func tellCodes(tx *postgres.Tx, user uuid.UUID, b batch) error {
	return tell(tx, user, "mfa.backup_codes_created", map[string]any{"factor_id": b.id, "count": len(b.hashes)})
}
