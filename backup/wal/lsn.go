// Package wal is the arithmetic of PostgreSQL's write-ahead log: positions
// ([LSN]), the names of its files ([Name]), the first page of a segment
// ([CheckSegment]), and how timelines descend from each other ([History]).
//
// It is pure: no I/O, no state. Segments may have any size that PostgreSQL
// allows (1 MiB to 1 GiB). Source: src/include/access/xlog_internal.h and
// xlogdefs.h of PostgreSQL 14 to 18; pages are read as little-endian machines
// write them.
package wal

import (
	"fmt"
	"iter"
	"strconv"
	"strings"

	"rootstream/errs"
)

// What is wrong with what was read.
var (
	ErrLSN      = errs.New(errs.Malformed, "wal_position", "not a position in the write-ahead log")
	ErrName     = errs.New(errs.Malformed, "wal_name", "not the name of a file of the write-ahead log")
	ErrHistory  = errs.New(errs.Malformed, "wal_history", "not a timeline history")
	ErrDamaged  = errs.New(errs.Invalid, "wal_damaged", "the segment is damaged")
	ErrForeign  = errs.New(errs.Conflict, "wal_foreign", "the segment belongs elsewhere")
	ErrUnlinked = errs.New(errs.Precondition, "wal_timeline", "the timeline does not lead there")
)

// The sizes a segment may have; it is a power of two between them.
const (
	MinSegmentSize     = 1 << 20
	MaxSegmentSize     = 1 << 30
	DefaultSegmentSize = 16 << 20
)

// ValidSegmentSize reports whether PostgreSQL can have segments of size bytes.
func ValidSegmentSize(size uint32) bool {
	return size >= MinSegmentSize && size <= MaxSegmentSize && size&(size-1) == 0
}

// LSN is a position in the write-ahead log, in bytes since its beginning. 0 is none.
type LSN uint64

// ParseLSN reads the form 16/B374D848.
func ParseLSN(text string) (LSN, error) {
	high, low, found := strings.Cut(text, "/")
	h, err := hex32(high)
	l, err2 := hex32(low)
	if !found || err != nil || err2 != nil {
		return 0, ErrLSN.WithCause(fmt.Errorf("%.40q; it looks like 16/B374D848", text))
	}
	return LSN(h)<<32 | LSN(l), nil
}

// hex32 reads at most 8 hexadecimal digits and nothing else.
func hex32(text string) (uint32, error) {
	if len(text) > 8 || strings.ContainsAny(text, "+-_") {
		return 0, strconv.ErrSyntax
	}
	n, err := strconv.ParseUint(text, 16, 32)
	return uint32(n), err
}

// String returns the form that PostgreSQL prints: 16/B374D848.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint64(l)>>32, uint32(l)) } //nolint:gosec // the low half

// MarshalText is String.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText is ParseLSN.
func (l *LSN) UnmarshalText(text []byte) (err error) {
	*l, err = ParseLSN(string(text))
	return err
}

// Segment returns the number of the segment that holds the byte at l.
func (l LSN) Segment(size uint32) uint64 { return uint64(l) / uint64(size) }

// SegmentStart returns the first position of the segment that holds l.
func (l LSN) SegmentStart(size uint32) LSN { return l &^ LSN(size-1) }

// SegmentEnd returns the position at which the segment ends that holds the byte before l: l itself on a boundary.
func (l LSN) SegmentEnd(size uint32) LSN {
	if l == 0 {
		return 0
	}
	return (l - 1).SegmentStart(size) + LSN(size)
}

// Offset returns where in its segment l lies.
func (l LSN) Offset(size uint32) uint32 { return uint32(l & LSN(size-1)) } //nolint:gosec // less than size

// TimelineID names a timeline. 0 is none, 1 the first.
type TimelineID uint32

// String returns the eight digits that begin the names of its files.
func (t TimelineID) String() string { return fmt.Sprintf("%08X", uint32(t)) }

// Range is a piece of one timeline: the bytes from From up to, not including, To.
type Range struct {
	Timeline TimelineID `json:"timeline"`
	From     LSN        `json:"from"`
	To       LSN        `json:"to"`
}

// String says the range for people.
func (r Range) String() string {
	return fmt.Sprintf("%v to %v on timeline %d", r.From, r.To, r.Timeline)
}

// Segments goes through the names of the segments that hold r.
func (r Range) Segments(size uint32) iter.Seq[string] {
	return func(yield func(string) bool) {
		if r.From >= r.To {
			return
		}
		for at := r.From.SegmentStart(size); at < r.To; at += LSN(size) {
			if !yield(SegmentName(r.Timeline, at, size)) || at > at+LSN(size) {
				return
			}
		}
	}
}
