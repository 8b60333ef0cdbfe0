package wal

import (
	"encoding/binary"
	"fmt"
)

// Header is what the first page of a segment says.
type Header struct {
	Major       int        // of the PostgreSQL that wrote it
	Timeline    TimelineID // of its first page: that of the parent when the timeline began within the segment
	Start       LSN
	SystemID    uint64
	SegmentSize uint32
	PageSize    uint32
}

// The header of a page: xlp_magic, xlp_info, xlp_tli, xlp_pageaddr, xlp_rem_len; the first page of a segment adds
// xlp_sysid, xlp_seg_size, xlp_xlog_blcksz.
const (
	atInfo, atTimeline, atAddress, atSystem, atSegmentSize, atPageSize = 2, 4, 8, 24, 32, 36

	longHeader    = 40
	isLong        = 0x0002 // XLP_LONG_HEADER
	allFlags      = 0x000F // XLP_ALL_FLAGS
	minPage       = 1 << 10
	maxPage       = 64 << 10
	magicOfOldest = 0xD10D
)

// majorOf returns the version whose pages begin with magic (XLOG_PAGE_MAGIC); 0 if none we know does.
func majorOf(magic uint16) int {
	switch magic {
	case magicOfOldest:
		return 14
	case 0xD110:
		return 15
	case 0xD113:
		return 16
	case 0xD116:
		return 17
	case 0xD118:
		return 18
	}
	return 0
}

// ParseHeader reads the first page of a segment; data may be cut off after it.
func ParseHeader(data []byte) (Header, error) {
	if len(data) < longHeader {
		return Header{}, damaged("it has %d bytes", len(data))
	}
	le := binary.LittleEndian
	h := Header{
		Major: majorOf(le.Uint16(data)), Timeline: TimelineID(le.Uint32(data[atTimeline:])), Start: LSN(le.Uint64(data[atAddress:])),
		SystemID: le.Uint64(data[atSystem:]), SegmentSize: le.Uint32(data[atSegmentSize:]), PageSize: le.Uint32(data[atPageSize:]),
	}
	info := le.Uint16(data[atInfo:])
	switch {
	case h.Major == 0:
		return Header{}, damaged("it begins with %#04x, which no PostgreSQL from 14 to 18 writes", le.Uint16(data))
	case info&isLong == 0 || info&^allFlags != 0:
		return Header{}, damaged("its first page has flags %#04x", info)
	case !ValidSegmentSize(h.SegmentSize) || h.PageSize < minPage || h.PageSize > maxPage || h.PageSize&(h.PageSize-1) != 0:
		return Header{}, damaged("it claims segments of %d bytes and pages of %d", h.SegmentSize, h.PageSize)
	case h.Timeline == 0 || h.Start.Offset(h.SegmentSize) != 0:
		return Header{}, damaged("its first page claims to be %v on timeline %d", h.Start, h.Timeline)
	}
	return h, nil
}

// CheckSegment proves that data is the whole segment that PostgreSQL calls name: every page is at its place, or
// empty behind the end of what was written. A systemID of 0 means any.
func CheckSegment(name string, data []byte, systemID uint64) (Header, error) {
	n, err := ParseName(name)
	if err != nil {
		return Header{}, err
	}
	if n.Kind != Segment {
		return Header{}, ErrName.WithCause(fmt.Errorf("%s is not a whole segment", name))
	}
	h, err := ParseHeader(data)
	if err != nil {
		return Header{}, fmt.Errorf("check %s: %w", name, err)
	}
	start, err := n.Start(h.SegmentSize)
	switch {
	case err != nil:
		return Header{}, foreign(name, "its segments have %d bytes", h.SegmentSize)
	case systemID != 0 && h.SystemID != systemID:
		return Header{}, foreign(name, "it is of cluster %d, not %d", h.SystemID, systemID)
	case h.Start != start:
		return Header{}, foreign(name, "it is the segment at %v", h.Start)
	case h.Timeline > n.Timeline: // an older one is that of the parent
		return Header{}, foreign(name, "it is of timeline %d", h.Timeline)
	case uint64(len(data)) != uint64(h.SegmentSize):
		return Header{}, fmt.Errorf("check %s: %w", name, damaged("it has %d bytes of %d", len(data), h.SegmentSize))
	}
	if err := checkPages(h, n.Timeline, data); err != nil {
		return Header{}, fmt.Errorf("check %s: %w", name, err)
	}
	return h, nil
}

// checkPages looks at the header of every page: a torn or recycled one is not where it says.
func checkPages(h Header, last TimelineID, data []byte) error {
	le := binary.LittleEndian
	magic, tli, over := le.Uint16(data), h.Timeline, false
	for at := h.PageSize; at < h.SegmentSize; at += h.PageSize {
		page := data[at:]
		if le.Uint64(page) == 0 && le.Uint64(page[atAddress:]) == 0 {
			over = true // a segment that was ended early is filled up with zeros
			continue
		}
		if over {
			return damaged("the pages before %v were never written", h.Start+LSN(at))
		}
		address, t := LSN(le.Uint64(page[atAddress:])), TimelineID(le.Uint32(page[atTimeline:]))
		if le.Uint16(page) != magic || address != h.Start+LSN(at) || t < tli || t > last {
			return damaged("the page at %v claims to be %v on timeline %d", h.Start+LSN(at), address, t)
		}
		tli = t
	}
	return nil
}

func damaged(format string, args ...any) error {
	return ErrDamaged.WithCause(fmt.Errorf(format, args...))
}

func foreign(name, format string, args ...any) error {
	return fmt.Errorf("check %s: %w", name, ErrForeign.WithCause(fmt.Errorf(format, args...)))
}
