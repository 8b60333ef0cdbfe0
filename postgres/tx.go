package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Tx is a transaction of [DB.InTx]. It is for one goroutine.
type Tx struct {
	tx     pgx.Tx
	values map[any]any
	before []func(context.Context) error
	after  []func()
}

var _ Querier = (*Tx)(nil)

const maxTxTries = 5

// InTx runs fn in a READ COMMITTED transaction and commits when fn returns nil.
//
// A transaction that lost a deadlock is run again, so fn must do nothing
// outside tx that may not happen twice; [Tx.AfterCommit] is for what follows
// from success. An error of the commit itself means its outcome is unknown.
func (db *DB) InTx(ctx context.Context, fn func(tx *Tx) error) error {
	ctx, cancel := db.bound(ctx)
	defer cancel()
	for try := 1; ; try++ {
		err := db.tryTx(ctx, fn)
		if err == nil || !lostRace(err) || try == maxTxTries {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Duration(try*try) * 2 * time.Millisecond):
		}
	}
}

func (db *DB) tryTx(ctx context.Context, fn func(tx *Tx) error) (err error) {
	c, err := db.acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	begun, err := c.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", classify(err))
	}
	tx := &Tx{tx: begun}
	defer func() {
		if p := recover(); p != nil {
			rollback(ctx, begun)
			panic(p)
		}
	}()
	if err := fn(tx); err != nil {
		rollback(ctx, begun)
		return err
	}
	for i := 0; i < len(tx.before); i++ { // a hook may add another
		if err := tx.before[i](ctx); err != nil {
			rollback(ctx, begun)
			return err
		}
	}
	if err := begun.Commit(ctx); err != nil {
		if errors.Is(err, pgx.ErrTxCommitRollback) {
			return fmt.Errorf("commit: %w", err)
		}
		return fmt.Errorf("commit, outcome unknown: %w", classify(err))
	}
	for _, f := range tx.after {
		f()
	}
	return nil
}

// rollback ends the transaction even when ctx is over; a connection that cannot is dropped by the pool.
func rollback(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_ = tx.Rollback(ctx)
}

// BeforeCommit makes fn one of the transaction's last statements, in the order of first use.
func (tx *Tx) BeforeCommit(fn func(context.Context) error) { tx.before = append(tx.before, fn) }

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
	tag, err := tx.tx.Exec(ctx, sql, args...)
	return tag, classify(err)
}

// Query runs one statement that returns rows, which must be closed before the next statement.
func (tx *Tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	rows, err := tx.tx.Query(ctx, sql, args...)
	return &heldRows{Rows: rows}, classify(err)
}

// QueryRow runs one statement that returns at most one row.
func (tx *Tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := tx.Query(ctx, sql, args...)
	return oneRow{rows: rows, err: err}
}

// SendBatch pipelines statements: one round trip for all of them.
func (tx *Tx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return &heldBatch{BatchResults: tx.tx.SendBatch(ctx, b)}
}

// CopyFrom bulk-loads rows into a table.
func (tx *Tx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	n, err := tx.tx.CopyFrom(ctx, table, columns, src)
	return n, classify(err)
}
