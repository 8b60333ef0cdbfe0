package pack

import (
	"context"
	"errors"
	"fmt"

	"rootstream/backup/repo/codec"
	"rootstream/backup/repo/seal"
	"rootstream/backup/storage"
)

// Store is where packs are. It is safe for concurrent use.
type Store struct {
	safe   *seal.Safe
	st     storage.Storage
	decomp *codec.Decompressor
}

// NewStore returns the packs of a repository.
func NewStore(safe *seal.Safe) (*Store, error) {
	decomp, err := codec.NewDecompressor()
	return &Store{safe, safe.Storage(), decomp}, err
}

func (s *Store) sealer(ctx context.Context, id ID) (*sealer, error) {
	aead, err := s.safe.Blobs(ctx, id.epoch(), id)
	if err != nil {
		return nil, err
	}
	return newSealer(aead, s.safe.ID(), id), nil
}

// List returns all packs that there are.
func (s *Store) List(ctx context.Context) (map[ID]storage.Object, error) {
	packs := map[ID]storage.Object{}
	for o, err := range s.st.List(ctx, Prefix) {
		if err != nil {
			return nil, fmt.Errorf("list packs: %w", err)
		}
		if id, ok := ParseName(o.Name); ok {
			packs[id] = o
		}
	}
	return packs, nil
}

// footer reads what a pack of that size holds.
func (s *Store) footer(ctx context.Context, id ID, size int64) ([]entry, error) {
	if size < int64(trailerSize) {
		return nil, seal.Damaged(id.Object(), "it has %d bytes", size)
	}
	end, err := s.st.Get(ctx, id.Object(), size-int64(trailerSize), int64(trailerSize))
	if err != nil {
		return nil, err
	}
	t, err := parseTrailer(id, size, end)
	if err != nil {
		return nil, err
	}
	sealed, err := s.st.Get(ctx, id.Object(), size-int64(trailerSize)-int64(t.footer), int64(t.footer))
	if err != nil {
		return nil, err
	}
	lock, err := s.sealer(ctx, id)
	if err != nil {
		return nil, err
	}
	return t.parse(lock, id, size, sealed)
}

// Check reads a pack of that size, or only its footer if quick, and returns its blobs as far as the footer tells of them.
func (s *Store) Check(ctx context.Context, id ID, size int64, quick bool) ([]Blob, error) {
	entries, err := s.footer(ctx, id, size)
	if err != nil {
		return nil, err
	}
	blobs := make([]Blob, len(entries))
	for i, e := range entries {
		blobs[i] = e.Blob
	}
	if quick {
		return blobs, nil
	}
	data, err := s.st.Get(ctx, id.Object(), 0, size)
	if err != nil {
		return blobs, err
	}
	lock, err := s.sealer(ctx, id)
	if err != nil {
		return blobs, err
	}
	var plain []byte
	for _, b := range blobs {
		if plain, err = s.open(lock, b, data[b.Offset:b.Offset+b.Stored], plain[:0]); err != nil {
			return blobs, err
		}
	}
	return blobs, nil
}

// readRange reads n bytes of a pack; what is missing of it is damage.
func (s *Store) readRange(ctx context.Context, id ID, off, n uint32) ([]byte, error) {
	data, err := s.st.Get(ctx, id.Object(), int64(off), int64(n))
	if storage.Gone(err) || errors.Is(err, storage.ErrShort) {
		return nil, seal.Damaged(id.Object(), "%v", err) // not ErrNotFound: that means that there is nothing to find
	}
	return data, err
}

// open authenticates and decompresses the sealed blob, appending to into. It spoils sealed.
func (s *Store) open(lock *sealer, b Blob, sealed, into []byte) ([]byte, error) {
	lock.set(kindBlob, b.Number, b.Codec, b.Raw)
	packed, err := lock.aead.Open(sealed[:0], lock.nonce[:], sealed, lock.data[:])
	if err != nil {
		return nil, seal.Damaged(b.Pack.Object(), "blob %d: %w", b.Number, seal.ErrForged)
	}
	plain, err := s.decomp.Decode(b.Codec, packed, int(b.Raw), into)
	if err != nil {
		return nil, seal.Damaged(b.Pack.Object(), "blob %d: %w", b.Number, err)
	}
	return plain, nil
}

// Read returns a blob's plain data, authenticated, in into's memory if it has room.
func (s *Store) Read(ctx context.Context, b Blob, into []byte) ([]byte, error) {
	if err := b.Check(); err != nil {
		return nil, seal.ErrInvalid.WithCause(err)
	}
	sealed, err := s.readRange(ctx, b.Pack, b.Offset, b.Stored)
	if err != nil {
		return nil, err
	}
	lock, err := s.sealer(ctx, b.Pack)
	if err != nil {
		return nil, err
	}
	return s.open(lock, b, sealed, into[:0])
}
