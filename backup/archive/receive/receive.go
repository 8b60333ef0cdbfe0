// Package receive streams write-ahead log from a server into a repository.
//
// A [Receiver] speaks the replication protocol, writes what it hears into a
// spool on disk, acknowledges what is durable, and uploads it: whole segments,
// and pieces of the one that is being written, so that little is lost when the
// machine is. It runs two loops, both under [Receiver.Run]: one receives, one
// uploads. [LookUp] asks a server how its slot stands.
package receive

import "rootstream/errs"

// What can be wrong, besides a gap, which is package ledger's.
var (
	ErrDiverged = errs.New(errs.Conflict, "wal_diverged", "the server sends other write-ahead log than it did before")
	ErrSpool    = errs.New(errs.Conflict, "wal_spool", "the spool folder cannot be used")
	ErrBehind   = errs.New(errs.Conflict, "wal_server_behind", "the server is on an older timeline than what was received")
	ErrServer   = errs.New(errs.Unavailable, "wal_server", "the server sends no write-ahead log")
)
