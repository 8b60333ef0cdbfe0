// Package codec makes data smaller before it is sealed, and undoes it: zstd, s2,
// or nothing where nothing helps. What it is told is checked by the length that
// the caller knows; whether it is what was written is the seal's to say.
package codec

import (
	"fmt"
	"slices"

	"github.com/klauspost/compress"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// Codec says what was done to a blob before it was sealed.
type Codec uint8

// The codecs.
const (
	None Codec = iota // nothing: it would not have become smaller
	Zstd              // RFC 8878
	S2                // an extension of Snappy: faster, larger
)

// Known reports whether it is a codec.
func (c Codec) Known() bool { return c <= S2 || c == Zstd|Stepped || c == S2|Stepped }

// String returns the codec's name.
func (c Codec) String() string {
	switch c {
	case None:
		return "none"
	case Zstd:
		return "zstd"
	case S2:
		return "s2"
	case Zstd | Stepped, S2 | Stepped:
		return (c &^ Stepped).String() + " of steps"
	}
	return fmt.Sprintf("codec %d", uint8(c))
}

// Compression says how to compress.
type Compression struct {
	Name  string `json:"name"`  // "zstd", "s2" or "none"; "" means zstd
	Level int    `json:"level"` // zstd: as of its command, 0 means 1; s2: 1 (fast, also 0) or 2
}

// Window is how much data is compressed at once at best: what is farther apart is not compared.
const Window = 1 << 20

const maxPlain = 1 << 30 // bytes: a segment of the log

// Compressor compresses; one per goroutine.
type Compressor struct {
	codec  Codec
	better bool
	zstd   *zstd.Encoder
	steps  []byte // of what is compressed
}

// NewCompressor returns one that compresses so.
func NewCompressor(c Compression) (*Compressor, error) {
	switch c.Name {
	case "none":
		return &Compressor{codec: None}, nil
	case "s2":
		return &Compressor{codec: S2, better: c.Level > 1}, nil
	case "zstd", "":
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
			zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(max(1, c.Level))), zstd.WithWindowSize(Window))
		return &Compressor{codec: Zstd, zstd: enc}, err
	}
	return nil, fmt.Errorf("compression %q: it is zstd, s2 or none", c.Name)
}

const (
	sample      = 4 << 10 // bytes that are looked at to guess whether the rest will become smaller
	hopeless    = 0.02    // an estimate below this is of data that is compressed or encrypted already
	worthAGuess = 32 << 10
)

// Append appends data to dst in its compressed form, or as it is. dst has room for it as it is.
func (c *Compressor) Append(dst, data []byte) ([]byte, Codec) {
	if c.codec != None && promising(data) {
		codec, in := c.codec, data
		if stepwise(data) {
			c.steps = steps(c.steps[:0], data)
			codec, in = codec|Stepped, c.steps
		}
		room := dst[len(dst) : len(dst)+len(data)]
		var out []byte
		if c.codec == Zstd {
			out = c.zstd.EncodeAll(in, dst[len(dst):len(dst):cap(dst)])
		} else {
			out = c.s2(dst[len(dst):cap(dst)], in)
		}
		if len(out) < len(room) && &out[0] == &room[0] {
			return dst[:len(dst)+len(out)], codec
		}
	}
	return append(dst, data...), None
}

// worthMore is how much smaller the fast way has to make data to be left at it: tables become a tenth, indexes half,
// of which the better way saves a quarter.
const worthMore = 4

// Room is what a buffer needs beside n bytes so that Append, which has room for them all, never moves it.
func Room(n int) int { return s2.MaxEncodedLen(n) - n + n/8 }

// s2 needs room for the worst case: see Room.
func (c *Compressor) s2(room, data []byte) []byte {
	if !c.better {
		if out := s2.Encode(room, data); len(out) < len(data)/worthMore {
			return out
		}
	}
	return s2.EncodeBetter(room, data)
}

func promising(data []byte) bool {
	if len(data) < worthAGuess {
		return true
	}
	for i := range 3 {
		at := (len(data) - sample) / 2 * i
		if compress.Estimate(data[at:at+sample]) > hopeless {
			return true
		}
	}
	return false
}

// Decompressor undoes it; safe for concurrent use.
type Decompressor struct{ zstd *zstd.Decoder }

// NewDecompressor returns one.
func NewDecompressor() (*Decompressor, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxPlain))
	return &Decompressor{dec}, err
}

// Decode appends raw bytes of plain data to into.
func (d *Decompressor) Decode(codec Codec, data []byte, raw int, into []byte) ([]byte, error) {
	start := len(into)
	var err error
	if !codec.Known() {
		return into, fmt.Errorf("it has %v, which is unknown", codec)
	}
	switch codec &^ Stepped {
	case None:
		into = append(into, data...)
	case Zstd:
		into, err = d.zstd.DecodeAll(data, into)
	case S2:
		var n int
		if n, err = s2.DecodedLen(data); err == nil && n == raw {
			into = slices.Grow(into, raw)[:start+raw] // every byte of it is written
			_, err = s2.Decode(into[start:], data)
		}
	}
	if err == nil && len(into)-start != raw {
		err = fmt.Errorf("it has %d bytes instead of %d", len(into)-start, raw)
	}
	if err == nil && codec&Stepped != 0 {
		walk(into[start:])
	}
	return into, err
}
