// Package feedtest has what tests of shared state need besides real servers.
package feedtest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
)

// Key authenticates as a keyset does, and needs no database.
type Key string

// MAC is the HMAC-SHA256 of the purpose and the parts, each behind its length.
func (k Key) MAC(purpose string, parts ...[]byte) (mac [32]byte, err error) {
	h := hmac.New(sha256.New, []byte(k))
	for _, p := range append([][]byte{[]byte(purpose)}, parts...) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(p))))
		h.Write(p)
	}
	copy(mac[:], h.Sum(nil))
	return mac, nil
}

// Verify reports whether mac is that of the purpose and the parts.
func (k Key) Verify(purpose string, mac []byte, parts ...[]byte) (bool, error) {
	want, err := k.MAC(purpose, parts...)
	return hmac.Equal(want[:], mac), err
}
