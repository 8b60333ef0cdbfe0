package user

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/postgres"
)

// locked returns the account, which nobody else may change until tx ends.
func locked(ctx context.Context, tx *postgres.Tx, id uuid.UUID) (User, error) {
	return one(tx.Query(ctx, "select "+columns+" from users u where u.public_id = $1 for no key update", id))
}

// Profile is a change of what others see; a nil field stays as it is, an empty one is cleared.
type Profile struct {
	DisplayName *string
	AvatarURL   *string
}

// UpdateProfile changes what p names. The event tells the fields that really changed.
func (s *Store) UpdateProfile(ctx context.Context, tx *postgres.Tx, id uuid.UUID, p Profile, actor uuid.UUID) (User, error) {
	var f errs.Fields
	if p.DisplayName != nil {
		clean := NormalizeDisplayName(*p.DisplayName)
		p.DisplayName = &clean
		note(&f, "display_name", CheckDisplayName(clean))
	}
	if p.AvatarURL != nil {
		note(&f, "avatar_url", CheckAvatarURL(*p.AvatarURL))
	}
	if err := f.Err(); err != nil {
		return User{}, err
	}
	u, err := locked(ctx, tx, id)
	if err != nil {
		return User{}, fmt.Errorf("update profile: %w", err)
	}
	var fields []string
	if p.DisplayName != nil && *p.DisplayName != u.DisplayName {
		fields = append(fields, "display_name")
	}
	if p.AvatarURL != nil && *p.AvatarURL != u.AvatarURL {
		fields = append(fields, "avatar_url")
	}
	if len(fields) == 0 {
		return u, nil
	}
	u, err = one(tx.Query(ctx, `update users u set display_name = nullif(coalesce($2, u.display_name), ''),
		avatar_url = nullif(coalesce($3, u.avatar_url), '') where u.id = $1 returning `+columns, u.ID, p.DisplayName, p.AvatarURL))
	if err != nil {
		return User{}, fmt.Errorf("update profile: %w", err)
	}
	return u, tell(tx, id, "user.updated", actor, changed(id, fields...))
}

// SetEmail gives the account another address, which counts as unverified, and
// ends every link mailed so far, and what of an earlier change was still open.
// [ErrEmailTaken] leaves the transaction usable.
func (s *Store) SetEmail(ctx context.Context, tx *postgres.Tx, id uuid.UUID, email string, actor uuid.UUID) (User, error) {
	email = NormalizeEmail(email)
	if fault := CheckEmail(email); fault != "" {
		return User{}, errs.NewInvalid("email", fault)
	}
	u, err := locked(ctx, tx, id)
	if err != nil {
		return User{}, fmt.Errorf("set e-mail: %w", err)
	}
	if u.Email == email {
		return u, nil
	}
	if err = move(ctx, tx, u, address{email: email, actor: actor}); err != nil {
		return User{}, err
	}
	if _, err = tx.Exec(ctx, "delete from email_changes where user_id = $1", u.ID); err != nil {
		return User{}, fmt.Errorf("set e-mail: %w", err)
	}
	return locked(ctx, tx, id)
}

// MarkVerified records that the address is the owner's.
func (s *Store) MarkVerified(ctx context.Context, tx *postgres.Tx, id, actor uuid.UUID) (User, error) {
	u, err := locked(ctx, tx, id)
	if err != nil {
		return User{}, fmt.Errorf("mark verified: %w", err)
	}
	if u.IsVerified {
		return u, nil
	}
	u, err = one(tx.Query(ctx, `update users u set is_verified = true, email_verified_at = now()
		where u.id = $1 returning `+columns, u.ID))
	if err != nil {
		return User{}, fmt.Errorf("mark verified: %w", err)
	}
	return u, tell(tx, id, "user.verified", actor, nil)
}

// SetRole changes what the account may do.
func (s *Store) SetRole(ctx context.Context, tx *postgres.Tx, id uuid.UUID, role Role, actor uuid.UUID) (User, error) {
	if !role.Valid() {
		return User{}, errs.NewInvalid("role", "must be user, operator or admin")
	}
	u, err := locked(ctx, tx, id)
	if err != nil {
		return User{}, fmt.Errorf("set role: %w", err)
	}
	before := u.Role
	if before == role {
		return u, nil
	}
	u, err = one(tx.Query(ctx, "update users u set role = $2 where u.id = $1 returning "+columns, u.ID, role))
	if err != nil {
		return User{}, fmt.Errorf("set role: %w", err)
	}
	return u, tell(tx, id, "user.role_changed", actor, map[string]any{"from": before, "to": role})
}

