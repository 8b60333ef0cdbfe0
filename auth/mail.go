package auth

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/notify"
	"rootstream/postgres"
	"rootstream/session"
	"rootstream/user"
)

// Topics of mails beside those of package notify.
const (
	TopicRecovery       = "user.recovery_requested"
	TopicDisabled       = "user.disabled_by_admin"
	TopicDeleted        = "user.account_deleted"
	TopicBackupCodesNew = "mfa.backup_codes_new"
)

// letter is what a mail is made of when it is sent: whose, and what happened.
// The address and any token are looked up and made then.
type letter struct {
	UserID    uuid.UUID `json:"user_id"`
	SessionID uuid.UUID `json:"session_id,omitzero"`
	RequestID uuid.UUID `json:"request_id,omitzero"` // of another address
	At        time.Time `json:"at,omitzero"`
	CodesLeft int       `json:"codes_left,omitempty"`
}

// mail puts a mail to an account into the outbox.
func (s *Service) mail(tx *postgres.Tx, topic string, l letter) error {
	return s.enqueue(tx, notify.Message{Channel: notify.ChannelMail, Topic: topic, Payload: l})
}

// notice is mail about what happened just now.
func (s *Service) notice(tx *postgres.Tx, topic string, id uuid.UUID) error {
	return s.mail(tx, topic, letter{UserID: id, At: s.cfg.Now().UTC()})
}

// MailConfig says what mails carry. Zero values mean the defaults.
type MailConfig struct {
	Product    string        // the name mails speak of; "" means RootStream
	PublicURL  string        // what links begin with; "" means that mails carry tokens alone
	VerifyFor  time.Duration // life of a verification token; 0 means 48h
	RecoverFor time.Duration // life of a recovery token; 0 means 30m
}

// Renderers write this room's mails when they are sent.
func Renderers(users *user.Store, sessions *session.Manager, cfg MailConfig) map[string]notify.Renderer {
	cfg.Product = cmp.Or(cfg.Product, "RootStream")
	cfg.VerifyFor = cmp.Or(cfg.VerifyFor, 48*time.Hour)
	cfg.RecoverFor = cmp.Or(cfg.RecoverFor, 30*time.Minute)
	w := writer{users: users, sessions: sessions, cfg: cfg}
	all := map[string]notify.Renderer{
		notify.TopicVerifyEmail:   w.withToken(notify.TopicVerifyEmail, user.VerifyEmail, cfg.VerifyFor, "/verify"),
		TopicRecovery:             w.withToken(TopicRecovery, user.Recover, cfg.RecoverFor, "/recover"),
		TopicDeleted:              w.farewell(TopicDeleted),
		notify.TopicEmailReplaced: w.farewell(notify.TopicEmailReplaced),
		notify.TopicEmailConfirm:  w.emailChange(notify.TopicEmailConfirm, "/email/confirm", false),
		notify.TopicEmailChanged:  w.emailChange(notify.TopicEmailChanged, "/email/undo", true),
		notify.TopicNewSignIn:     w.signIn,
	}
	for _, topic := range []string{
		notify.TopicRegisterAttempt, notify.TopicPasswordChanged, notify.TopicLockout, notify.TopicTokenReused,
		notify.TopicFactorAdded, notify.TopicFactorRemoved, notify.TopicFactorSuspended,
		notify.TopicBackupCodeUsed, notify.TopicBackupCodesLow, TopicBackupCodesNew, TopicDisabled,
		notify.TopicEmailAsked, notify.TopicEmailAttempt,
	} {
		all[topic] = w.notice(topic)
	}
	return all
}

type writer struct {
	users    *user.Store
	sessions *session.Manager
	cfg      MailConfig
}

// errNobody gives a mail up that nobody needs any more.
var errNobody = errs.New(errs.Gone, "mail_moot", "the account of this mail is gone, or needs it no longer")

func (w writer) open(ctx context.Context, tx *postgres.Tx, payload json.RawMessage) (letter, user.User, error) {
	var l letter
	if err := json.Unmarshal(payload, &l); err != nil {
		return letter{}, user.User{}, errs.New(errs.Malformed, "bad_payload", "the payload is not a letter").WithCause(err)
	}
	u, err := readAccount(ctx, tx, l.UserID)
	if errors.Is(err, user.ErrNotFound) {
		return letter{}, user.User{}, errNobody
	}
	return l, u, err
}

func (w writer) notice(topic string) notify.Renderer {
	return func(ctx context.Context, tx *postgres.Tx, payload json.RawMessage) (notify.Mail, error) {
		l, u, err := w.open(ctx, tx, payload)
		if err != nil {
			return notify.Mail{}, err
		}
		return w.compose(topic, u, notify.Data{At: l.At, CodesLeft: l.CodesLeft})
	}
}

