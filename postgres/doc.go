// Package postgres is the door to PostgreSQL: the pool, transactions, migrations.
//
// [Open] gives a [DB]. Reads go through any [Querier]; writes happen in
// [DB.InTx], which owns begin and commit, repeats what lost a deadlock, and
// runs what was deferred with [Tx.BeforeCommit], then [Tx.AtLast], as its last
// statements. No call waits much longer than the statement timeout, paused
// server or not. Faults of the connection come back as errs.Unavailable, so
// callers need to know no SQLSTATE but the constraint they ask [Violates] about.
//
// The schema lives in migrations/*.sql (they only expand) and contract/*.sql
// (the steps that end compatibility with Phase 24.2). [Migrate] applies them,
// safely from any number of processes at once. The package starts no loop.
package postgres
