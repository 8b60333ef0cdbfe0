package secret

import (
	"encoding/binary"
	"strings"
)

// tinkPrefix is the first byte of what a Tink key with an id writes; the id follows, big-endian.
const tinkPrefix = 1

// AD is the place a sealed value belongs to. A value moved to another row,
// column or user does not open there.
type AD struct {
	Table, Column string
	Row           string // the row's public id
	User          string // the owner's public id; empty where there is no owner
}

func (a AD) encode() ([]byte, error) {
	s := "rs1:" + a.Table + ":" + a.Column + ":" + a.Row + ":" + a.User
	if a.Table == "" || a.Column == "" || strings.Count(s, ":") != 4 {
		return nil, ErrBadAD
	}
	return []byte(s), nil
}

func (r *ring) sealFor(ad AD, plain []byte) ([]byte, error) {
	place, err := ad.encode()
	if err != nil {
		return nil, err
	}
	out, err := r.aead.Encrypt(plain, place)
	if err != nil {
		return nil, ErrNotOpened.WithCause(err)
	}
	return out, nil
}

func (r *ring) unseal(ad AD, sealed []byte) ([]byte, error) {
	place, err := ad.encode()
	if err != nil {
		return nil, err
	}
	if id, ok := sealedBy(sealed); ok && !r.known[id] {
		return nil, ErrKeysetStale
	}
	plain, err := r.aead.Decrypt(sealed, place)
	if err != nil {
		return nil, ErrNotOpened // Tink's error says no more
	}
	return plain, nil
}

// sealedBy returns the id of the key that sealed a value.
func sealedBy(sealed []byte) (uint32, bool) {
	if len(sealed) < 5 || sealed[0] != tinkPrefix {
		return 0, false
	}
	return binary.BigEndian.Uint32(sealed[1:5]), true
}

// Seal encrypts plain for its place.
func (k *Keyset) Seal(ad AD, plain []byte) ([]byte, error) {
	if k == nil {
		return nil, ErrKeysetMissing
	}
	return k.ring.Load().sealFor(ad, plain)
}

// Unseal decrypts what Seal made for the same place. A key this process has
// not seen gives ErrKeysetStale and makes Run look for it at once.
func (k *Keyset) Unseal(ad AD, sealed []byte) ([]byte, error) {
	if k == nil {
		return nil, ErrKeysetMissing
	}
	r := k.ring.Load()
	if id, ok := sealedBy(sealed); ok && !r.known[id] {
		select {
		case k.kick <- struct{}{}:
		default:
		}
	}
	return r.unseal(ad, sealed)
}

// NeedsReseal reports whether sealed was made with another key than the one that seals now.
func (k *Keyset) NeedsReseal(sealed []byte) bool {
	if k == nil {
		return false
	}
	id, ok := sealedBy(sealed)
	return !ok || id != k.ring.Load().primary()
}

// Reseal returns sealed anew under the key that seals now, and whether that changed anything.
func (k *Keyset) Reseal(ad AD, sealed []byte) (out []byte, changed bool, err error) {
	plain, err := k.Unseal(ad, sealed)
	if err != nil {
		return nil, false, err
	}
	if !k.NeedsReseal(sealed) {
		return sealed, false, nil
	}
	out, err = k.Seal(ad, plain)
	return out, err == nil, err
}
