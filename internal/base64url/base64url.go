// Package base64url reads base64url without padding (RFC 4648 §5) in its one form. The standard decoder also takes
// line breaks anywhere, so that one value has many texts.
package base64url

import (
	"encoding/base64"
	"strings"
)

// Encode returns the text of b.
func Encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Decode returns what Encode made text of; any other text is an error.
func Decode(text string) ([]byte, error) {
	if at := strings.IndexAny(text, "\r\n"); at >= 0 {
		return nil, base64.CorruptInputError(at)
	}
	return base64.RawURLEncoding.Strict().DecodeString(text)
}
