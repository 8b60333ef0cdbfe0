// Package codec is the one form in which states leave memory: snapshots of
// aggregates, full states and deltas.
//
// A form is "RSS1", the kind, the SHA-256 of the content and the content,
// compressed with Zstandard (RFC 8878). It starts no goroutine. The door is
// [Codec].
package codec

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"rootstream/errs"
)

// Kinds of contents.
const (
	Aggregate byte = 'a' // the state of one entity
	Full      byte = 'f' // the states of all entities
	Delta     byte = 'd' // what changed between two full states
)

// Version is the number of the form, for tables that keep more than one.
const Version = 1

const (
	magic  = "RSS1"
	header = len(magic) + 1 + sha256.Size
)

// Errors of decoding.
var (
	ErrFormat   = errs.New(errs.Invalid, "snapshot_format", "this is not a snapshot, or it is cut off")
	ErrKind     = errs.New(errs.Invalid, "snapshot_kind", "the snapshot is of another kind")
	ErrTooLarge = errs.New(errs.Invalid, "snapshot_too_large", "the snapshot is larger than allowed")
	ErrHash     = errs.New(errs.Invalid, "snapshot_hash", "the snapshot does not hold what it held")
)

// Codec encodes and decodes. It is safe for concurrent use.
type Codec struct {
	max int
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// New returns a codec for contents of at most maxContent bytes.
func New(maxContent int) (*Codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("prepare to compress: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(uint64(max(maxContent, zstd.MinWindowSize))))
	if err != nil {
		return nil, fmt.Errorf("prepare to decompress: %w", err)
	}
	return &Codec{max: maxContent, enc: enc, dec: dec}, nil
}

// Sum is the hash that a form carries of its content.
func Sum(content []byte) []byte {
	sum := sha256.Sum256(content)
	return sum[:]
}

// Encode returns content's form.
func (c *Codec) Encode(kind byte, content []byte) []byte {
	form := make([]byte, 0, header+len(content)/2)
	form = append(form, magic...)
	form = append(form, kind)
	form = append(form, Sum(content)...)
	return c.enc.EncodeAll(content, form)
}

// Decode returns the content of a form of that kind.
func (c *Codec) Decode(kind byte, form []byte) ([]byte, error) {
	if len(form) < header || string(form[:len(magic)]) != magic {
		return nil, ErrFormat
	}
	if form[len(magic)] != kind {
		return nil, ErrKind
	}
	content, err := c.dec.DecodeAll(form[header:], nil)
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) || len(content) > c.max {
		return nil, ErrTooLarge.WithCause(err)
	}
	if err != nil {
		return nil, ErrFormat.WithCause(err)
	}
	if string(Sum(content)) != string(form[len(magic)+1:header]) {
		return nil, ErrHash
	}
	return content, nil
}
