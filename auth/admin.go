package auth

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"rootstream/notify"
	"rootstream/postgres"
	"rootstream/secret"
	"rootstream/session"
	"rootstream/user"
)

// Account is an account an administrator makes.
type Account struct {
	Registration
	Role     user.Role
	Verified bool
}

// CreateUser makes an account for somebody. Unlike Register it says what is taken.
func (s *Service) CreateUser(ctx context.Context, by Actor, a Account) (user.User, error) {
	if err := by.require(session.RoleAdmin); err != nil {
		return user.User{}, err
	}
	n, err := s.prepare(ctx, a.Registration)
	if err != nil {
		return user.User{}, err
	}
	n.Role, n.Verified, n.Actor = a.Role, a.Verified, by.id
	var u user.User
	err = s.db.InTx(ctx, func(tx *postgres.Tx) (err error) {
		if err = by.stillMay(ctx, tx); err != nil {
			return err
		}
		if u, err = s.users.Create(ctx, tx, n); err != nil || u.IsVerified {
			return err
		}
		return s.mail(tx, notify.TopicVerifyEmail, letter{UserID: u.PublicID})
	})
	return u, err
}

// administer runs fn on an account that stays as it is meanwhile, for an administrator.
func (s *Service) administer(ctx context.Context, by Actor, id uuid.UUID, fn func(tx *postgres.Tx, u user.User) error) error {
	if err := by.require(session.RoleAdmin); err != nil {
		return err
	}
	return s.db.InTx(ctx, func(tx *postgres.Tx) error {
		if err := by.stillMay(ctx, tx); err != nil {
			return err
		}
		u, err := lockAccount(ctx, tx, id)
		if err != nil {
			return err
		}
		return fn(tx, u)
	})
}

// stillMay refuses an administrator who is none any more: a cache may believe in one for a moment longer than the
// database, which is time enough to take the role back. Nobody becomes one or ceases to be one until tx ends.
func (a Actor) stillMay(ctx context.Context, tx *postgres.Tx) error {
	if err := lockAdmins(ctx, tx); err != nil || a.id == uuid.Nil {
		return err
	}
	u, err := readAccount(ctx, tx, a.id)
	if errors.Is(err, user.ErrNotFound) || err == nil && (u.Role != user.RoleAdmin || !u.IsActive) {
		return ErrRoleRequired
	}
	return err
}

// change is administer for what leaves another account behind.
func (s *Service) change(ctx context.Context, by Actor, id uuid.UUID, fn func(*postgres.Tx, user.User) (user.User, error)) (changed user.User, err error) {
	err = s.administer(ctx, by, id, func(tx *postgres.Tx, u user.User) (err error) {
		changed, err = fn(tx, u)
		return err
	})
	return changed, err
}

// SetRole changes what an account may do. With less its sessions go on; with
// more they end, since they may live longer than those of the new role.
func (s *Service) SetRole(ctx context.Context, by Actor, id uuid.UUID, role user.Role) (user.User, error) {
	return s.change(ctx, by, id, func(tx *postgres.Tx, u user.User) (user.User, error) {
		if role != user.RoleAdmin {
			if err := s.keepAnAdmin(ctx, tx, u); err != nil {
				return user.User{}, err
			}
		}
		changed, err := s.users.SetRole(ctx, tx, id, role, by.id)
		if err == nil && !u.Role.AtLeast(role) {
			_, err = s.end(ctx, tx, u.ID, uuid.Nil, session.Cause{Reason: becausePromoted, Actor: by.id})
		}
		return changed, err
	})
}

// Disable bars an account and ends its sessions.
func (s *Service) Disable(ctx context.Context, by Actor, id uuid.UUID) (user.User, error) {
	return s.change(ctx, by, id, func(tx *postgres.Tx, u user.User) (user.User, error) {
		if err := s.keepAnAdmin(ctx, tx, u); err != nil {
			return user.User{}, err
		}
		if _, err := s.end(ctx, tx, u.ID, uuid.Nil, session.Cause{Reason: becauseDisabled, Actor: by.id}); err != nil {
			return user.User{}, err
		}
		if u.IsActive {
			if err := s.notice(tx, TopicDisabled, id); err != nil {
				return user.User{}, err
			}
		}
		return s.users.SetActive(ctx, tx, id, false, by.id)
	})
}

