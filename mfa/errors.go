package mfa

import "rootstream/errs"

// Errors of second factors. Wrong and used codes are one error on purpose.
var (
	ErrInvalidCode       = errs.New(errs.Unauthenticated, "invalid_code", "the code is not valid")
	ErrTooManyAttempts   = errs.New(errs.RateLimited, "too_many_attempts", "too many codes were tried")
	ErrSuspended         = errs.New(errs.Forbidden, "factor_suspended", "the second factor is suspended after too many wrong codes")
	ErrFactorExists      = errs.New(errs.Conflict, "factor_exists", "an authenticator is set up already")
	ErrFactorNotFound    = errs.New(errs.NotFound, "factor_not_found", "no such factor")
	ErrEnrollmentExpired = errs.New(errs.Gone, "enrollment_expired", "the set-up was not confirmed in time: start it again")
	ErrBusy              = errs.New(errs.Unavailable, "hashing_busy", "too many codes are being checked")
)
