package cache

import "rootstream/errs"

// The errors of this room.
var (
	// ErrUnavailable means Redis did not answer: it is down, unreachable, too slow, or not taking commands now.
	// The command may or may not have been carried out.
	ErrUnavailable = errs.New(errs.Unavailable, "cache_unavailable", "the cache is not available")
	// ErrTxConflict means a watched key changed before the transaction was executed; nothing was written.
	ErrTxConflict = errs.New(errs.Conflict, "cache_tx_conflict", "the cached value changed meanwhile")
)
