package auth

import (
	"context"

	"github.com/google/uuid"

	"rootstream/mfa"
	"rootstream/notify"
	"rootstream/postgres"
	"rootstream/user"
)

// EnrollTOTP begins the set-up of an authenticator. Whoever does it must have
// proven who they are a short while ago: with the second factor if there is
// one, else with the password.
func (s *Service) EnrollTOTP(ctx context.Context, p Principal, _ Client) (mfa.Enrollment, error) {
	u, err := s.mayChangeFactors(ctx, p)
	if err != nil {
		return mfa.Enrollment{}, err
	}
	var made mfa.Enrollment
	err = s.db.InTx(ctx, func(tx *postgres.Tx) (err error) {
		if made, err = s.mfa.EnrollTOTP(ctx, tx, factorAccount(u)); err != nil {
			return err
		}
		return s.sessions.CheckLive(ctx, tx, p.SessionID)
	})
	if err != nil {
		return mfa.Enrollment{}, err
	}
	return made, nil
}

// ConfirmTOTP enables an authenticator by its first code and returns backup
// codes, shown this once. It does not raise the session. No fresh proof is
// asked for: only who began the set-up can know the code.
func (s *Service) ConfirmTOTP(ctx context.Context, p Principal, factor uuid.UUID, code string, c Client) ([]string, error) {
	if err := s.allowProof(ctx, p); err != nil {
		return nil, err
	}
	u, err := s.users.ByPublicID(ctx, p.UserID)
	if err != nil {
		return nil, signedOut(err)
	}
	codes, err := s.mfa.ConfirmTOTP(ctx, mfa.Confirmation{
		UserID: u.ID, UserPublicID: u.PublicID, FactorID: factor, Code: code, IP: c.IP,
	}, func(ctx context.Context, tx *postgres.Tx) error {
		if gone := s.sessions.CheckLive(ctx, tx, p.SessionID); gone != nil { // a recovery may have been faster
			return gone
		}
		return s.notice(tx, notify.TopicFactorAdded, u.PublicID)
	})
	return codes, s.afterCode(ctx, u, err)
}

// RemoveTOTP removes an authenticator; one that is in use needs a fresh code.
func (s *Service) RemoveTOTP(ctx context.Context, p Principal, factor uuid.UUID, _ Client) error {
	u, err := s.mayChangeFactors(ctx, p)
	if err != nil {
		return err
	}
	return s.db.InTx(ctx, func(tx *postgres.Tx) error {
		before, err := s.mfa.HasFactor(ctx, tx, u.ID)
		if err != nil {
			return err
		}
		if before { // set up since the look above, perhaps by somebody else
			if err = p.RequireFreshMFA(s.now(), s.cfg.FreshFor); err != nil {
				return err
			}
		}
		if err = s.mfa.Unenroll(ctx, tx, factorAccount(u), factor); err != nil {
			return err
		}
		if err = s.sessions.CheckLive(ctx, tx, p.SessionID); err != nil {
			return err
		}
		after, err := s.mfa.HasFactor(ctx, tx, u.ID)
		if err != nil || before == after {
			return err
		}
		if s.cfg.FactorRequired {
			return ErrFactorRequired // and the factor stays
		}
		return s.notice(tx, notify.TopicFactorRemoved, u.PublicID)
	})
}

// RegenerateBackupCodes replaces the backup codes by ten new ones, shown this once.
func (s *Service) RegenerateBackupCodes(ctx context.Context, p Principal, _ Client) ([]string, error) {
	u, err := s.mayChangeFactors(ctx, p)
	if err != nil {
		return nil, err
	}
	return s.mfa.GenerateBackupCodes(ctx, factorAccount(u), func(ctx context.Context, tx *postgres.Tx) error {
		if gone := s.sessions.CheckLive(ctx, tx, p.SessionID); gone != nil {
			return gone
		}
		return s.notice(tx, TopicBackupCodesNew, u.PublicID)
	})
}

// mayChangeFactors applies the limit and the rule of freshness, and returns the account.
func (s *Service) mayChangeFactors(ctx context.Context, p Principal) (user.User, error) {
	if err := s.allowProof(ctx, p); err != nil {
		return user.User{}, err
	}
	if err := s.RequireFresh(ctx, p); err != nil {
		return user.User{}, err
	}
	u, err := s.users.ByPublicID(ctx, p.UserID)
	return u, signedOut(err)
}

func factorAccount(u user.User) mfa.Account {
	return mfa.Account{UserID: u.ID, UserPublicID: u.PublicID, Label: u.Username}
}
