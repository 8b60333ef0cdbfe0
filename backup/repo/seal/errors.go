package seal

import (
	"errors"
	"fmt"

	"rootstream/errs"
)

// What can go wrong with what is sealed, besides what its storage says.
var (
	ErrNoRepository = errs.New(errs.NotFound, "no_repository", "there is no repository")
	ErrWrongKey     = errs.New(errs.Forbidden, "wrong_repository_key", "none of the keys given opens the repository")
	ErrKey          = errs.New(errs.Invalid, "repository_key", "this cannot be a repository key")
	ErrNoKey        = errs.New(errs.NotFound, "no_repository_key", "the repository has no such key")
	ErrLastKey      = errs.New(errs.Conflict, "last_repository_key", "the last key of a repository cannot be removed")
	ErrDamaged      = errs.New(errs.Internal, "repository_damaged", "the repository is damaged")
	ErrFormat       = errs.New(errs.Invalid, "repository_format", "the repository has a format that this version does not know")
	ErrInvalid      = errs.New(errs.Invalid, "repository_input", "this cannot be stored")
)

// Damaged names the object that is not what it was.
func Damaged(name, format string, args ...any) error {
	return ErrDamaged.WithCause(fmt.Errorf("%s: %w", name, fmt.Errorf(format, args...)))
}

// ErrForged says what authentication can say.
var ErrForged = errors.New("it is not what was written, or belongs elsewhere")
