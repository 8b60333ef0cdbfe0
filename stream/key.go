package stream

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"strings"

	"rootstream/secret"
)

// A stream key is "srk_", 43 characters of base64url for 32 random bytes, and
// 6 of a CRC-32 over all before them, so that secret scanners know it and
// garbage dies without I/O. Keys of Phase 24.2 are any other string.
const (
	keyPrefix = "srk_"
	keyBody   = len(keyPrefix) + 43
	keyLen    = keyBody + 6
	maxKey    = 512 // streams.stream_key
)

func newKey() (secret.Secret, [32]byte) {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails
	body := keyPrefix + base64.RawURLEncoding.EncodeToString(random[:])
	key := body + checksum(body)
	return secret.FromString(key), sha256.Sum256([]byte(key))
}

func checksum(body string) string {
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(body))))
}

// keyHash is what a key that may exist is looked up by.
func keyHash(key string) ([32]byte, bool) {
	if key == "" || len(key) > maxKey {
		return [32]byte{}, false
	}
	if strings.HasPrefix(key, keyPrefix) && (len(key) != keyLen || checksum(key[:keyBody]) != key[keyBody:]) {
		return [32]byte{}, false
	}
	return sha256.Sum256([]byte(key)), true
}

// storedKey stands in the column of 24.2 for a key that is kept as its hash. It opens nothing.
func storedKey(hash [32]byte) string { return "h1:" + hex.EncodeToString(hash[:]) }
