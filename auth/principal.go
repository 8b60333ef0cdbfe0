package auth

import (
	"context"
	"time"

	"github.com/google/uuid"

	"rootstream/session"
)

// Principal is who a valid session stands for.
type Principal struct{ session.View }

// RequireRole refuses an account that may do less than least.
func (p Principal) RequireRole(least session.Role) error {
	if p.Role < least {
		return ErrRoleRequired
	}
	return nil
}

// RequireFreshLogin refuses a session whose password was not proven within window.
func (p Principal) RequireFreshLogin(now time.Time, window time.Duration) error {
	if p.AuthAt == 0 || now.UnixMicro()-p.AuthAt > window.Microseconds() {
		return ErrAALRequired.WithHint("POST /v1/auth/reauthenticate with the password")
	}
	return nil
}

// RequireFreshMFA refuses a session whose second factor was not proven within window.
func (p Principal) RequireFreshMFA(now time.Time, window time.Duration) error {
	if !p.FreshMFA(now, window) {
		return ErrAALRequired.WithHint("POST /v1/auth/reauthenticate with a code")
	}
	return nil
}

// RequireFresh refuses a session that was not proven within Config.FreshFor as
// strongly as its account can: with the second factor if there is one, else
// with the password. One that has ended since it was validated is refused as well.
func (s *Service) RequireFresh(ctx context.Context, p Principal) error {
	if err := s.sessions.CheckLive(ctx, s.db, p.SessionID); err != nil {
		return err
	}
	enrolled, err := s.mfa.HasFactor(ctx, s.db, p.DBUserID)
	if err != nil {
		return err
	}
	if enrolled {
		return p.RequireFreshMFA(s.now(), s.cfg.FreshFor)
	}
	return p.RequireFreshLogin(s.now(), s.cfg.FreshFor)
}

// RequireFactor refuses an account without a second factor where every account must have one.
func (s *Service) RequireFactor(ctx context.Context, p Principal) error {
	if !s.cfg.FactorRequired {
		return nil
	}
	enrolled, err := s.mfa.HasFactor(ctx, s.db, p.DBUserID)
	if err == nil && !enrolled {
		return ErrFactorRequired
	}
	return err
}

// Actor is the principal as the one who administers.
func (p Principal) Actor() Actor { return Actor{id: p.UserID, role: p.Role} }

// Actor is who administers an account. The zero value may do nothing.
type Actor struct {
	id   uuid.UUID // uuid.Nil for the operator of the machine
	role session.Role
}

// Console is the operator of the machine, who holds the database's password.
func Console() Actor { return Actor{role: session.RoleAdmin} }

func (a Actor) require(least session.Role) error {
	if a.role < least {
		return ErrRoleRequired
	}
	return nil
}
