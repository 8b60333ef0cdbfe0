package seal

import (
	"context"
	"crypto/hmac"
	"errors"
	"log/slog"
	"sync"

	"github.com/google/uuid"

	"rootstream/backup/repo/codec"
	"rootstream/backup/storage"
)

// Safe is a storage and the keys of the repository in it. It is safe for concurrent use.
type Safe struct {
	st     storage.Storage
	keys   []Key
	log    *slog.Logger
	ring   *keyring
	decomp *codec.Decompressor
	comps  sync.Pool // of *codec.Compressor
}

// Open opens the repository in st with any of keys; if create is set and there is none, it makes one.
func Open(ctx context.Context, st storage.Storage, keys []Key, create bool, log *slog.Logger) (*Safe, error) {
	if len(keys) == 0 {
		return nil, ErrKey.WithCause(errors.New("none is given"))
	}
	var bad error
	for _, k := range keys {
		_, err := k.bytes()
		bad = errors.Join(bad, err)
	}
	if bad != nil {
		return nil, bad
	}
	root, err := readRoot(ctx, st)
	if errors.Is(err, ErrNoRepository) && create {
		if err = storage.Prove(ctx, st); err == nil {
			err = makeRoot(ctx, st, keys)
		}
		if err == nil {
			root, err = readRoot(ctx, st)
		}
	}
	if err != nil {
		return nil, err
	}
	secret, err := unlock(ctx, st, root.ID, keys)
	if err != nil {
		return nil, err
	}
	s, err := newSafe(root.ID, secret)
	if err != nil {
		return nil, err
	}
	s.st, s.keys, s.log = st, keys, log
	if err := s.ring.check(root); err != nil {
		return nil, err
	}
	return s, s.loadEpochs(ctx)
}

// newSafe is one with its keys, without a storage.
func newSafe(id uuid.UUID, secret []byte) (*Safe, error) {
	ring, err := newKeyring(id, secret)
	if err != nil {
		return nil, err
	}
	decomp, err := codec.NewDecompressor()
	if err != nil {
		return nil, err
	}
	if _, err := codec.NewCompressor(codec.Compression{}); err != nil {
		return nil, err
	}
	s := &Safe{ring: ring, decomp: decomp}
	s.comps.New = func() any {
		c, _ := codec.NewCompressor(codec.Compression{}) // it worked just before
		return c
	}
	return s, nil
}

// check refuses a root that another key wrote.
func (k *keyring) check(root *rootObject) error {
	mac, err := k.rootMAC(root)
	if err == nil && !hmac.Equal(mac, root.MAC) {
		err = Damaged(RootName, "%w", ErrForged)
	}
	return err
}

// ID is the repository's own.
func (s *Safe) ID() uuid.UUID { return s.ring.id }

// Storage is where the objects are.
func (s *Safe) Storage() storage.Storage { return s.st }
