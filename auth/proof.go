package auth

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"rootstream/auth/guard"
	"rootstream/errs"
	"rootstream/mfa"
	"rootstream/notify"
	"rootstream/postgres"
	"rootstream/session"
	"rootstream/user"
)

// MFAAnswer is the code that a challenge asks for.
type MFAAnswer struct {
	ChallengeID string
	Method      mfa.Method
	Code        string
}

// fewCodes is when an owner is told that backup codes run out.
const fewCodes = 3

// VerifyMFA finishes a sign-in. A wrong code leaves the challenge open, within
// the budget of codes; a right one, the challenge and the session are one
// transaction. The client may come from another address than at the start.
func (s *Service) VerifyMFA(ctx context.Context, in MFAAnswer, c Client) (Grant, error) {
	if err := s.allowFrom(ctx, "mfa", c, s.cfg.Rate.MFANetwork); err != nil {
		return Grant{}, err
	}
	p, err := s.pending(ctx, in.ChallengeID)
	if err != nil {
		return Grant{}, err
	}
	u, err := s.users.ByID(ctx, p.UserID)
	if errors.Is(err, user.ErrNotFound) || (err == nil && !u.IsActive) {
		return Grant{}, ErrChallengeGone
	}
	if err != nil {
		return Grant{}, err
	}
	device := c.device(p.DeviceName)
	if p.DeviceID != "" {
		device.ID = p.DeviceID
	}
	known, err := s.sessions.KnowsDevice(ctx, u.ID, device.ID)
	if err != nil {
		return Grant{}, err
	}
	var g Grant
	err = s.verifyCode(ctx, u, mfa.Attempt{Method: in.Method, Code: in.Code, IP: c.IP}, func(ctx context.Context, tx *postgres.Tx) (err error) {
		if err = s.stillProven(ctx, tx, u.ID, p.Proof); err != nil { // accounts are locked before their challenges
			return err
		}
		if err = consumeChallenge(ctx, tx, in.ChallengeID); err != nil {
			return err
		}
		g, err = s.grant(ctx, tx, u, entry{
			device: device, remember: p.Remember, aal: 2, amr: []string{"pwd", "otp"}, known: known, network: c.network(),
		})
		return err
	})
	switch {
	case errors.Is(err, mfa.ErrFactorNotFound), errors.Is(err, ErrInvalidCredentials):
		return Grant{}, ErrChallengeGone // what was proven first no longer holds: begin again
	case err != nil:
		return Grant{}, err
	}
	s.forgive(ctx, p.Tally)
	return g, nil
}

// verifyCode checks a code of u; then runs in the transaction that uses it up.
func (s *Service) verifyCode(ctx context.Context, u user.User, a mfa.Attempt, then func(context.Context, *postgres.Tx) error) error {
	a.UserID, a.UserPublicID = u.ID, u.PublicID
	_, err := s.mfa.Verify(ctx, a, func(ctx context.Context, tx *postgres.Tx, r mfa.Result) error {
		if err := then(ctx, tx); err != nil {
			return err
		}
		if r.Method != mfa.BackupCode {
			return nil
		}
		l := letter{UserID: u.PublicID, At: r.At.UTC(), CodesLeft: r.BackupCodesLeft}
		if err := s.mail(tx, notify.TopicBackupCodeUsed, l); err != nil || r.BackupCodesLeft > fewCodes {
			return err
		}
		return s.mail(tx, notify.TopicBackupCodesLow, l)
	})
	return s.afterCode(ctx, u, err)
}

