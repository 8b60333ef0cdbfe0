package auth

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"rootstream/notify"
	"rootstream/postgres"
	"rootstream/session"
	"rootstream/user"
)

// Why sessions end here, as their rows and events say it.
const (
	becausePassword    = "password_changed"
	becauseRecovered   = "password_recovered"
	becauseEmailUndone = "email_change_undone"
	becauseDisabled    = "user_disabled"
	becauseDeleted     = "user_deleted"
	becauseAdmin       = "admin"
	becausePromoted    = "role_raised"
)

// ChangePassword replaces the password of somebody who knows it and ends the
// account's other sessions. With a second factor, that must be fresh as well.
// The session gets a new token and the one it had ends at once: somebody else
// may know that, too.
func (s *Service) ChangePassword(ctx context.Context, p Principal, current, next string, _ Client) (Grant, error) {
	if err := s.allowProof(ctx, p); err != nil {
		return Grant{}, err
	}
	enrolled, err := s.mfa.HasFactor(ctx, s.db, p.DBUserID)
	if err != nil {
		return Grant{}, err
	}
	if enrolled {
		if err = p.RequireFreshMFA(s.now(), s.cfg.FreshFor); err != nil {
			return Grant{}, err
		}
	}
	u, err := s.users.ByPublicID(ctx, p.UserID)
	if err != nil {
		return Grant{}, signedOut(err)
	}
	if err = s.rules.Password(next, u, enrolled || s.cfg.FactorRequired); err != nil {
		return Grant{}, err
	}
	proof, err := s.provePassword(ctx, p, current)
	if err != nil {
		return Grant{}, err
	}
	hash, err := s.hasher.Known().Hash(ctx, next)
	if err != nil {
		return Grant{}, err
	}
	var made session.Created
	err = s.db.InTx(ctx, func(tx *postgres.Tx) (err error) {
		if err = s.stillProven(ctx, tx, u.ID, proof); err != nil {
			return err
		}
		if err = s.users.SetPassword(ctx, tx, u.PublicID, hash, uuid.Nil); err != nil {
			return err
		}
		if _, err = s.end(ctx, tx, u.ID, p.SessionID, session.Cause{Reason: becausePassword}); err != nil {
			return err
		}
		if made, err = s.sessions.Elevate(ctx, tx, p.SessionID, 1, []string{"pwd"}); err != nil { // it keeps what it has reached
			return err
		}
		return s.notice(tx, notify.TopicPasswordChanged, u.PublicID)
	})
	if err != nil {
		return Grant{}, signedOut(err)
	}
	return Grant{Token: made.Token, Session: made.Session, User: u}, nil
}

// RequestRecovery mails a recovery token to the owner of a name or address. The
// answer is the same whether there is one; too many mails to one account are
// dropped silently, so nobody can hold its recovery up.
func (s *Service) RequestRecovery(ctx context.Context, login string, c Client) error {
	login, err := readLogin(login)
	if err != nil {
		return err
	}
	if err = s.allowFrom(ctx, "recovery", c, s.cfg.Rate.RecoveryNetwork); err != nil {
		return err
	}
	u, err := s.users.ByLogin(ctx, login)
	if err != nil && !errors.Is(err, user.ErrNotFound) {
		return err
	}
	owner := u.PublicID
	if err != nil {
		owner = uuid.NewSHA1(uuid.Nil, []byte(login)) // one for all of nobody's names would be used up, and take less time
	}
	send := s.mayMail(ctx, TopicRecovery, owner) && err == nil && u.IsActive
	return s.db.InTx(ctx, func(tx *postgres.Tx) error {
		if !send {
			idle(tx)
			return nil
		}
		return s.mail(tx, TopicRecovery, letter{UserID: u.PublicID})
	})
}

// ConfirmRecovery sets a new password by the token of a mail and ends all
// sessions. It signs nobody in and leaves second factors as they are: who has
// one needs it at the next sign-in. Where nobody had proven to own the address
// before, whoever set factors up was perhaps a stranger, and they go.
func (s *Service) ConfirmRecovery(ctx context.Context, token, password string, c Client) error {
	if err := s.allowFrom(ctx, "token", c, s.cfg.Rate.TokenNetwork); err != nil {
		return err
	}
	if err := s.rules.Password(password, user.User{}, true); err != nil { // what no account may have
		return err
	}
	if err := s.users.CheckToken(ctx, user.Recover, token); err != nil { // no guess is worth a hash
		return err
	}
	hash, err := s.hasher.Hash(ctx, password)
	if err != nil {
		return err
	}
	return s.db.InTx(ctx, func(tx *postgres.Tx) error {
		u, err := s.recovering(ctx, tx, token)
		if err != nil {
			return err
		}
		enrolled, err := s.trustedFactor(ctx, tx, u)
		if err != nil {
			return err
		}
		if err := s.rules.Password(password, u, enrolled || s.cfg.FactorRequired); err != nil {
			return err // and the token stays good
		}
		if err := s.users.SetPassword(ctx, tx, u.PublicID, hash, uuid.Nil); err != nil {
			return err
		}
		if _, err := s.users.MarkVerified(ctx, tx, u.PublicID, uuid.Nil); err != nil { // the mail arrived
			return err
		}
		if _, err := s.end(ctx, tx, u.ID, uuid.Nil, session.Cause{Reason: becauseRecovered}); err != nil {
			return err
		}
		return s.notice(tx, notify.TopicPasswordChanged, u.PublicID)
	})
}

// trustedFactor reports whether an account has a second factor, once those of
// an account whose address nobody had proven are gone.
func (s *Service) trustedFactor(ctx context.Context, tx *postgres.Tx, u user.User) (bool, error) {
	enrolled, err := s.mfa.HasFactor(ctx, tx, u.ID)
	if err != nil || !enrolled || u.IsVerified {
		return enrolled, err
	}
	if err := s.mfa.Reset(ctx, tx, factorAccount(u), u.PublicID); err != nil {
		return false, err
	}
	return false, s.notice(tx, notify.TopicFactorRemoved, u.PublicID)
}

// recovering uses a token up and returns whose it was.
func (s *Service) recovering(ctx context.Context, tx *postgres.Tx, token string) (user.User, error) {
	t, err := s.users.ConsumeToken(ctx, tx, user.Recover, token)
	if err != nil {
		return user.User{}, err
	}
	u, err := readAccount(ctx, tx, t.UserID)
	if errors.Is(err, user.ErrNotFound) || (err == nil && !u.IsActive) {
		return user.User{}, user.ErrTokenGone
	}
	return u, err
}

// UpdateProfile changes what others see of somebody.
func (s *Service) UpdateProfile(ctx context.Context, p Principal, patch user.Profile) (user.User, error) {
	var u user.User
	err := s.db.InTx(ctx, func(tx *postgres.Tx) (err error) {
		u, err = s.users.UpdateProfile(ctx, tx, p.UserID, patch, uuid.Nil)
		return err
	})
	return u, signedOut(err)
}
