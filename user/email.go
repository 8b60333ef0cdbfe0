package user

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/secret"
)

// EmailChange is the change of an account's address: asked for, or made.
type EmailChange struct {
	UserID   uuid.UUID
	Request  uuid.UUID // names it in mails; a newer request has another one
	Old, New string
	Undoable bool          // the old address was known to be the owner's
	EndsIn   time.Duration // how long it may still be confirmed or, once made, undone
}

const changeColumns = `c.request_id, c.old_email, c.new_email, c.undoable, c.ends_at - clock_timestamp()`

func (c *EmailChange) targets() []any {
	return []any{&c.Request, &c.Old, &c.New, &c.Undoable, &c.EndsIn}
}

// AskEmail notes that an account wants another address, which counts once
// [Store.ConfirmEmail] has the token mailed there. A newer request takes the
// place of an older one. While a change can be undone there is no further one
// ([ErrEmailSettling]), so that nobody moves an account out of the reach of
// whoever owns its old address. Whether the address is free is asked later.
func (s *Store) AskEmail(ctx context.Context, tx *postgres.Tx, id uuid.UUID, email string, ttl time.Duration) (EmailChange, error) {
	email = NormalizeEmail(email)
	if fault := CheckEmail(email); fault != "" {
		return EmailChange{}, errs.NewInvalid("email", fault)
	}
	u, err := locked(ctx, tx, id)
	if err != nil {
		return EmailChange{}, fmt.Errorf("ask for an address: %w", err)
	}
	request, err := uuid.NewV7()
	if err != nil {
		return EmailChange{}, fmt.Errorf("name a request: %w", err)
	}
	c := EmailChange{UserID: id}
	err = tx.QueryRow(ctx, `insert into email_changes as c (user_id, request_id, old_email, new_email, undoable, ends_at)
		values ($1, $2, $3, $4, $5, clock_timestamp() + $6::interval)
		on conflict (user_id) do update set request_id = excluded.request_id, old_email = excluded.old_email,
			new_email = excluded.new_email, undoable = excluded.undoable, token_hash = null, asked_at = excluded.asked_at,
			changed_at = null, ends_at = excluded.ends_at
			where c.changed_at is null or c.ends_at <= clock_timestamp()
		returning `+changeColumns, u.ID, request, u.Email, email, u.IsVerified, ttl).Scan(c.targets()...)
	if errors.Is(err, postgres.ErrNoRows) {
		err = cmp.Or(s.CheckSettled(ctx, tx, u.ID), error(ErrEmailSettling))
	}
	if err != nil {
		return EmailChange{}, fmt.Errorf("ask for an address: %w", err)
	}
	return c, nil
}

// CheckSettled refuses what an account may not do for as long as the owner of
// its old address can take it back ([ErrEmailSettling], which says until when).
func (s *Store) CheckSettled(ctx context.Context, q postgres.Querier, id int64) error {
	var until time.Time
	err := q.QueryRow(ctx, `select ends_at from email_changes
		where user_id = $1 and changed_at is not null and undoable and ends_at > clock_timestamp()`, id).Scan(&until)
	if errors.Is(err, postgres.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for a change of address: %w", err)
	}
	return ErrEmailSettling.WithHint("do it after " + until.UTC().Format(time.RFC3339) + ", when that time is over; an administrator can do it at once")
}

// IssueEmailToken makes the token that confirms a request or, once it is made,
// undoes it; one mailed before ends. [ErrTokenGone] if it can be neither any more.
func (s *Store) IssueEmailToken(ctx context.Context, tx *postgres.Tx, request uuid.UUID, made bool) (secret.Secret, EmailChange, error) {
	text, hash := newToken()
	var c EmailChange
	err := tx.QueryRow(ctx, `update email_changes c set token_hash = $3 from users u
		where c.request_id = $1 and (c.changed_at is not null) = $2 and c.undoable >= $2 and c.ends_at > clock_timestamp()
			and u.id = c.user_id and ($2 or coalesce(u.is_active, false))
		returning u.public_id, `+changeColumns, request, made, hash[:]).Scan(append([]any{&c.UserID}, c.targets()...)...)
	if errors.Is(err, postgres.ErrNoRows) {
		return secret.Secret{}, EmailChange{}, ErrTokenGone
	}
	if err != nil {
		return secret.Secret{}, EmailChange{}, fmt.Errorf("issue token: %w", err)
	}
	return secret.FromString(text), c, nil
}

