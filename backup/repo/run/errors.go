package run

import (
	"errors"

	"rootstream/errs"
)

// What can go wrong with a run.
var (
	ErrLeaseHeld = errs.New(errs.Conflict, "repository_busy", "somebody else is writing to the repository")
	ErrLeaseLost = errs.New(errs.Precondition, "lease_lost", "the run was declared dead, or could not say that it lives")
)

// ErrEnded is why the context of a run has ended that ended by itself.
var ErrEnded = errors.New("the run has ended")
