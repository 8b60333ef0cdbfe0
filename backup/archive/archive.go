// Package archive brings write-ahead log into a repository and back out of it.
//
// [Receiver] streams it from a server over the replication protocol into a
// spool on disk, acknowledges what is durable, and uploads it: whole segments,
// and pieces of the one that is being written, so that little is lost when the
// machine is. [Push] is an archive_command, [Fetch] a restore_command, and
// [RestoreCommand] the text that makes PostgreSQL stop where Fetch cannot tell
// for sure. [Load] reads what a repository has, [Ledger.Gaps] what it lacks.
//
// A Receiver runs two loops, both under [Receiver.Run]: one receives, one
// uploads. Positions and names are package wal's, objects package repo's.
package archive

import (
	"fmt"

	"rootstream/backup/wal"
	"rootstream/errs"
)

// What can be wrong.
var (
	ErrAbsent   = errs.New(errs.NotFound, "wal_absent", "the repository has no such file: this is the end of the log")
	ErrUnknown  = errs.New(errs.Precondition, "wal_unknown_cluster", "the repository knows nothing of this cluster")
	ErrGap      = errs.New(errs.Precondition, "wal_gap", "write-ahead log is missing")
	ErrDiverged = errs.New(errs.Conflict, "wal_diverged", "the server sends other write-ahead log than it did before")
	ErrSpool    = errs.New(errs.Conflict, "wal_spool", "the spool folder cannot be used")
	ErrBehind   = errs.New(errs.Conflict, "wal_server_behind", "the server is on an older timeline than what was received")
	ErrFile     = errs.New(errs.Invalid, "wal_file", "the file cannot be archived")
	ErrServer   = errs.New(errs.Unavailable, "wal_server", "the server sends no write-ahead log")
)

// Gap is write-ahead log that the repository will never get from the server.
type Gap struct{ wal.Range }

func (g Gap) err() error {
	return ErrGap.WithCause(fmt.Errorf("%v is no longer on the server", g.Range))
}
