package seal

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"rootstream/backup/repo/codec"
	"rootstream/backup/storage"
)

// A sealed object is a header (magic, kind, codec, plain length, salt) and the
// sealed content; its name and the header are authenticated with it.
const (
	objectMagic  = "RSO1"
	saltSize     = 16
	objectHeader = len(objectMagic) + 1 + 1 + 4 + saltSize
	tagSize      = 16
	objectSeal   = 12 + tagSize // with the nonce
	maxObject    = 1 << 30      // plain bytes of the largest: a WAL segment
	maxSmall     = 1 << 20
	maxManifest  = 256 << 20
)

// Kind tells what a sealed object is for, so that none passes for another.
type Kind byte

// The kinds of objects.
const (
	KindManifest Kind = 'm'
	KindSession  Kind = 's'
	KindLease    Kind = 'l'
	KindIntent   Kind = 'i'
	KindProof    Kind = 'p'
	KindPin      Kind = 'n'
	KindMark     Kind = 'c'
	KindEpoch    Kind = 'e'
	KindLedger   Kind = 'g'
	KindWAL      Kind = 'w'
	KindPiece    Kind = 'o'
)

func (k Kind) limit() int {
	switch k {
	case KindWAL, KindPiece:
		return maxObject
	case KindManifest, KindIntent:
		return maxManifest
	case KindSession, KindLease, KindProof, KindPin, KindMark, KindEpoch, KindLedger:
		return maxSmall
	}
	return 0
}

// Seal returns the object's body. It works with a copy of plain.
func (s *Safe) Seal(k Kind, name string, plain []byte) ([]byte, error) {
	if len(plain) > k.limit() {
		return nil, ErrInvalid.WithCause(fmt.Errorf("%s: %d bytes, %d are allowed", name, len(plain), k.limit()))
	}
	salt, err := RandomBytes(saltSize)
	if err != nil {
		return nil, err
	}
	aead, err := s.ring.object(salt)
	if err != nil {
		return nil, err
	}
	body := make([]byte, objectHeader, objectHeader+len(plain)+objectSeal)
	comp := s.comps.Get().(*codec.Compressor) //nolint:forcetypeassert // the pool holds nothing else
	body, how := comp.Append(body, plain)
	s.comps.Put(comp)
	copy(body, objectMagic)
	body[4], body[5] = byte(k), byte(how)
	binary.BigEndian.PutUint32(body[6:], uint32(len(plain))) //nolint:gosec // within the limit
	copy(body[10:], salt)
	data := s.objectData(name, body)
	return aead.Seal(body[:objectHeader], nil, body[objectHeader:], data), nil //nolint:gosec // this AEAD draws its nonces
}

// objectData is what is authenticated besides the content. The salt makes a key of its own.
func (s *Safe) objectData(name string, body []byte) []byte {
	data := append([]byte(nil), s.ring.id[:]...)
	data = append(data, body[:objectHeader]...)
	return append(data, name...)
}

// unseal returns the content of an object.
func (s *Safe) unseal(k Kind, name string, body []byte) ([]byte, error) {
	if len(body) < objectHeader+objectSeal || string(body[:4]) != objectMagic || body[4] != byte(k) {
		return nil, Damaged(name, "it does not begin as it should, or is cut off")
	}
	raw := int(binary.BigEndian.Uint32(body[6:]))
	if raw > k.limit() {
		return nil, Damaged(name, "it claims %d bytes, %d are allowed", raw, k.limit())
	}
	aead, err := s.ring.object(body[10:objectHeader])
	if err != nil {
		return nil, err
	}
	sealed := body[objectHeader:]
	packed, err := aead.Open(sealed[:0], nil, sealed, s.objectData(name, body))
	if err != nil {
		return nil, Damaged(name, "%w", ErrForged)
	}
	plain, err := s.decomp.Decode(codec.Codec(body[5]), packed, raw, make([]byte, 0, raw))
	if err != nil {
		return nil, Damaged(name, "%w", err)
	}
	return plain, nil
}

// Get reads and opens an object.
func (s *Safe) Get(ctx context.Context, k Kind, name string) ([]byte, error) {
	body, err := s.st.Get(ctx, name, 0, storage.AtMost(objectHeader+k.limit()+objectSeal))
	if errors.Is(err, storage.ErrLarge) {
		return nil, Damaged(name, "%w", err)
	}
	if err != nil {
		return nil, err
	}
	return s.unseal(k, name, body)
}

// GetJSON reads an object into v, strictly.
func (s *Safe) GetJSON(ctx context.Context, k Kind, name string, v any) error {
	plain, err := s.Get(ctx, k, name)
	if err != nil {
		return err
	}
	if err := DecodeJSON(plain, v); err != nil {
		return Damaged(name, "%w", err)
	}
	return nil
}

// PutJSON creates an object.
func (s *Safe) PutJSON(ctx context.Context, k Kind, name string, v any) error {
	body, err := s.SealJSON(k, name, v)
	if err != nil {
		return err
	}
	return s.st.Put(ctx, name, body)
}

// SealJSON returns the body of an object that holds v.
func (s *Safe) SealJSON(k Kind, name string, v any) ([]byte, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", name, err)
	}
	return s.Seal(k, name, plain)
}

// DecodeJSON reads one JSON value and nothing else, with no field that v does not have.
func DecodeJSON(body []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the end")
	}
	return nil
}
