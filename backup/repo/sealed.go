package repo

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

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

// kind tells what a sealed object or blob is for, so that none passes for another.
type kind byte

const (
	kindBlob     kind = 'b'
	kindFooter   kind = 'f'
	kindManifest kind = 'm'
	kindSession  kind = 's'
	kindLease    kind = 'l'
	kindIntent   kind = 'i'
	kindProof    kind = 'p'
	kindPin      kind = 'n'
	kindEpoch    kind = 'e'
	kindWAL      kind = 'w'
	kindPiece    kind = 'o'
)

func (k kind) limit() int {
	switch k {
	case kindWAL, kindPiece:
		return maxObject
	case kindManifest, kindIntent:
		return maxManifest
	case kindBlob, kindFooter, kindSession, kindLease, kindProof, kindPin, kindEpoch:
		return maxSmall
	}
	return 0
}

// seal returns the object's body. It works with a copy of plain.
func (r *Repo) seal(k kind, name string, plain []byte) ([]byte, error) {
	if len(plain) > k.limit() {
		return nil, ErrInvalid.WithCause(fmt.Errorf("%s: %d bytes, %d are allowed", name, len(plain), k.limit()))
	}
	salt, err := randomBytes(saltSize)
	if err != nil {
		return nil, err
	}
	aead, err := r.ring.object(salt)
	if err != nil {
		return nil, err
	}
	body := make([]byte, objectHeader, objectHeader+len(plain)+objectSeal)
	comp := r.objects.Get().(*compressor) //nolint:forcetypeassert // the pool holds nothing else
	body, codec := comp.append(body, plain)
	r.objects.Put(comp)
	copy(body, objectMagic)
	body[4], body[5] = byte(k), byte(codec)
	binary.BigEndian.PutUint32(body[6:], uint32(len(plain))) //nolint:gosec // within the limit
	copy(body[10:], salt)
	data := r.objectData(name, body)
	return aead.Seal(body[:objectHeader], nil, body[objectHeader:], data), nil //nolint:gosec // this AEAD draws its nonces
}

// objectData is what is authenticated besides the content. The salt makes a key of its own.
func (r *Repo) objectData(name string, body []byte) []byte {
	data := append([]byte(nil), r.ring.id[:]...)
	data = append(data, body[:objectHeader]...)
	return append(data, name...)
}

// unseal returns the content of an object.
func (r *Repo) unseal(k kind, name string, body []byte) ([]byte, error) {
	if len(body) < objectHeader+objectSeal || string(body[:4]) != objectMagic || body[4] != byte(k) {
		return nil, damaged(name, "it does not begin as it should, or is cut off")
	}
	raw := int(binary.BigEndian.Uint32(body[6:]))
	if raw > k.limit() {
		return nil, damaged(name, "it claims %d bytes, %d are allowed", raw, k.limit())
	}
	aead, err := r.ring.object(body[10:objectHeader])
	if err != nil {
		return nil, err
	}
	sealed := body[objectHeader:]
	packed, err := aead.Open(sealed[:0], nil, sealed, r.objectData(name, body))
	if err != nil {
		return nil, damaged(name, "%w", errAuth)
	}
	plain, err := r.decomp.decode(Codec(body[5]), packed, raw, make([]byte, 0, raw))
	if err != nil {
		return nil, damaged(name, "%w", err)
	}
	return plain, nil
}

// get reads and opens an object.
func (r *Repo) get(ctx context.Context, k kind, name string) ([]byte, error) {
	body, err := r.st.Get(ctx, name, 0, -1)
	if err != nil {
		return nil, err
	}
	return r.unseal(k, name, body)
}

// getJSON reads an object into v, strictly.
func (r *Repo) getJSON(ctx context.Context, k kind, name string, v any) error {
	plain, err := r.get(ctx, k, name)
	if err != nil {
		return err
	}
	if err := decodeJSON(plain, v); err != nil {
		return damaged(name, "%w", err)
	}
	return nil
}

// putJSON creates an object.
func (r *Repo) putJSON(ctx context.Context, k kind, name string, v any) error {
	body, err := r.sealJSON(k, name, v)
	if err != nil {
		return err
	}
	return r.st.Put(ctx, name, body)
}

func (r *Repo) sealJSON(k kind, name string, v any) ([]byte, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", name, err)
	}
	return r.seal(k, name, plain)
}

// isGone reports that the storage has proven an object absent.
func isGone(err error) bool { return errors.Is(err, storage.ErrNotFound) }
