package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"rootstream/internal/wait"
)

// Tx is a transaction of [DB.InTx]. It is for one goroutine.
type Tx struct {
	conn     *pgx.Conn
	begun    bool
	ended    bool      // the commit was acknowledged
	deadline time.Time // no statement waits longer, whatever the caller's context says
	values   map[any]any
	before   []func(context.Context) error
	last     []func(context.Context) error
	after    []func()
}

var _ Querier = (*Tx)(nil)

const maxTxTries = 5

// InTx runs fn in a READ COMMITTED transaction and commits when fn returns nil.
//
// A transaction that lost a deadlock is run again, so fn must do nothing
// outside tx that may not happen twice; [Tx.AfterCommit] is for what follows
// from success. An [ErrCommitUnknown] means just that: look before repeating.
// All of it ends within the statement timeout.
func (db *DB) InTx(ctx context.Context, fn func(tx *Tx) error) error {
	ctx, cancel := db.bound(ctx)
	defer cancel()
	for try := 1; ; try++ {
		err := db.tryTx(ctx, fn)
		if err == nil || !lostRace(err) {
			return err
		}
		if try == maxTxTries {
			return ErrBusy.WithCause(err).WithRetryAfter(time.Second)
		}
		if wait.For(ctx, time.Duration(try*try)*2*time.Millisecond) != nil {
			return ErrBusy.WithCause(err).WithRetryAfter(time.Second)
		}
	}
}

