// Package run keeps who is writing to a repository: a record in sessions/ for
// each run, which is its fence, and leases, of which one run at a time has one.
//
// Records change by compare-and-swap alone. A run says that it lives; one that
// has not for its time to live is declared dead by whoever needs to know, and
// commits nothing from then on, however late it wakes.
//
// The door is [NewBook]; [Book.Begin] starts a [Run], whose heartbeat is the only
// goroutine, and End waits for it.
package run
