package auth

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"rootstream/event"
	"rootstream/notify"
	"rootstream/postgres"
	"rootstream/user"
)

// Registration is what somebody asks for who wants an account.
type Registration struct{ Username, Email, Password string }

// Register makes an account and mails its owner a token to verify the address.
//
// A taken user name is user.ErrUsernameTaken. A taken address looks like
// success, after the same work, with an account that does not exist; the
// address's owner gets a mail.
func (s *Service) Register(ctx context.Context, r Registration, c Client) (user.User, error) {
	if err := s.allowFrom(ctx, "register", c, s.cfg.Rate.RegisterNetwork); err != nil {
		return user.User{}, err
	}
	n, err := s.prepare(ctx, r)
	if err != nil {
		return user.User{}, err
	}
	var u user.User
	err = s.db.InTx(ctx, func(tx *postgres.Tx) (err error) {
		if u, err = s.users.Create(ctx, tx, n); err != nil {
			return err
		}
		return s.mail(tx, notify.TopicVerifyEmail, letter{UserID: u.PublicID})
	})
	if errors.Is(err, user.ErrEmailTaken) {
		return s.pretend(ctx, n)
	}
	if err != nil {
		return user.User{}, err
	}
	return u, nil
}

func (s *Service) checkRegistration(r Registration) error {
	return s.rules.Registration(user.Registration{
		Username: r.Username, Email: r.Email, Password: r.Password, FactorRequired: s.cfg.FactorRequired,
	})
}

// prepare checks a registration and hashes its password.
func (s *Service) prepare(ctx context.Context, r Registration) (user.New, error) {
	if err := s.checkRegistration(r); err != nil {
		return user.New{}, err
	}
	hash, err := s.hasher.Hash(ctx, r.Password)
	if err != nil {
		return user.New{}, err
	}
	return user.New{Username: r.Username, Email: user.NormalizeEmail(r.Email), PasswordHash: hash}, nil
}

// pretend tells an address's owner about a registration and makes up its answer.
func (s *Service) pretend(ctx context.Context, n user.New) (user.User, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return user.User{}, fmt.Errorf("make up an id: %w", err)
	}
	now := s.cfg.Now().UTC().Truncate(time.Microsecond)
	made := user.User{
		PublicID: id, Username: n.Username, Email: n.Email, Role: user.RoleUser, IsActive: true, CreatedAt: now, UpdatedAt: now,
	}
	owner, err := readOwner(ctx, s.db, n.Email)
	if errors.Is(err, user.ErrNotFound) { // it was left, and its change can be undone: there is nobody to tell
		return made, s.db.InTx(ctx, func(tx *postgres.Tx) error { idle(tx); return nil })
	}
	if err != nil {
		return user.User{}, err
	}
	send := s.mayMail(ctx, notify.TopicRegisterAttempt, owner.PublicID)
	err = s.db.InTx(ctx, func(tx *postgres.Tx) error {
		if told := tell(tx, owner.PublicID, "user.registration_attempted", nil); told != nil || !send {
			return told
		}
		return s.mail(tx, notify.TopicRegisterAttempt, letter{UserID: owner.PublicID, At: now})
	})
	if err != nil {
		return user.User{}, err
	}
	return made, nil
}

// mayMail counts a mail that anybody can cause, and reports whether its owner
// is to get it. Each topic counts for itself, so none can use another up.
func (s *Service) mayMail(ctx context.Context, topic string, owner uuid.UUID) bool {
	return s.allow(ctx, "mail", topic+":"+owner.String(), perHour(s.cfg.Rate.RecoveryAccount)) == nil
}

// VerifyEmail takes the token of a mail that proves the address is its owner's.
func (s *Service) VerifyEmail(ctx context.Context, token string, c Client) error {
	if err := s.allowFrom(ctx, "token", c, s.cfg.Rate.TokenNetwork); err != nil {
		return err
	}
	return s.db.InTx(ctx, func(tx *postgres.Tx) error {
		t, err := s.users.ConsumeToken(ctx, tx, user.VerifyEmail, token)
		if err != nil {
			return err
		}
		_, err = s.users.MarkVerified(ctx, tx, t.UserID, uuid.Nil)
		return err
	})
}

// ResendVerification mails the owner of a session another verification token.
func (s *Service) ResendVerification(ctx context.Context, p Principal) error {
	if err := s.allow(ctx, "resend", p.UserID.String(), perHour(s.cfg.Rate.RecoveryAccount)); err != nil {
		return err
	}
	return s.db.InTx(ctx, func(tx *postgres.Tx) error {
		return s.mail(tx, notify.TopicVerifyEmail, letter{UserID: p.UserID})
	})
}

// tell appends an event to an account's history.
func tell(tx *postgres.Tx, id uuid.UUID, name string, data map[string]any) error {
	return event.Append(tx, event.New{
		Aggregate: event.Ref{Type: "user", ID: id}, Name: name, Data: data, UserID: &id, Expect: event.Any,
	})
}
