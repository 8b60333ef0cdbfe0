package auth

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"rootstream/postgres"
	"rootstream/user"
)

// read finds an account, as far as this room needs it within a transaction: the
// store's own reads take a second connection, which must not be waited for there.
func read(ctx context.Context, q postgres.Querier, where string, arg any) (user.User, error) {
	var u user.User
	err := q.QueryRow(ctx, `select id, public_id, username, email, role, coalesce(is_verified, false), coalesce(is_active, false)
		from users where `+where, arg).Scan(&u.ID, &u.PublicID, &u.Username, &u.Email, &u.Role, &u.IsVerified, &u.IsActive)
	if errors.Is(err, postgres.ErrNoRows) {
		return user.User{}, user.ErrNotFound
	}
	if err != nil {
		return user.User{}, fmt.Errorf("read an account: %w", err)
	}
	return u, nil
}

func readAccount(ctx context.Context, tx *postgres.Tx, id uuid.UUID) (user.User, error) {
	return read(ctx, tx, `public_id = $1`, id)
}

// lockAccount is readAccount of one that nobody else may change until tx ends.
func lockAccount(ctx context.Context, tx *postgres.Tx, id uuid.UUID) (user.User, error) {
	return read(ctx, tx, `public_id = $1 for no key update`, id)
}

// readOwner finds who holds an address, in whatever case.
func readOwner(ctx context.Context, q postgres.Querier, email string) (user.User, error) {
	return read(ctx, q, `lower(email) = lower($1) order by email = $1 desc, is_case_duplicate limit 1`, email)
}
