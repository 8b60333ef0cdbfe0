package user

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/secret"
)

// Purpose is what a single-use token is good for.
type Purpose string

// The purposes of tokens.
const (
	VerifyEmail Purpose = "verify_email"
	Recover     Purpose = "recover"
	FirstAdmin  Purpose = "first_admin" // of no user yet
)

const (
	tokenPrefix = "sut_" // lets scanners of leaked secrets recognise one
	maxTokens   = 5      // live ones an account may have for one purpose
	maxTokenTTL = 30 * 24 * time.Hour
)

// TokenRequest says which token to issue.
type TokenRequest struct {
	Purpose Purpose
	UserID  uuid.UUID         // whose; uuid.Nil means nobody's yet
	TTL     time.Duration     // how long it lives, at most 30 days
	Detail  map[string]string // what consuming it gives back; never a secret
}

// Token is a token that was consumed.
type Token struct {
	Purpose Purpose
	UserID  uuid.UUID // uuid.Nil where it is nobody's
	Detail  map[string]string
}

// IssueToken makes a token: 32 random bytes, of which only the SHA-256 is
// stored. An account has at most five live ones for a purpose, the oldest makes
// room: mailing again never piles up links and rarely kills one on its way.
func (s *Store) IssueToken(ctx context.Context, tx *postgres.Tx, r TokenRequest) (secret.Secret, error) {
	if r.Purpose == "" || r.TTL <= 0 || r.TTL > maxTokenTTL {
		return secret.Secret{}, errs.NewInvalid("ttl", "must be more than 0 and at most 30 days, with a purpose")
	}
	var owner *int64
	if r.UserID != uuid.Nil {
		u, err := locked(ctx, tx, r.UserID)
		if err != nil {
			return secret.Secret{}, fmt.Errorf("issue token: %w", err)
		}
		owner = &u.ID
		if _, err := tx.Exec(ctx, `delete from user_tokens where token_hash in (
				select token_hash from user_tokens where user_id = $1 and purpose = $2 and consumed_at is null
				order by created_at desc, token_hash offset $3)`, u.ID, r.Purpose, maxTokens-1); err != nil {
			return secret.Secret{}, fmt.Errorf("issue token: %w", err)
		}
	}
	if r.Detail == nil {
		r.Detail = map[string]string{}
	}
	text, hash := newToken()
	if _, err := tx.Exec(ctx, `insert into user_tokens (token_hash, purpose, user_id, detail, created_at, expires_at)
		values ($1, $2, $3, $4, clock_timestamp(), clock_timestamp() + $5::interval)`,
		hash[:], r.Purpose, owner, r.Detail, r.TTL); err != nil {
		return secret.Secret{}, fmt.Errorf("issue token: %w", err)
	}
	return secret.FromString(text), nil
}

// newToken is 32 random bytes as people get them, and what is kept of them.
func newToken() (text string, hash [32]byte) {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	text = tokenPrefix + base64.RawURLEncoding.EncodeToString(raw)
	return text, sha256.Sum256([]byte(text))
}

// ConsumeToken uses a token up: of any number of callers exactly one gets it.
// What it grants must happen in the same transaction, which holds its owner's
// account from here on. Used, expired and
// unknown tokens are all [ErrTokenGone].
func (s *Store) ConsumeToken(ctx context.Context, tx *postgres.Tx, purpose Purpose, token string) (Token, error) {
	hash := sha256.Sum256([]byte(token))
	t := Token{Purpose: purpose}
	var owner *uuid.UUID
	b := &pgx.Batch{}
	b.Queue(`select from users where id = (select user_id from user_tokens where token_hash = $1 and purpose = $2)
		for no key update`, hash[:], purpose) // accounts are locked before what belongs to them
	b.Queue(`update user_tokens t set consumed_at = clock_timestamp()
		where t.token_hash = $1 and t.purpose = $2 and t.consumed_at is null and t.expires_at > clock_timestamp()
		returning (select u.public_id from users u where u.id = t.user_id), t.detail`, hash[:], purpose).
		QueryRow(func(row pgx.Row) error { return row.Scan(&owner, &t.Detail) })
	err := tx.SendBatch(ctx, b).Close()
	if errors.Is(err, postgres.ErrNoRows) {
		return Token{}, ErrTokenGone
	}
	if err != nil {
		return Token{}, fmt.Errorf("consume token: %w", err)
	}
	if owner != nil {
		t.UserID = *owner
	}
	return t, nil
}

// CheckToken says whether ConsumeToken would take a token just now: worth
// asking before work that a guess must not cause.
func (s *Store) CheckToken(ctx context.Context, purpose Purpose, token string) error {
	hash := sha256.Sum256([]byte(token))
	var good bool
	err := s.db.QueryRow(ctx, `select exists (select from user_tokens
		where token_hash = $1 and purpose = $2 and consumed_at is null and expires_at > clock_timestamp())`, hash[:], purpose).Scan(&good)
	if err != nil {
		return fmt.Errorf("look for a token: %w", err)
	}
	if !good {
		return ErrTokenGone
	}
	return nil
}

// CleanupTokens removes up to limit tokens that ended before the given time
// and returns how many; callers repeat it until it returns less than limit.
func (s *Store) CleanupTokens(ctx context.Context, tx *postgres.Tx, before time.Time, limit int) (int64, error) {
	tag, err := tx.Exec(ctx, `delete from user_tokens where token_hash in (
		select token_hash from user_tokens where expires_at < $1 order by expires_at limit $2 for update skip locked)`, before, limit)
	if err != nil {
		return 0, fmt.Errorf("clean up tokens: %w", err)
	}
	return tag.RowsAffected(), nil
}

// revokeTokens ends every live token of an account, and the change of address
// it has asked for. One that is made can be undone all the same: who took an
// account over must not keep its owner from that.
func revokeTokens(ctx context.Context, tx *postgres.Tx, id int64) error {
	b := &pgx.Batch{}
	b.Queue("delete from user_tokens where user_id = $1 and consumed_at is null", id)
	b.Queue("delete from email_changes where user_id = $1 and changed_at is null", id)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("revoke tokens: %w", err)
	}
	return nil
}
