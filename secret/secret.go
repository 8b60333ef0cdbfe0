package secret

import (
	"crypto/subtle"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
)

const redacted = "[redacted]"

// Secret holds bytes that no printer, logger or encoder gets to see; only
// [Secret.Reveal] and [Secret.Bytes] give them out. The zero value is the empty secret.
//
// The bytes sit behind a function, because fmt and reflection look into
// unexported fields of a surrounding struct without asking any method.
type Secret struct {
	reveal func() []byte
}

// FromString makes a Secret of s.
func FromString(s string) Secret { return FromBytes([]byte(s)) }

// FromBytes makes a Secret of a copy of b.
func FromBytes(b []byte) Secret {
	if len(b) == 0 {
		return Secret{}
	}
	own := slices.Clone(b)
	return Secret{reveal: func() []byte { return own }}
}

// Reveal returns the secret text.
func (s Secret) Reveal() string { return string(s.bytes()) }

// Bytes returns a copy of the secret bytes.
func (s Secret) Bytes() []byte { return slices.Clone(s.bytes()) }

func (s Secret) bytes() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return len(s.bytes()) == 0 }

// Equal compares in time that depends on the lengths alone.
func (s Secret) Equal(o Secret) bool { return subtle.ConstantTimeCompare(s.bytes(), o.bytes()) == 1 }

// String returns a placeholder.
func (Secret) String() string { return redacted }

// GoString returns a placeholder.
func (Secret) GoString() string { return redacted }

// Format writes a placeholder, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue returns a placeholder.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON writes a placeholder.
func (Secret) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// MarshalText writes a placeholder.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// UnmarshalText reads the secret; it refuses the placeholder, which is no secret.
func (s *Secret) UnmarshalText(b []byte) error {
	if string(b) == redacted {
		return ErrPrinted
	}
	*s = FromBytes(b)
	return nil
}

// Value refuses to be a parameter of an SQL statement.
func (Secret) Value() (driver.Value, error) { return nil, ErrStored }
