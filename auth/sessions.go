package auth

import (
	"context"

	"github.com/google/uuid"

	"rootstream/postgres"
	"rootstream/session"
)

// RevokeSession ends one of the principal's own sessions.
func (s *Service) RevokeSession(ctx context.Context, p Principal, id uuid.UUID) error {
	return s.db.InTx(ctx, func(tx *postgres.Tx) error {
		return s.sessions.Revoke(ctx, tx, p.DBUserID, id, session.Cause{Reason: "user"})
	})
}

// RevokeOtherSessions ends all of the principal's sessions but this one, and
// sign-ins that are half done, and returns how many sessions.
func (s *Service) RevokeOtherSessions(ctx context.Context, p Principal) (int, error) {
	return s.endOwn(ctx, p, p.SessionID)
}

// RevokeAllSessions does the same and spares not even this session.
func (s *Service) RevokeAllSessions(ctx context.Context, p Principal) (int, error) {
	return s.endOwn(ctx, p, uuid.Nil)
}

func (s *Service) endOwn(ctx context.Context, p Principal, but uuid.UUID) (n int, err error) {
	err = s.db.InTx(ctx, func(tx *postgres.Tx) (err error) {
		n, err = s.end(ctx, tx, p.DBUserID, but, session.Cause{Reason: "user"})
		return err
	})
	return n, err
}

// RenameSession sets what the principal calls the device of one of their sessions.
func (s *Service) RenameSession(ctx context.Context, p Principal, id uuid.UUID, name string) (renamed session.Session, err error) {
	err = s.db.InTx(ctx, func(tx *postgres.Tx) (err error) {
		if err = s.sessions.Rename(ctx, tx, p.DBUserID, id, name); err != nil {
			return err
		}
		renamed, err = s.sessions.ByPublicID(ctx, tx, p.DBUserID, id)
		return err
	})
	return renamed, err
}

// EndSession ends anybody's session, for an operator.
func (s *Service) EndSession(ctx context.Context, by Actor, id uuid.UUID) error {
	if err := by.require(session.RoleOperator); err != nil {
		return err
	}
	return s.db.InTx(ctx, func(tx *postgres.Tx) error {
		return s.sessions.Revoke(ctx, tx, session.AnyOwner, id, session.Cause{Reason: "operator", Actor: by.id})
	})
}

// Session returns anybody's session, live or not.
func (s *Service) Session(ctx context.Context, id uuid.UUID) (session.Session, error) {
	return s.sessions.ByPublicID(ctx, s.db, session.AnyOwner, id)
}
