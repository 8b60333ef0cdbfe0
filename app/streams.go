package app

import (
	"context"

	"github.com/google/uuid"

	"rootstream/postgres"
	"rootstream/secret"
	"rootstream/stream"
)

// Streams gives each write of a stream.Store a transaction of its own; reads are the store's.
type Streams struct {
	*stream.Store
	db *postgres.DB
}

// NewStreams wraps a store.
func NewStreams(s *stream.Store, db *postgres.DB) Streams { return Streams{s, db} }

// inTx runs fn in a transaction and returns what it returned.
func inTx[T any](ctx context.Context, db *postgres.DB, fn func(tx *postgres.Tx) (T, error)) (v T, err error) {
	err = db.InTx(ctx, func(tx *postgres.Tx) error {
		v, err = fn(tx)
		return err
	})
	return v, err
}

// Create makes a stream.
func (s Streams) Create(ctx context.Context, owner stream.Account, d stream.Draft) (stream.Created, error) {
	return inTx(ctx, s.db, func(tx *postgres.Tx) (stream.Created, error) { return s.Store.Create(ctx, tx, owner, d) })
}

// Update changes a stream.
func (s Streams) Update(ctx context.Context, a stream.Account, id uuid.UUID, p stream.Patch) (stream.Stream, error) {
	return inTx(ctx, s.db, func(tx *postgres.Tx) (stream.Stream, error) { return s.Store.Update(ctx, tx, a, id, p) })
}

// RotateKey replaces a stream's key.
func (s Streams) RotateKey(ctx context.Context, a stream.Account, id uuid.UUID) (secret.Secret, error) {
	return inTx(ctx, s.db, func(tx *postgres.Tx) (secret.Secret, error) { return s.Store.RotateKey(ctx, tx, a, id) })
}

// Delete removes a stream.
func (s Streams) Delete(ctx context.Context, a stream.Account, id uuid.UUID) error {
	return s.db.InTx(ctx, func(tx *postgres.Tx) error { return s.Store.Delete(ctx, tx, a, id) })
}

// Start makes a stream live.
func (s Streams) Start(ctx context.Context, a stream.Account, id uuid.UUID, first stream.Stats) (stream.Session, error) {
	return inTx(ctx, s.db, func(tx *postgres.Tx) (stream.Session, error) { return s.Store.Start(ctx, tx, a, id, first) })
}

// Stop ends a stream's being live.
func (s Streams) Stop(ctx context.Context, a stream.Account, id uuid.UUID) (stream.Session, error) {
	return inTx(ctx, s.db, func(tx *postgres.Tx) (stream.Session, error) { return s.Store.Stop(ctx, tx, a, id) })
}

// UpdateStats records what an encoder tells.
func (s Streams) UpdateStats(ctx context.Context, a stream.Account, id uuid.UUID, t stream.Stats) (stream.Stream, error) {
	return inTx(ctx, s.db, func(tx *postgres.Tx) (stream.Stream, error) { return s.Store.UpdateStats(ctx, tx, a, id, t) })
}

// AddRecording puts a recording on record.
func (s Streams) AddRecording(ctx context.Context, a stream.Account, id uuid.UUID, r stream.File) (stream.Recording, error) {
	return inTx(ctx, s.db, func(tx *postgres.Tx) (stream.Recording, error) { return s.Store.AddRecording(ctx, tx, a, id, r) })
}
