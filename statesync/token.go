package statesync

import (
	"encoding/binary"

	"rootstream/event"
	"rootstream/internal/base64url"
)

// Token is a position in the log: an epoch, and a sequence number for some of the shards. To readers it is opaque.
type Token struct {
	epoch int64
	seq   [event.Shards]int64 // 0: nothing is said of the shard
	set   uint16
}

const (
	tokenFormat = 1
	maxToken    = 240
)

func tokenAt(epoch int64, shard int, seq int64) Token {
	t := Token{epoch: epoch}
	t.with(shard, seq)
	return t
}

func tokenOf(epoch int64, v [event.Shards]int64) Token {
	return Token{epoch: epoch, seq: v, set: 1<<event.Shards - 1}
}

func (t *Token) with(shard int, seq int64) {
	t.seq[shard] = seq
	t.set |= 1 << shard
}

// IsZero reports whether the token says nothing.
func (t Token) IsZero() bool { return t.set == 0 }

// String is base64url, at most 240 characters; "" for the zero token.
func (t Token) String() string {
	if t.IsZero() {
		return ""
	}
	b := []byte{tokenFormat}
	b = binary.AppendUvarint(b, uint64(t.epoch)) //nolint:gosec // positive
	b = binary.BigEndian.AppendUint16(b, t.set)
	for i, s := range t.seq {
		if t.set>>i&1 == 1 {
			b = binary.AppendUvarint(b, uint64(s)) //nolint:gosec // not negative
		}
	}
	return base64url.Encode(b)
}

// MarshalText is String.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// ParseToken reads exactly what String writes.
func ParseToken(s string) (Token, error) {
	var t Token
	if s == "" {
		return t, nil
	}
	if len(s) > maxToken {
		return Token{}, ErrToken
	}
	b, err := base64url.Decode(s)
	if err != nil || len(b) < 1 || b[0] != tokenFormat {
		return Token{}, ErrToken
	}
	b = b[1:]
	next := func() int64 {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > 1<<62 {
			b = nil
			return -1
		}
		b = b[n:]
		return int64(v)
	}
	t.epoch = next()
	if len(b) < 2 {
		return Token{}, ErrToken
	}
	t.set, b = binary.BigEndian.Uint16(b), b[2:]
	for i := range t.seq {
		if t.set>>i&1 == 1 {
			t.seq[i] = next()
		}
	}
	if len(b) > 0 || t.String() != s {
		return Token{}, ErrToken
	}
	return t, nil
}
