package user

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/postgres"
)

// Export is everything kept about a person in the tables of accounts. It holds
// no hash of a password or token. Sessions, factors, streams and events are
// exported by their own rooms.
type Export struct {
	User
	EmailVerifiedAt   *time.Time       `json:"email_verified_at"`
	PasswordChangedAt *time.Time       `json:"password_changed_at"`
	LastLoginIP       *netip.Addr      `json:"last_login_ip"`
	Tokens            []ExportedToken  `json:"tokens"  db:"-"`
	EmailChange       *ExportedChange  `json:"email_change" db:"-"`
	Billing           *ExportedBilling `json:"billing" db:"-"`
}

// ExportedToken is a link that was mailed.
type ExportedToken struct {
	Purpose    Purpose           `json:"purpose"`
	Detail     map[string]string `json:"detail"`
	CreatedAt  time.Time         `json:"created_at"`
	ExpiresAt  time.Time         `json:"expires_at"`
	ConsumedAt *time.Time        `json:"consumed_at"`
}

// ExportedChange is the account's last change of address, asked for or made.
type ExportedChange struct {
	OldEmail  string     `json:"old_email"`
	NewEmail  string     `json:"new_email"`
	AskedAt   time.Time  `json:"asked_at"`
	ChangedAt *time.Time `json:"changed_at"`
	EndsAt    time.Time  `json:"ends_at"`
}

// ExportedBilling is the account's row in billing_accounts, a table of Phase 24.2.
type ExportedBilling struct {
	PaymentMethod    *string    `json:"payment_method"`
	SubscriptionTier *string    `json:"subscription_tier"`
	MonthlyLimitGB   *int64     `json:"monthly_limit_gb" db:"monthly_limit_gb"`
	CreatedAt        *time.Time `json:"created_at"`
	UpdatedAt        *time.Time `json:"updated_at"`
}

// Export returns everything kept about one account.
func (s *Store) Export(ctx context.Context, id uuid.UUID) (Export, error) {
	rows, err := s.db.Query(ctx, "select "+columns+`, u.email_verified_at, u.password_changed_at, u.last_login_ip
		from users u where u.public_id = $1`, id)
	if err != nil {
		return Export{}, fmt.Errorf("export user: %w", err)
	}
	e, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Export])
	if errors.Is(err, postgres.ErrNoRows) {
		return Export{}, ErrNotFound
	}
	if err != nil {
		return Export{}, fmt.Errorf("export user: %w", err)
	}
	e.User = e.inUTC()
	e.EmailVerifiedAt, e.PasswordChangedAt = utc(e.EmailVerifiedAt), utc(e.PasswordChangedAt)
	if err := s.exportTokens(ctx, &e); err != nil {
		return Export{}, err
	}
	if err := s.exportChange(ctx, &e); err != nil {
		return Export{}, err
	}
	return e, s.exportBilling(ctx, &e)
}

func (s *Store) exportChange(ctx context.Context, e *Export) error {
	rows, err := s.db.Query(ctx, `select old_email, new_email, asked_at, changed_at, ends_at from email_changes where user_id = $1`, e.ID)
	if err != nil {
		return fmt.Errorf("export a change of address: %w", err)
	}
	c, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[ExportedChange])
	if errors.Is(err, postgres.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("export a change of address: %w", err)
	}
	c.AskedAt, c.ChangedAt, c.EndsAt = c.AskedAt.UTC(), utc(c.ChangedAt), c.EndsAt.UTC()
	e.EmailChange = &c
	return nil
}

func (s *Store) exportTokens(ctx context.Context, e *Export) error {
	rows, err := s.db.Query(ctx, `select purpose, detail, created_at, expires_at, consumed_at
		from user_tokens where user_id = $1 order by created_at`, e.ID)
	if err != nil {
		return fmt.Errorf("export tokens: %w", err)
	}
	e.Tokens, err = pgx.CollectRows(rows, pgx.RowToStructByName[ExportedToken])
	if err != nil {
		return fmt.Errorf("export tokens: %w", err)
	}
	for i, t := range e.Tokens {
		e.Tokens[i].CreatedAt, e.Tokens[i].ExpiresAt, e.Tokens[i].ConsumedAt = t.CreatedAt.UTC(), t.ExpiresAt.UTC(), utc(t.ConsumedAt)
	}
	return nil
}

func (s *Store) exportBilling(ctx context.Context, e *Export) error {
	rows, err := s.db.Query(ctx, `select payment_method, subscription_tier, monthly_limit_gb, created_at, updated_at
		from billing_accounts where user_id = $1`, e.ID)
	if err != nil {
		return fmt.Errorf("export billing: %w", err)
	}
	b, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[ExportedBilling])
	if errors.Is(err, postgres.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("export billing: %w", err)
	}
	b.CreatedAt, b.UpdatedAt = utc(b.CreatedAt), utc(b.UpdatedAt)
	e.Billing = &b
	return nil
}