// afterCode mails the owner if the failure was the one that suspended the factors.
func (s *Service) afterCode(ctx context.Context, u user.User, err error) error {
	if !errors.Is(err, mfa.ErrInvalidCode) {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	if status, readErr := s.mfa.Status(ctx, u.ID); readErr == nil && status.SuspendedAt != nil {
		s.noticeNow(ctx, notify.TopicFactorSuspended, u.PublicID)
	}
	return err
}

// noticeNow mails somebody about what is done already and does not depend on the mail.
func (s *Service) noticeNow(ctx context.Context, topic string, id uuid.UUID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.db.InTx(ctx, func(tx *postgres.Tx) error { return s.notice(tx, topic, id) }); err != nil {
		s.log.WarnContext(ctx, "an owner could not be told", "topic", topic, "user_id", id, "err", err)
	}
}

// Proof is what somebody who is signed in proves again: the password, a code, or both.
type Proof struct {
	Password string
	Method   mfa.Method
	Code     string
}

// Reauthenticate proves again who holds the session. A password makes its
// sign-in fresh, a code makes it AAL2 and its second factor fresh. The session
// gets a new token and the one it had ends at once.
func (s *Service) Reauthenticate(ctx context.Context, p Principal, in Proof, c Client) (Grant, error) {
	if in.Password == "" && in.Code == "" {
		return Grant{}, errs.NewInvalid("password", "or method and code must be given")
	}
	in.Method = cmp.Or(in.Method, mfa.TOTP)
	if err := s.allowProof(ctx, p); err != nil {
		return Grant{}, err
	}
	u, err := s.users.ByPublicID(ctx, p.UserID)
	if err != nil {
		return Grant{}, signedOut(err)
	}
	aal, amr := uint8(1), []string(nil) // a session keeps what it has reached
	var proof []byte
	if in.Password != "" {
		if proof, err = s.provePassword(ctx, p, in.Password); err != nil {
			return Grant{}, err
		}
		amr = append(amr, "pwd")
	}
	var g Grant
	elevate := func(ctx context.Context, tx *postgres.Tx) error {
		if proof != nil {
			if changed := s.stillProven(ctx, tx, u.ID, proof); changed != nil {
				return changed
			}
		}
		made, failure := s.sessions.Elevate(ctx, tx, p.SessionID, aal, amr)
		g = Grant{Token: made.Token, Session: made.Session, User: u}
		return failure
	}
	if in.Code == "" {
		err = s.db.InTx(ctx, func(tx *postgres.Tx) error { return elevate(ctx, tx) })
	} else {
		aal, amr = 2, append(amr, "otp")
		err = s.verifyCode(ctx, u, mfa.Attempt{Method: in.Method, Code: in.Code, IP: c.IP}, elevate)
	}
	if err != nil {
		return Grant{}, signedOut(err)
	}
	return g, nil
}

func (s *Service) allowProof(ctx context.Context, p Principal) error {
	return s.allow(ctx, "proof", p.UserID.String(), perMinute(s.cfg.Rate.ProofAccount))
}

// provePassword checks the password of somebody who is signed in and returns
// its fingerprint. Failures count by session, so that who holds a stolen one
// cannot hold up the owner, and softly by account.
func (s *Service) provePassword(ctx context.Context, p Principal, password string) ([]byte, error) {
	stored, err := s.users.PasswordHash(ctx, p.UserID)
	if err != nil {
		return nil, signedOut(err)
	}
	r := s.cfg.Rate
	counters := []counter{
		{s.tallyKey("session", p.SessionID.String()), guard.Policy{Free: r.FreeClient, Most: r.MaxWait}},
		{s.tallyKey("proof", p.UserID.String()), guard.Policy{Free: r.FreeAccount, Most: r.MaxWait}},
	}
	v, err := s.guess(ctx, counters, func(ctx context.Context) (bool, error) {
		checked, failure := s.hasher.Known().Verify(ctx, stored.Reveal(), password)
		return checked.OK, failure
	})
	if err != nil {
		return nil, err
	}
	if v.right {
		s.forgive(ctx, counters[0].key)
		return fingerprint(stored.Reveal()), nil
	}
	u := user.User{PublicID: p.UserID}
	if err := s.failed(ctx, u, true, v); !errors.Is(err, ErrInvalidCredentials) {
		return nil, err
	}
	return nil, ErrWrongPassword
}

// signedOut turns an account or a session that ended meanwhile into the one
// answer to a token that no longer stands.
func signedOut(err error) error {
	if errors.Is(err, user.ErrNotFound) || errors.Is(err, session.ErrNotFound) {
		return session.ErrInvalid
	}
	return err
}

// Refresh replaces a session's token. A token that was replaced before and is
// used again ends the session, and its owner gets a mail.
func (s *Service) Refresh(ctx context.Context, token string, c Client) (Grant, error) {
	if err := s.allowFrom(ctx, "refresh", c, s.cfg.Rate.RefreshNetwork); err != nil {
		return Grant{}, err
	}
	made, err := s.sessions.Refresh(ctx, token)
	if reused, ok := errors.AsType[*session.ReusedError](err); ok {
		s.noticeNow(ctx, notify.TopicTokenReused, reused.UserID)
	}
	if err != nil {
		return Grant{}, err
	}
	u, err := s.users.ByPublicID(ctx, made.Session.UserID)
	if err != nil {
		return Grant{}, signedOut(err)
	}
	return Grant{Token: made.Token, Session: made.Session, User: u}, nil
}

// Logout ends the session of a token.
func (s *Service) Logout(ctx context.Context, token string) error {
	v, err := s.sessions.Validate(ctx, token, session.ClientHint{})
	if err != nil {
		return err
	}
	err = s.db.InTx(ctx, func(tx *postgres.Tx) error {
		return s.sessions.Revoke(ctx, tx, v.DBUserID, v.SessionID, session.Cause{Reason: "logout"})
	})
	return signedOut(err)
}
