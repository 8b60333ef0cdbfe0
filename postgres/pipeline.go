package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Pipeline runs b's statements as one transaction in a single round trip: they
// are committed together when the last has run, or none is. What b's functions
// were told counts only once Pipeline returns nil; [ErrCommitUnknown] is as in
// [DB.InTx]. [Config.OnCommit] is not called.
func (db *DB) Pipeline(ctx context.Context, b *pgx.Batch) error {
	ctx, cancel := db.bound(ctx)
	defer cancel()
	c, err := db.acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	return outcome(c.SendBatch(ctx, b).Close()) // Close returns once the server has said that it is through with the commit
}

// outcome tells a pipeline that stored nothing from one of which nobody knows.
func outcome(err error) error {
	_, unsent := errors.AsType[pgx.ErrPreprocessingBatch](err)
	if err == nil || unsent || rolledBack(err) || pgconn.SafeToRetry(err) {
		return classify(err)
	}
	return ErrCommitUnknown.WithCause(err).WithRetryAfter(time.Second)
}
