package session

import (
	"github.com/google/uuid"

	"rootstream/errs"
)

// Errors of this room.
var (
	// ErrInvalid is the one answer to a token that is malformed, unknown, expired or revoked.
	ErrInvalid = errs.New(errs.Unauthenticated, "unauthenticated", "sign in")
	// ErrBlind says that revocations cannot be confirmed here, so no token is accepted.
	ErrBlind = errs.New(errs.Unavailable, "revocations_unknown", "this instance cannot confirm that sessions still stand")
	// ErrNotFound says that there is no such session, or that it is somebody else's.
	ErrNotFound = errs.New(errs.NotFound, "session_not_found", "there is no such session")
	// ErrLimit says that the account has as many sessions as it may have.
	ErrLimit = errs.New(errs.Conflict, "session_limit", "too many sessions are open")
	// ErrUserInactive says that the account cannot have sessions: it is deactivated or gone.
	ErrUserInactive = errs.New(errs.Forbidden, "user_inactive", "this account cannot sign in")
	// ErrNoPolicy says that no policy has that name.
	ErrNoPolicy = errs.New(errs.Invalid, "unknown_session_class", "there is no such session class")
)

// ReusedError is an [ErrInvalid]: a token was presented at refresh long after
// it had been replaced, so it was stolen or its successor was. The session has
// been revoked; the fields are for telling its owner.
type ReusedError struct {
	SessionID, UserID uuid.UUID
	DBUserID          int64
}

// Error says what happened, without the token.
func (e *ReusedError) Error() string {
	return "a replaced token of session " + e.SessionID.String() + " was used again"
}

// Unwrap makes it an [ErrInvalid].
func (e *ReusedError) Unwrap() error { return ErrInvalid }
