package repo

import (
	"context"
	"errors"
)

// AddKey lets one more key open the repository, and returns its id.
func (r *Repo) AddKey(ctx context.Context, key Key) (string, error) { return r.safe.AddKey(ctx, key) }

// ListKeys tells which keys open the repository. Damaged ones are in the error.
func (r *Repo) ListKeys(ctx context.Context) ([]KeyInfo, error) { return r.safe.ListKeys(ctx) }

// RemoveKey takes a key away, but never the last. Whoever has used it may have kept the root key below it, which opens
// what is stored later, too: after a leak begin a new repository.
func (r *Repo) RemoveKey(ctx context.Context, id string) error {
	return r.withLease(ctx, "keys", func(ctx context.Context) error { return r.safe.RemoveKey(ctx, id) })
}

// RotateKey puts a key in the place of those given to Open, and returns its id.
func (r *Repo) RotateKey(ctx context.Context, key Key) (string, error) {
	id, err := r.AddKey(ctx, key)
	if err != nil {
		return "", err
	}
	olds, err := r.ListKeys(ctx)
	if err != nil {
		return "", err
	}
	for _, k := range olds {
		if k.Opens && k.ID != id {
			if err := r.RemoveKey(ctx, k.ID); err != nil && !errors.Is(err, ErrNoKey) { // another rotation took it
				return id, err
			}
		}
	}
	return id, nil
}

// RotateData draws a new key for packs to come. Those that are there keep theirs.
func (r *Repo) RotateData(ctx context.Context) error { return r.safe.RotateData(ctx) }