func (db *DB) tryTx(ctx context.Context, fn func(tx *Tx) error) error {
	c, err := db.acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	tx := &Tx{conn: c.Conn()}
	tx.deadline, _ = ctx.Deadline() // InTx set one
	over := false
	defer func() { // also when fn panics or ends the goroutine
		if !over && !tx.ended {
			tx.rollback(ctx)
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.finish(ctx); err != nil {
		return err
	}
	over = true // or nobody knows; in no case is there anything to roll back
	if err := tx.commit(ctx); err != nil {
		return err
	}
	for _, f := range tx.after {
		f()
	}
	if db.cfg.OnCommit != nil {
		db.cfg.OnCommit(tx)
	}
	return nil
}

// begin is sent together with the first statement, commit by itself or with the last ones.
const (
	begin  = "begin isolation level read committed"
	commit = "commit"
)

func (tx *Tx) commit(ctx context.Context) error {
	if !tx.begun || tx.ended {
		return nil
	}
	tag, err := tx.conn.Exec(ctx, commit)
	if err == nil {
		err = tx.acknowledge(tag)
	}
	if err != nil && rolledBack(err) {
		return fmt.Errorf("commit: %w", classify(err))
	}
	if err != nil {
		return ErrCommitUnknown.WithCause(err).WithRetryAfter(time.Second)
	}
	return nil
}

// acknowledge reads the answer to a commit.
func (tx *Tx) acknowledge(tag pgconn.CommandTag) error {
	if tag.String() != "COMMIT" {
		return pgx.ErrTxCommitRollback
	}
	tx.ended = true
	return nil
}

// rollback ends the transaction even when ctx is over; a connection that cannot is dropped by the pool.
func (tx *Tx) rollback(ctx context.Context) {
	if !tx.begun || tx.conn.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_, _ = tx.conn.Exec(ctx, "rollback")
}

// finish runs what was deferred; a deferred function may defer another.
func (tx *Tx) finish(ctx context.Context) error {
	for len(tx.before)+len(tx.last) > 0 {
		queue := &tx.before
		if len(tx.before) == 0 {
			queue = &tx.last
		}
		fn := (*queue)[0]
		*queue = (*queue)[1:]
		if err := fn(ctx); err != nil {
			return err
		}
	}
	return nil
}

// BeforeCommit makes fn one of the transaction's last statements, in the order of first use.
func (tx *Tx) BeforeCommit(fn func(context.Context) error) { tx.before = append(tx.before, fn) }

// AtLast makes fn run after all that [Tx.BeforeCommit] deferred: it is for
// what holds a lock that others wait for.
func (tx *Tx) AtLast(fn func(context.Context) error) { tx.last = append(tx.last, fn) }

// AfterCommit runs fn once the commit is acknowledged. It must be quick.
func (tx *Tx) AfterCommit(fn func()) { tx.after = append(tx.after, fn) }

// Value returns what a room keeps with this transaction under its own key type.
func (tx *Tx) Value(key any) any { return tx.values[key] }

// SetValue keeps v with this transaction.
func (tx *Tx) SetValue(key, v any) {
	if tx.values == nil {
		tx.values = map[any]any{}
	}
	tx.values[key] = v
}

// Exec runs one statement.
func (tx *Tx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if !tx.begun {
		first := tx.SendBatch(ctx, one(sql, args))
		tag, err := first.Exec()
		if failed := first.Close(); err == nil {
			err = failed
		}
		return tag, err
	}
	ctx, cancel := context.WithDeadline(ctx, tx.deadline)
	defer cancel()
	tag, err := tx.conn.Exec(ctx, sql, args...)
	return tag, classify(err)
}

// Query runs one statement that returns rows, which must be closed before the next statement.
func (tx *Tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if !tx.begun {
		first := tx.SendBatch(ctx, one(sql, args))
		rows, err := first.Query()
		if err != nil {
			_ = first.Close() // it says the same
			return rows, err
		}
		return &heldRows{Rows: rows, release: func() { _ = first.Close() }}, nil // rows.Err has told what went wrong
	}
	ctx, cancel := context.WithDeadline(ctx, tx.deadline)
	rows, err := tx.conn.Query(ctx, sql, args...)
	if err != nil {
		cancel()
	}
	return &heldRows{Rows: rows, release: cancel}, classify(err)
}

func one(sql string, args []any) *pgx.Batch {
	b := &pgx.Batch{}
	b.Queue(sql, args...)
	return b
}

// QueryRow runs one statement that returns at most one row.
func (tx *Tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := tx.Query(ctx, sql, args...)
	return oneRow{rows: rows, err: err}
}

// SendBatch pipelines statements: one round trip for all of them.
func (tx *Tx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	ctx, cancel := context.WithDeadline(ctx, tx.deadline)
	if tx.begun {
		return &heldBatch{BatchResults: tx.conn.SendBatch(ctx, b), release: cancel}
	}
	tx.begun = true
	both := &pgx.Batch{QueuedQueries: append([]*pgx.QueuedQuery{{SQL: begin}}, b.QueuedQueries...)}
	results := &heldBatch{BatchResults: tx.conn.SendBatch(ctx, both), release: cancel}
	if _, err := results.Exec(); err != nil {
		_ = results.Close() // it says the same
		return failedBatch{err: fmt.Errorf("begin: %w", err)}
	}
	return results
}

// SendLast pipelines a deferred function's statements, and the commit with
// them if nothing else is deferred, so that what they lock is not held for one
// more round trip. It is for statements whose answers decide nothing any more,
// and the last that the function does with tx: when it returns nil, what was
// written may be there for all to see.
func (tx *Tx) SendLast(ctx context.Context, b *pgx.Batch) error {
	if len(tx.before)+len(tx.last) > 0 {
		return tx.SendBatch(ctx, b).Close()
	}
	b.Queue(commit).Exec(tx.acknowledge)
	return outcome(tx.SendBatch(ctx, b).Close())
}

// CopyFrom bulk-loads rows into a table.
func (tx *Tx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	ctx, cancel := context.WithDeadline(ctx, tx.deadline)
	defer cancel()
	if !tx.begun {
		tx.begun = true
		if _, err := tx.conn.Exec(ctx, begin); err != nil {
			return 0, fmt.Errorf("begin: %w", classify(err))
		}
	}
	n, err := tx.conn.CopyFrom(ctx, table, columns, src)
	return n, classify(err)
}
