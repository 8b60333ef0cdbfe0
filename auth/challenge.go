package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"rootstream/internal/base64url"
	"rootstream/mfa"
	"rootstream/postgres"
)

// Challenge is a sign-in whose password was right and whose code is missing.
type Challenge struct {
	ID        string       `json:"challenge_id"` // a secret of whoever knew the password
	Methods   []mfa.Method `json:"methods"`
	ExpiresAt time.Time    `json:"expires_at"`
}

const (
	challengePrefix = "sch_"
	purposeLogin    = "login"
)

// pendingLogin is what a challenge remembers until its code arrives.
type pendingLogin struct {
	UserID int64 `json:"-"`

	Proof      []byte `json:"proof"` // fingerprint of the stored hash the password matched
	Remember   bool   `json:"remember,omitempty"`
	DeviceID   string `json:"device_id,omitempty"`
	DeviceName string `json:"device_name,omitempty"`
	Tally      string `json:"tally"` // the failures that the end of this sign-in forgives
}

func newChallengeID() string {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails
	return challengePrefix + base64url.Encode(random[:])
}

// challengeHash is what a challenge is looked up by; false for what is none.
func challengeHash(id string) ([]byte, bool) {
	random, ok := strings.CutPrefix(id, challengePrefix)
	if _, err := base64url.Decode(random); !ok || err != nil || len(random) != 43 {
		return nil, false
	}
	sum := sha256.Sum256([]byte(id))
	return sum[:], true
}

// challenge writes a pending sign-in down and returns its id, which is kept nowhere.
func (s *Service) challenge(ctx context.Context, tx *postgres.Tx, p pendingLogin) (Challenge, error) {
	c := Challenge{ID: newChallengeID()}
	hash, _ := challengeHash(c.ID)
	err := tx.QueryRow(ctx, `insert into auth_challenges (token_hash, purpose, user_id, detail, expires_at)
		values ($1, $2, $3, $4, clock_timestamp() + $5::interval) returning expires_at`,
		hash, purposeLogin, p.UserID, p, s.cfg.ChallengeFor).Scan(&c.ExpiresAt)
	if err != nil {
		return Challenge{}, fmt.Errorf("store a challenge: %w", err)
	}
	c.ExpiresAt = c.ExpiresAt.UTC()
	return c, nil
}

// pending reads an open challenge.
func (s *Service) pending(ctx context.Context, id string) (pendingLogin, error) {
	hash, ok := challengeHash(id)
	if !ok {
		return pendingLogin{}, ErrChallengeGone
	}
	var p pendingLogin
	err := s.db.QueryRow(ctx, `select detail, user_id from auth_challenges
		where token_hash = $1 and purpose = $2 and consumed_at is null and expires_at > clock_timestamp()`,
		hash, purposeLogin).Scan(&p, &p.UserID)
	if errors.Is(err, postgres.ErrNoRows) {
		return pendingLogin{}, ErrChallengeGone
	}
	if err != nil {
		return pendingLogin{}, fmt.Errorf("read a challenge: %w", err)
	}
	return p, nil
}

// consumeChallenge uses a challenge up; whoever comes second finds it gone.
func consumeChallenge(ctx context.Context, tx *postgres.Tx, id string) error {
	hash, _ := challengeHash(id)
	tag, err := tx.Exec(ctx, `update auth_challenges set consumed_at = clock_timestamp()
		where token_hash = $1 and consumed_at is null and expires_at > clock_timestamp()`, hash)
	if err != nil {
		return fmt.Errorf("use a challenge: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return ErrChallengeGone
	}
	return nil
}

// dropChallenges ends every sign-in of a user that was begun and not finished.
func dropChallenges(ctx context.Context, tx *postgres.Tx, userID int64) error {
	_, err := tx.Exec(ctx, `update auth_challenges set consumed_at = clock_timestamp()
		where user_id = $1 and consumed_at is null`, userID)
	if err != nil {
		return fmt.Errorf("end challenges: %w", err)
	}
	return nil
}
