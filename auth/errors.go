package auth

import "rootstream/errs"

// Errors of this room.
var (
	// ErrInvalidCredentials is the one answer to a wrong password, an unknown
	// or disabled account, and a password that cannot be checked.
	ErrInvalidCredentials = errs.New(errs.Unauthenticated, "invalid_credentials", "the name or the password is not right")
	// ErrWrongPassword says to somebody who is signed in that the password is not theirs.
	ErrWrongPassword = errs.New(errs.Unauthenticated, "invalid_credentials", "the password is not right")
	// ErrRateLimited says that there were too many attempts, whoever made them.
	ErrRateLimited = errs.New(errs.RateLimited, "rate_limited", "too many attempts")
	// ErrChallengeGone is the one answer to a challenge that is unknown, expired or used.
	ErrChallengeGone = errs.New(errs.Gone, "challenge_gone", "this sign-in was not finished in time: sign in again")
	// ErrAALRequired says that the session must be proven again first.
	ErrAALRequired = errs.New(errs.Forbidden, "aal_required", "confirm that it is you first").
			WithHint("POST /v1/auth/reauthenticate")
	// ErrFactorRequired says that the account must have a second factor first, or keep the one it has.
	ErrFactorRequired = errs.New(errs.Forbidden, "factor_required", "every account here needs a second factor").
				WithHint("set one up: POST /v1/mfa/totp")
	// ErrRoleRequired says that the account's role does not allow it.
	ErrRoleRequired = errs.New(errs.Forbidden, "role_required", "this account may not do that")
	// ErrAdminExists says that the first administrator is there already.
	ErrAdminExists = errs.New(errs.Conflict, "admin_exists", "there is an administrator already")
	// ErrLastAdmin says that nobody could administer the system any more.
	ErrLastAdmin = errs.New(errs.Conflict, "last_admin", "this is the last administrator").
			WithHint("make another account an administrator first")
)
