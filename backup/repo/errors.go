package repo

import (
	"errors"
	"fmt"

	"rootstream/errs"
)

// What can go wrong with a repository, besides what its storage says.
var (
	ErrNoRepository = errs.New(errs.NotFound, "no_repository", "there is no repository")
	ErrWrongKey     = errs.New(errs.Forbidden, "wrong_repository_key", "none of the keys given opens the repository")
	ErrKey          = errs.New(errs.Invalid, "repository_key", "this cannot be a repository key")
	ErrNoKey        = errs.New(errs.NotFound, "no_repository_key", "the repository has no such key")
	ErrLastKey      = errs.New(errs.Conflict, "last_repository_key", "the last key of a repository cannot be removed")
	ErrDamaged      = errs.New(errs.Internal, "repository_damaged", "the repository is damaged")
	ErrFormat       = errs.New(errs.Invalid, "repository_format", "the repository has a format that this version does not know")
	ErrOtherCluster = errs.New(errs.Conflict, "other_cluster", "the repository belongs to another cluster")
	ErrNoBackup     = errs.New(errs.NotFound, "no_backup", "there is no such backup")
	ErrPinned       = errs.New(errs.Conflict, "backup_pinned", "the backup is pinned")
	ErrLeaseHeld    = errs.New(errs.Conflict, "repository_busy", "somebody else is writing to the repository")
	ErrLeaseLost    = errs.New(errs.Precondition, "lease_lost", "the run was declared dead, or could not say that it lives")
	ErrWithdrawn    = errs.New(errs.Conflict, "backup_withdrawn", "the backup was withdrawn: a deletion that ran beside it takes data that it needs")
	ErrWALConflict  = errs.New(errs.Conflict, "wal_conflict", "the repository has other content under that name")
	ErrWALAbsent    = errs.New(errs.NotFound, "wal_absent", "the repository has no such file")
	ErrInvalid      = errs.New(errs.Invalid, "repository_input", "this cannot be stored")
)

// damaged names the object that is not what it was.
func damaged(name, format string, args ...any) error {
	return ErrDamaged.WithCause(fmt.Errorf("%s: %w", name, fmt.Errorf(format, args...)))
}

var errAuth = errors.New("it is not what was written, or belongs elsewhere")
