package session

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"strings"
	"unsafe"

	"github.com/google/uuid"

	"rootstream/secret"
	"rootstream/session/near"
)

// A token is "sst_", 43 characters of base64url for 32 random bytes, and 6 of
// a CRC-32 over all before them, so that secret scanners know it and garbage
// dies without I/O. Tokens of Phase 24.2 are any other string.
const (
	tokenPrefix = "sst_"
	bodyLen     = len(tokenPrefix) + 43
	tokenLen    = bodyLen + 6
	maxLegacy   = 512

	base64url = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
)

// credential is a token as it is looked up.
type credential struct {
	hash   [32]byte
	legacy bool // not of our form
}

func (c *credential) key() near.Key { return near.Key(c.hash[:16]) }

// parse hashes a token that may exist. It reads nothing but the token.
func parse(token string) (credential, bool) {
	c, ok := hashed(token)
	return c, ok && c.plausible(token)
}

// plausible tells garbage from tokens by their checksum. What was found under its hash needs no other proof.
func (c *credential) plausible(token string) bool { return c.legacy || wellFormed(token) }

// hashed is parse without the checksum.
func hashed(token string) (credential, bool) {
	if strings.HasPrefix(token, tokenPrefix) {
		if len(token) != tokenLen {
			return credential{}, false
		}
		var b [tokenLen]byte // on the stack, where a conversion would allocate
		copy(b[:], token)
		return credential{hash: sha256.Sum256(b[:])}, true
	}
	if token == "" || len(token) > maxLegacy {
		return credential{}, false
	}
	var b [maxLegacy]byte
	n := copy(b[:], token)
	return credential{hash: sha256.Sum256(b[:n]), legacy: true}, true
}

func wellFormed(token string) bool {
	if len(token) != tokenLen {
		return false
	}
	sum := checksum(token[:bodyLen])
	return string(sum[:]) == token[bodyLen:]
}

// checksum covers every character before it, so the alphabet needs no check of its own.
func checksum(body string) [6]byte {
	// A conversion would allocate, since the bytes of any slice given to crc32 escape. They are only read.
	c := crc32.ChecksumIEEE(unsafe.Slice(unsafe.StringData(body), len(body))) //nolint:gosec // G103: see above
	var out [6]byte
	for i := range out {
		out[i] = base64url[c>>(30-6*i)&63]
	}
	return out
}

// format makes a token of 32 secret bytes.
func format(random [32]byte) string {
	var b [tokenLen]byte
	copy(b[:], tokenPrefix)
	base64.RawURLEncoding.Encode(b[len(tokenPrefix):bodyLen], random[:])
	sum := checksum(string(b[:bodyLen]))
	copy(b[bodyLen:], sum[:])
	return string(b[:])
}

func newToken() string {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand ends the program instead
	return format(random)
}

// successors are the tokens that token may be replaced by, under every key of the keyset, the primary's first.
// Who holds the token alone cannot compute them; any instance can, again and again.
func successors(keys *secret.Keyset, session uuid.UUID, generation int32, token string) ([]string, error) {
	gen := binary.BigEndian.AppendUint32(nil, uint32(generation)) //nolint:gosec // the bits are what counts
	macs, err := keys.MACs("session.successor", session[:], gen, []byte(token))
	if err != nil {
		return nil, err
	}
	out := make([]string, len(macs))
	for i, mac := range macs {
		out[i] = format(mac)
	}
	return out, nil
}