// signIn says from where somebody signed in, as far as the session tells. What
// they called their device is left out: it may be a stranger who did.
func (w writer) signIn(ctx context.Context, tx *postgres.Tx, payload json.RawMessage) (notify.Mail, error) {
	l, u, err := w.open(ctx, tx, payload)
	if err != nil {
		return notify.Mail{}, err
	}
	made, err := w.sessions.ByPublicID(ctx, tx, u.ID, l.SessionID)
	if err != nil && !errors.Is(err, session.ErrNotFound) { // it may have been removed since
		return notify.Mail{}, err
	}
	d := notify.Data{At: l.At, Place: made.Device.Location, Device: made.Device.Kind()}
	if made.Device.IP.IsValid() {
		d.IP = made.Device.IP.String()
	}
	return w.compose(notify.TopicNewSignIn, u, d)
}

// withToken makes the token when the mail is sent, so it never rests in the outbox.
func (w writer) withToken(topic string, purpose user.Purpose, life time.Duration, path string) notify.Renderer {
	return func(ctx context.Context, tx *postgres.Tx, payload json.RawMessage) (notify.Mail, error) {
		l, _, err := w.open(ctx, tx, payload)
		if err != nil {
			return notify.Mail{}, err
		}
		token, err := w.users.IssueToken(ctx, tx, user.TokenRequest{Purpose: purpose, UserID: l.UserID, TTL: life})
		if err != nil {
			return notify.Mail{}, err
		}
		u, err := readAccount(ctx, tx, l.UserID) // it is locked by now: the address stays what it is
		if err != nil {
			return notify.Mail{}, err
		}
		if !u.IsActive || (purpose == user.VerifyEmail && u.IsVerified) {
			return notify.Mail{}, errNobody
		}
		return w.compose(topic, u, notify.Data{Token: token.Reveal(), ExpiresIn: life, URL: w.link(path, token)})
	}
}

// farewell goes to the message's target: the account is gone, or has left that address.
func (w writer) farewell(topic string) notify.Renderer {
	return func(_ context.Context, _ *postgres.Tx, payload json.RawMessage) (notify.Mail, error) {
		var l letter
		if err := json.Unmarshal(payload, &l); err != nil {
			return notify.Mail{}, errs.New(errs.Malformed, "bad_payload", "the payload is not a letter").WithCause(err)
		}
		return w.compose(topic, user.User{}, notify.Data{At: l.At})
	}
}

// compose writes a mail to u; without an address it goes to the message's target.
func (w writer) compose(topic string, u user.User, d notify.Data) (notify.Mail, error) {
	d.Product = w.cfg.Product
	m, err := w.own(topic, d)
	if errors.Is(err, notify.ErrNoText) {
		m, err = notify.Compose(topic, d)
	}
	m.To = u.Email
	return m, err
}

// own writes the mails that package notify has no text for.
func (w writer) own(topic string, d notify.Data) (notify.Mail, error) {
	product, at := w.cfg.Product, d.At.UTC().Format("2 January 2006, 15:04 UTC")
	switch topic {
	case TopicRecovery:
		how := "enter this token:\n\n" + d.Token
		if d.URL != "" {
			how = "open this address:\n\n" + d.URL + "\n\nor " + how
		}
		return notify.Mail{Subject: "Set a new password for " + product, Text: fmt.Sprintf(`Somebody, probably you, asked to set a new password for your %s account.
To do so, %s

It works once, for %d minutes. A second factor, if you have one, stays as it is.
If it was not you, ignore this mail: your password has not changed.
`, product, how, int(d.ExpiresIn.Minutes()))}, nil
	case TopicDisabled:
		return notify.Mail{Subject: "Your " + product + " account was disabled", Text: fmt.Sprintf(`An administrator disabled your %s account. All its sessions have ended.

  Time:    %s
`, product, at)}, nil
	case TopicDeleted:
		return notify.Mail{Subject: "Your " + product + " account was deleted", Text: fmt.Sprintf(`Your %s account and what it held were deleted.

  Time:    %s

If it was not you, contact the operator of this service now.
`, product, at)}, nil
	case TopicBackupCodesNew:
		return notify.Mail{Subject: "New backup codes for your " + product + " account", Text: fmt.Sprintf(`New backup codes were made for your %s account. All earlier ones are void.

  Time:    %s

If it was not you, somebody else has access to your account: end all its
sessions and change your password.
`, product, at)}, nil
	}
	return notify.Mail{}, notify.ErrNoText
}