// Enable lets an account in again.
func (s *Service) Enable(ctx context.Context, by Actor, id uuid.UUID) (user.User, error) {
	return s.change(ctx, by, id, func(tx *postgres.Tx, _ user.User) (user.User, error) {
		return s.users.SetActive(ctx, tx, id, true, by.id)
	})
}

// VerifyUser takes an account's address as its owner's.
func (s *Service) VerifyUser(ctx context.Context, by Actor, id uuid.UUID) (user.User, error) {
	return s.change(ctx, by, id, func(tx *postgres.Tx, _ user.User) (user.User, error) {
		return s.users.MarkVerified(ctx, tx, id, by.id)
	})
}

// DeleteUser erases an account. Its sessions end first, so that each end is on
// record. Nobody does so to their own for as long as the owner of its old
// address can take it back: it may be a thief who moved it there.
func (s *Service) DeleteUser(ctx context.Context, by Actor, id uuid.UUID) error {
	return s.administer(ctx, by, id, func(tx *postgres.Tx, u user.User) error { return s.remove(ctx, tx, u, by.id) })
}

func (s *Service) remove(ctx context.Context, tx *postgres.Tx, u user.User, actor uuid.UUID) error {
	if err := s.keepAnAdmin(ctx, tx, u); err != nil {
		return err
	}
	if actor == u.PublicID {
		if err := s.users.CheckSettled(ctx, tx, u.ID); err != nil {
			return err
		}
	}
	if _, err := s.end(ctx, tx, u.ID, uuid.Nil, session.Cause{Reason: becauseDeleted, Actor: actor}); err != nil {
		return err
	}
	// The one mail that rests with its address: there will be nobody to look it up from.
	err := s.enqueue(tx, notify.Message{
		Channel: notify.ChannelMail, Topic: TopicDeleted, Target: u.Email, Payload: letter{At: s.cfg.Now().UTC()},
	})
	if err != nil {
		return err
	}
	if s.erase != nil {
		if err := s.erase(ctx, tx, u); err != nil {
			return err
		}
	}
	return s.users.Delete(ctx, tx, u.PublicID, actor)
}

// DeleteAccount erases the account of a fresh session.
func (s *Service) DeleteAccount(ctx context.Context, p Principal, _ Client) error {
	if err := s.RequireFresh(ctx, p); err != nil {
		return err
	}
	return signedOut(s.db.InTx(ctx, func(tx *postgres.Tx) error {
		if err := lockAdmins(ctx, tx); err != nil {
			return err
		}
		u, err := lockAccount(ctx, tx, p.UserID)
		if err != nil {
			return err
		}
		if err = s.sessions.CheckLive(ctx, tx, p.SessionID); err != nil {
			return err
		}
		return s.remove(ctx, tx, u, p.UserID)
	}))
}

// end ends an account's sessions but one, and sign-ins that are half done.
func (s *Service) end(ctx context.Context, tx *postgres.Tx, userID int64, but uuid.UUID, why session.Cause) (int, error) {
	n, err := s.sessions.RevokeOthers(ctx, tx, userID, but, why)
	if err != nil {
		return 0, err
	}
	return n, dropChallenges(ctx, tx, userID)
}

// ResetMFA removes an account's factors and its suspension, and ends its
// sessions: whoever lost the factor may have lost more.
func (s *Service) ResetMFA(ctx context.Context, by Actor, id uuid.UUID) error {
	return s.administer(ctx, by, id, func(tx *postgres.Tx, u user.User) error {
		if err := s.mfa.Reset(ctx, tx, factorAccount(u), by.id); err != nil {
			return err
		}
		if _, err := s.end(ctx, tx, u.ID, uuid.Nil, session.Cause{Reason: becauseAdmin, Actor: by.id}); err != nil {
			return err
		}
		return s.notice(tx, notify.TopicFactorRemoved, id)
	})
}

// ResumeMFA lifts the suspension of an account's factors.
func (s *Service) ResumeMFA(ctx context.Context, by Actor, id uuid.UUID) error {
	return s.administer(ctx, by, id, func(tx *postgres.Tx, u user.User) error {
		return s.mfa.Resume(ctx, tx, factorAccount(u), by.id)
	})
}

