package auth

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"strings"

	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/notify"
	"rootstream/postgres"
	"rootstream/secret"
	"rootstream/session"
	"rootstream/user"
)

// ChangeEmail asks for another address of an account whose owner has proven
// who they are a short while ago: with the second factor if there is one, else
// with the password. It changes nothing yet. A token goes to the new address
// and confirms it; the old one is told, if it was known to be the owner's. A
// taken address gets the same answer, and its owner a mail.
func (s *Service) ChangeEmail(ctx context.Context, p Principal, email string, _ Client) error {
	email = user.NormalizeEmail(email)
	if fault := user.CheckEmail(email); fault != "" {
		return errs.NewInvalid("email", fault)
	}
	if err := s.allowProof(ctx, p); err != nil {
		return err
	}
	if err := s.RequireFresh(ctx, p); err != nil {
		return err
	}
	if err := s.allow(ctx, "email", p.UserID.String(), perHour(s.cfg.Rate.RecoveryAccount)); err != nil {
		return err
	}
	u, err := s.users.ByPublicID(ctx, p.UserID)
	if err != nil {
		return signedOut(err)
	}
	if u.Email == email {
		return errs.NewInvalid("email", "is the address of this account already")
	}
	owner, err := readOwner(ctx, s.db, email)
	if err != nil && !errors.Is(err, user.ErrNotFound) {
		return err
	}
	taken := err == nil && owner.ID != u.ID
	send := s.allow(ctx, "mail", notify.TopicEmailConfirm+":"+s.tallyKey(strings.ToLower(email)), perHour(s.cfg.Rate.RecoveryAccount)) == nil
	return signedOut(s.db.InTx(ctx, func(tx *postgres.Tx) error {
		asked, err := s.ask(ctx, tx, p, email)
		switch {
		case err != nil:
			return err
		case !send: // somebody's mailbox is not for us to fill
			return nil
		case taken:
			return s.notice(tx, notify.TopicEmailAttempt, owner.PublicID)
		default:
			return s.mail(tx, notify.TopicEmailConfirm, letter{UserID: u.PublicID, RequestID: asked.Request})
		}
	}))
}

// ask notes a request for another address and tells the old one of it.
func (s *Service) ask(ctx context.Context, tx *postgres.Tx, p Principal, email string) (user.EmailChange, error) {
	asked, err := s.users.AskEmail(ctx, tx, p.UserID, email, s.cfg.EmailChangeFor)
	if err != nil {
		return user.EmailChange{}, err
	}
	if err = s.sessions.CheckLive(ctx, tx, p.SessionID); err != nil { // an undo or a recovery may have been faster
		return user.EmailChange{}, err
	}
	if err = tell(tx, p.UserID, "user.email_change_requested", nil); err == nil && asked.Undoable {
		err = s.notice(tx, notify.TopicEmailAsked, p.UserID)
	}
	return asked, err
}

// ConfirmEmail takes the token that was mailed to a new address. Sessions go
// on; all links mailed to the old address end but the one that undoes this.
func (s *Service) ConfirmEmail(ctx context.Context, token string, c Client) error {
	if err := s.allowFrom(ctx, "token", c, s.cfg.Rate.TokenNetwork); err != nil {
		return err
	}
	return s.db.InTx(ctx, func(tx *postgres.Tx) error {
		made, err := s.users.ConfirmEmail(ctx, tx, token, s.cfg.EmailUndoFor)
		if err != nil {
			return err
		}
		if err = tell(tx, made.UserID, "user.email_changed", nil); err != nil || !made.Undoable {
			return err
		}
		return s.mail(tx, notify.TopicEmailChanged, letter{UserID: made.UserID, RequestID: made.Request, At: s.cfg.Now().UTC()})
	})
}

// UndoEmail takes the token that the old address got, and gives it the account
// back: all sessions and links end, the password is good no more, and a link to
// set another one is mailed to it. Second factors stay.
func (s *Service) UndoEmail(ctx context.Context, token string, c Client) error {
	if err := s.allowFrom(ctx, "token", c, s.cfg.Rate.TokenNetwork); err != nil {
		return err
	}
	return s.db.InTx(ctx, func(tx *postgres.Tx) error {
		undone, err := s.users.UndoEmail(ctx, tx, token)
		if err != nil {
			return err
		}
		u, err := readAccount(ctx, tx, undone.UserID)
		if err != nil {
			return err
		}
		if _, err = s.end(ctx, tx, u.ID, uuid.Nil, session.Cause{Reason: becauseEmailUndone}); err != nil {
			return err
		}
		if err = tell(tx, u.PublicID, "user.email_change_undone", nil); err != nil {
			return err
		}
		return s.mail(tx, TopicRecovery, letter{UserID: u.PublicID})
	})
}

// SetEmail gives an account another address, for an administrator. The old one
// is told and cannot undo it; the new one is asked to verify unless it is known
// to be the owner's. Sessions go on, links mailed so far end.
func (s *Service) SetEmail(ctx context.Context, by Actor, id uuid.UUID, email string, verified bool) (user.User, error) {
	return s.change(ctx, by, id, func(tx *postgres.Tx, u user.User) (user.User, error) {
		changed, err := s.users.SetEmail(ctx, tx, id, email, by.id)
		if err != nil {
			return user.User{}, err
		}
		if changed.Email != u.Email {
			err = s.enqueue(tx, notify.Message{ // there is no account any more to look the old address up from
				Channel: notify.ChannelMail, Topic: notify.TopicEmailReplaced, Target: u.Email, Payload: letter{At: s.cfg.Now().UTC()},
			})
		}
		switch {
		case err != nil:
			return user.User{}, err
		case verified:
			return s.users.MarkVerified(ctx, tx, id, by.id)
		case changed.Email == u.Email:
			return changed, nil
		}
		return changed, s.mail(tx, notify.TopicVerifyEmail, letter{UserID: id})
	})
}

// emailChange writes the mail that confirms a change, or the one that undoes it. Its token is made when it is sent.
func (w writer) emailChange(topic, path string, made bool) notify.Renderer {
	return func(ctx context.Context, tx *postgres.Tx, payload json.RawMessage) (notify.Mail, error) {
		l, u, err := w.open(ctx, tx, payload)
		if err != nil {
			return notify.Mail{}, err
		}
		token, change, err := w.users.IssueEmailToken(ctx, tx, l.RequestID, made)
		if errors.Is(err, user.ErrTokenGone) {
			return notify.Mail{}, errNobody
		}
		if err != nil {
			return notify.Mail{}, err
		}
		d := notify.Data{At: l.At, Token: token.Reveal(), ExpiresIn: change.EndsIn, URL: w.link(path, token)}
		u.Email = change.New
		if made {
			u.Email = change.Old
		}
		return w.compose(topic, u, d)
	}
}

// link leads to one of our pages; "" where nobody said how those are reached.
func (w writer) link(path string, token secret.Secret) string {
	if w.cfg.PublicURL == "" {
		return ""
	}
	// Behind the #, which browsers keep from servers, proxies and the Referer header.
	return strings.TrimSuffix(w.cfg.PublicURL, "/") + path + "#token=" + url.QueryEscape(token.Reveal())
}
