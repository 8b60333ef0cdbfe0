// Package archive brings files of the write-ahead log into a repository and back out of it, as PostgreSQL asks for it.
//
// [Push] is an archive_command, [Source.Fetch] a restore_command, and
// [RestoreCommand] the text that makes PostgreSQL stop where a fetch cannot
// tell for sure. Package receive streams the log instead, package ledger says
// what a repository has of it. Positions and names are package wal's, objects
// package repo's. It starts no goroutine.
package archive

import "rootstream/errs"

// What can be wrong.
var (
	ErrAbsent  = errs.New(errs.NotFound, "wal_absent", "the repository has no such file: this is the end of the log")
	ErrUnknown = errs.New(errs.Precondition, "wal_unknown_cluster", "the repository knows nothing of this cluster")
	ErrFile    = errs.New(errs.Invalid, "wal_file", "the file cannot be archived")
)