// RevokeSessions ends an account's sessions and returns how many.
func (s *Service) RevokeSessions(ctx context.Context, by Actor, id uuid.UUID) (int, error) {
	ended := 0
	err := s.administer(ctx, by, id, func(tx *postgres.Tx, u user.User) (err error) {
		ended, err = s.end(ctx, tx, u.ID, uuid.Nil, session.Cause{Reason: becauseAdmin, Actor: by.id})
		return err
	})
	return ended, err
}

// lockAdmins makes changes of who administers follow one another.
func lockAdmins(ctx context.Context, tx *postgres.Tx) error {
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended('rootstream.admins', 0))`); err != nil {
		return fmt.Errorf("lock the administrators: %w", err)
	}
	return nil
}

// keepAnAdmin refuses to lose the last administrator. It needs lockAdmins.
func (s *Service) keepAnAdmin(ctx context.Context, tx *postgres.Tx, u user.User) error {
	if u.Role != user.RoleAdmin || !u.IsActive {
		return nil
	}
	another, err := adminBeside(ctx, tx, u.ID)
	if err == nil && !another {
		return ErrLastAdmin
	}
	return err
}

func adminBeside(ctx context.Context, q postgres.Querier, self int64) (bool, error) {
	var is bool
	err := q.QueryRow(ctx, `select exists (select from users where role = 'admin' and is_active and id <> $1)`, self).Scan(&is)
	if err != nil {
		return false, fmt.Errorf("look for an administrator: %w", err)
	}
	return is, nil
}

// IssueSetupToken makes the token that lets one person become the first
// administrator. It works once, for Config.SetupFor, and ends earlier ones.
func (s *Service) IssueSetupToken(ctx context.Context) (secret.Secret, error) {
	var token secret.Secret
	err := s.db.InTx(ctx, func(tx *postgres.Tx) error {
		if err := s.beforeFirstAdmin(ctx, tx); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `delete from user_tokens where purpose = $1 and consumed_at is null`, user.FirstAdmin)
		if err != nil {
			return fmt.Errorf("end earlier setup tokens: %w", err)
		}
		token, err = s.users.IssueToken(ctx, tx, user.TokenRequest{Purpose: user.FirstAdmin, TTL: s.cfg.SetupFor})
		return err
	})
	return token, err
}

// BootstrapAdmin makes the first administrator.
func (s *Service) BootstrapAdmin(ctx context.Context, setupToken string, r Registration, c Client) (user.User, error) {
	if err := s.allowFrom(ctx, "token", c, s.cfg.Rate.TokenNetwork); err != nil {
		return user.User{}, err
	}
	if err := s.checkRegistration(r); err != nil {
		return user.User{}, err
	}
	if err := s.mayBootstrap(ctx, setupToken); err != nil {
		return user.User{}, err
	}
	n, err := s.prepare(ctx, r)
	if err != nil {
		return user.User{}, err
	}
	n.Role = user.RoleAdmin
	var u user.User
	err = s.db.InTx(ctx, func(tx *postgres.Tx) (err error) {
		if err = s.beforeFirstAdmin(ctx, tx); err != nil {
			return err
		}
		if _, err = s.users.ConsumeToken(ctx, tx, user.FirstAdmin, setupToken); err != nil {
			return err
		}
		if u, err = s.users.Create(ctx, tx, n); err != nil {
			return err
		}
		return s.mail(tx, notify.TopicVerifyEmail, letter{UserID: u.PublicID})
	})
	return u, err
}

// mayBootstrap says whether BootstrapAdmin could succeed, before it hashes.
func (s *Service) mayBootstrap(ctx context.Context, setupToken string) error {
	switch is, err := adminBeside(ctx, s.db, 0); {
	case err != nil:
		return err
	case is:
		return ErrAdminExists
	}
	return s.users.CheckToken(ctx, user.FirstAdmin, setupToken)
}

// beforeFirstAdmin makes sure that there is no administrator until tx ends.
func (s *Service) beforeFirstAdmin(ctx context.Context, tx *postgres.Tx) error {
	if err := lockAdmins(ctx, tx); err != nil {
		return err
	}
	switch is, err := adminBeside(ctx, tx, 0); {
	case err != nil:
		return err
	case is:
		return ErrAdminExists
	}
	return nil
}
