package user

import "rootstream/errs"

// Errors of accounts.
var (
	ErrNotFound      = errs.New(errs.NotFound, "user_not_found", "no such user")
	ErrUsernameTaken = errs.New(errs.Conflict, "username_taken", "that user name is taken")
	ErrEmailTaken    = errs.New(errs.Conflict, "email_taken", "that e-mail address belongs to another account")
	ErrEmailSettling = errs.New(errs.Conflict, "email_settling", "the address was changed a short while ago, which can still be undone").
				WithHint("do it once the time to undo is over; an administrator can do it at once")
	ErrTokenGone  = errs.New(errs.Gone, "token_gone", "this link has been used or has expired: ask for a new one")
	ErrBusy       = errs.New(errs.Unavailable, "busy", "too many passwords are being checked right now")
	ErrHashFormat = errs.New(errs.Invalid, "hash_format", "the password hash is in no form that can be checked")
	ErrHashLimits = errs.New(errs.Invalid, "hash_limits", "the password hash asks for more memory or time than is allowed")
)
