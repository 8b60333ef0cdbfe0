package seal

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
)

// Hash names content: HMAC-SHA256 under the repository's key, cut to 128 bits.
// Without the key it tells nothing about the content. The zero Hash names none.
type Hash [16]byte

// String returns the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText is String.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText reads what String returns.
func (h *Hash) UnmarshalText(text []byte) error { return Unhex(h[:], text) }

// Unhex fills into from as many digits as it needs.
func Unhex(into, text []byte) error {
	if len(text) != 2*len(into) {
		return hex.ErrLength
	}
	_, err := hex.Decode(into, text)
	return err
}

// Hasher makes hashes; one per goroutine.
type Hasher struct {
	mac hash.Hash
	sum [sha256.Size]byte
}

// NewHasher returns a hasher.
func (s *Safe) NewHasher() *Hasher { return &Hasher{mac: hmac.New(sha256.New, s.ring.hash)} }

// Sum names data.
func (h *Hasher) Sum(data []byte) Hash {
	h.mac.Reset()
	_, _ = h.mac.Write(data) // a hash takes everything
	return Hash(h.mac.Sum(h.sum[:0])[:len(Hash{})])
}