// SetActive enables or disables the account. Of a disabled one every link
// mailed so far ends, also for when it is enabled again, and a trigger of the
// table ends the sessions in the same transaction.
func (s *Store) SetActive(ctx context.Context, tx *postgres.Tx, id uuid.UUID, active bool, actor uuid.UUID) (User, error) {
	u, err := locked(ctx, tx, id)
	if err != nil {
		return User{}, fmt.Errorf("set active: %w", err)
	}
	if u.IsActive == active {
		return u, nil
	}
	u, err = one(tx.Query(ctx, "update users u set is_active = $2 where u.id = $1 returning "+columns, u.ID, active))
	if err != nil {
		return User{}, fmt.Errorf("set active: %w", err)
	}
	if active {
		return u, tell(tx, id, "user.enabled", actor, nil)
	}
	if err = revokeTokens(ctx, tx, u.ID); err != nil {
		return User{}, err
	}
	return u, tell(tx, id, "user.disabled", actor, nil)
}

// SetPassword stores the hash of a new password and ends every link mailed so
// far. Ending sessions is the caller's, who knows which one to keep.
func (s *Store) SetPassword(ctx context.Context, tx *postgres.Tx, id uuid.UUID, hash string, actor uuid.UUID) error {
	if err := CheckHash(hash); err != nil {
		return err
	}
	u, err := locked(ctx, tx, id)
	if err != nil {
		return fmt.Errorf("set password: %w", err)
	}
	if err := revokeTokens(ctx, tx, u.ID); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "update users set password_hash = $2, password_changed_at = now() where id = $1", u.ID, hash); err != nil {
		return fmt.Errorf("set password: %w", err)
	}
	return tell(tx, id, "user.password_changed", actor, nil)
}

// ReplaceHash stores the same password hashed anew, unless the password was
// changed since old was read. It is no change of the account and appends no event.
func (s *Store) ReplaceHash(ctx context.Context, tx *postgres.Tx, id uuid.UUID, old, hash string) (bool, error) {
	if err := CheckHash(hash); err != nil {
		return false, err
	}
	tag, err := tx.Exec(ctx, "update users set password_hash = $3 where public_id = $1 and password_hash = $2", id, old, hash)
	if err != nil {
		return false, fmt.Errorf("replace hash: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// Login is a sign-in that succeeded.
type Login struct {
	IP        netip.Addr // zero means unknown
	SessionID uuid.UUID  // the session it made; uuid.Nil means none
	Methods   []string   // how the owner was recognised, as in the session's amr
}

// TouchLogin records the time and address of a sign-in. The event,
// user.login_succeeded, carries no address.
func (s *Store) TouchLogin(ctx context.Context, tx *postgres.Tx, id uuid.UUID, l Login) error {
	var ip *netip.Addr
	if l.IP.IsValid() {
		bare := l.IP.Unmap().WithZone("")
		ip = &bare
	}
	tag, err := tx.Exec(ctx, `update users set last_login_at = now(), last_login_ip = coalesce($2, last_login_ip)
		where public_id = $1`, id, ip)
	if err != nil {
		return fmt.Errorf("touch login: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return ErrNotFound
	}
	data := map[string]any{}
	if l.SessionID != uuid.Nil {
		data["session_id"] = l.SessionID
	}
	if len(l.Methods) > 0 {
		data["methods"] = l.Methods
	}
	return tell(tx, id, "user.login_succeeded", uuid.Nil, data)
}

// Delete erases the account and, by cascade, its sessions, factors and
// streams. Its events stay: they hold ids, no personal values.
func (s *Store) Delete(ctx context.Context, tx *postgres.Tx, id, actor uuid.UUID) error {
	tag, err := tx.Exec(ctx, "delete from users where public_id = $1", id)
	if err != nil {
		return fmt.Errorf("delete user: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return ErrNotFound
	}
	return tell(tx, id, "user.deleted", actor, nil)
}