// owned locks the account that a token is about: accounts are locked before what belongs to them.
func owned(ctx context.Context, tx *postgres.Tx, hash [32]byte) (User, error) {
	var id uuid.UUID
	err := tx.QueryRow(ctx, `select u.public_id from email_changes c join users u on u.id = c.user_id where c.token_hash = $1`, hash[:]).Scan(&id)
	if err == nil {
		var u User
		if u, err = locked(ctx, tx, id); err == nil {
			return u, nil
		}
	}
	if errors.Is(err, postgres.ErrNoRows) || errors.Is(err, ErrNotFound) {
		return User{}, ErrTokenGone
	}
	return User{}, fmt.Errorf("find a change of address: %w", err)
}

// ConfirmEmail gives the account the address that token was mailed to, which
// counts as verified, and ends every other link mailed so far. For as long as
// undo the owner of the old address can take it back, and nobody else can have
// it: of the one that the account has by now, if that is known to be the
// owner's by now. [ErrEmailTaken] if another account has the new address by now.
func (s *Store) ConfirmEmail(ctx context.Context, tx *postgres.Tx, token string, undo time.Duration) (EmailChange, error) {
	hash := sha256.Sum256([]byte(token))
	u, err := owned(ctx, tx, hash)
	if err != nil {
		return EmailChange{}, err
	}
	c := EmailChange{UserID: u.PublicID}
	err = tx.QueryRow(ctx, `update email_changes c set token_hash = null, changed_at = clock_timestamp(), old_email = $4, undoable = $5,
			ends_at = clock_timestamp() + case when $5 then $2::interval else interval '0' end
		where token_hash = $1 and changed_at is null and ends_at > clock_timestamp() and $3
		returning `+changeColumns, hash[:], undo, u.IsActive, u.Email, u.IsVerified).Scan(c.targets()...)
	if errors.Is(err, postgres.ErrNoRows) {
		return EmailChange{}, ErrTokenGone
	}
	if err != nil {
		return EmailChange{}, fmt.Errorf("confirm an address: %w", err)
	}
	return c, move(ctx, tx, u, address{email: c.New, verified: true})
}

// UndoEmail gives the account its old address back. Whoever changed it knew the
// password or held a session, so the password is good no more: the owner sets
// another one by [Recover]. Ending sessions is the caller's.
func (s *Store) UndoEmail(ctx context.Context, tx *postgres.Tx, token string) (EmailChange, error) {
	hash := sha256.Sum256([]byte(token))
	u, err := owned(ctx, tx, hash)
	if err != nil {
		return EmailChange{}, err
	}
	c := EmailChange{UserID: u.PublicID}
	err = tx.QueryRow(ctx, `delete from email_changes c where token_hash = $1 and changed_at is not null and undoable and ends_at > clock_timestamp()
		returning `+changeColumns, hash[:]).Scan(c.targets()...)
	if errors.Is(err, postgres.ErrNoRows) {
		return EmailChange{}, ErrTokenGone
	}
	if err != nil {
		return EmailChange{}, fmt.Errorf("undo a change of address: %w", err)
	}
	if err = move(ctx, tx, u, address{email: c.Old, verified: true}); err != nil {
		return EmailChange{}, err
	}
	if _, err = tx.Exec(ctx, "update users set password_hash = $2, password_changed_at = now() where id = $1", u.ID, unusableHash); err != nil {
		return EmailChange{}, fmt.Errorf("undo a change of address: %w", err)
	}
	return c, nil
}

// address is one that an account is to have.
type address struct {
	email    string
	verified bool      // it is known to be the owner's
	actor    uuid.UUID // who decided it; uuid.Nil means the owner
}

// move gives a locked account another address and ends every link mailed so far.
func move(ctx context.Context, tx *postgres.Tx, u User, to address) error {
	if err := claim(ctx, tx, u.ID, "", to.email); err != nil {
		return err
	}
	if err := revokeTokens(ctx, tx, u.ID); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `update users u set email = $2::text, is_verified = $3, email_verified_at = case when $3 then now() end,
			is_case_duplicate = u.is_case_duplicate and exists (select from users o where o.id <> u.id
				and (lower(o.username) = lower(u.username) or lower(o.email) = lower($2::text)))
		where u.id = $1`, u.ID, to.email, to.verified)
	if err != nil {
		return fmt.Errorf("set e-mail: %w", taken(err))
	}
	return tell(tx, u.PublicID, "user.updated", to.actor, changed(u.PublicID, "email"))
}

// CleanupEmailChanges removes up to limit changes that ended before the given
// time and returns how many; callers repeat it until it returns less than limit.
func (s *Store) CleanupEmailChanges(ctx context.Context, tx *postgres.Tx, before time.Time, limit int) (int64, error) {
	tag, err := tx.Exec(ctx, `delete from email_changes where user_id in (
		select user_id from email_changes where ends_at < $1 order by ends_at limit $2 for update skip locked)`, before, limit)
	if err != nil {
		return 0, fmt.Errorf("clean up changes of addresses: %w", err)
	}
	return tag.RowsAffected(), nil
}
