package pgdata

import (
	"encoding/binary"

	"rootstream/backup/wal"
)

// The header of a page: pd_lsn, pd_checksum, pd_flags, pd_lower, pd_upper.
const (
	atChecksum, atUpper = 8, 14
)

// Verdict is what a page's checksum says.
type Verdict uint8

// What CheckPage finds.
const (
	Sound Verdict = iota
	Blank         // all zeros: a page that was added and not yet written
	Torn          // its checksum is wrong: damaged, or read while it was being written
)

// CheckPage checks a block of a relation's file. number counts from the beginning of the relation, not of the file.
// The block's size must be one that PostgreSQL can have.
func CheckPage(page []byte, number uint32) Verdict {
	if binary.LittleEndian.Uint16(page[atUpper:]) == 0 { // a page that was never initialised has no checksum
		if IsZero(page) {
			return Blank
		}
		return Torn
	}
	if PageChecksum(page, number) != binary.LittleEndian.Uint16(page[atChecksum:]) {
		return Torn
	}
	return Sound
}

// PageLSN is where in the log a page was changed last: two halves of 32 bits, the upper first.
func PageLSN(page []byte) wal.LSN {
	le := binary.LittleEndian
	return wal.LSN(uint64(le.Uint32(page))<<32 | uint64(le.Uint32(page[4:])))
}

// IsZero reports whether b is all zeros. Most data shows in its first bytes that it is not.
func IsZero(b []byte) bool {
	for len(b) >= 32 {
		le := binary.LittleEndian
		if le.Uint64(b)|le.Uint64(b[8:])|le.Uint64(b[16:])|le.Uint64(b[24:]) != 0 {
			return false
		}
		b = b[32:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

const (
	prime    = 16777619
	parallel = 32 // sums that a page's words are dealt out to
	row      = parallel * 4
)

// PageChecksum returns the checksum of a block as PostgreSQL computes it (storage/checksum_impl.h): 32 interleaved
// FNV-1a sums, so that it can be computed in parallel. Eight at a time stay in registers, which makes
// four passes over a page in the first cache level faster than one.
func PageChecksum(page []byte, number uint32) uint16 {
	page = page[:len(page)&^(row-1)]
	var folded uint32
	for column := 0; column < parallel; column += 8 {
		folded ^= sums(page, column)
	}
	folded ^= number
	return uint16(folded%65535 + 1)
}

// sums is half a millisecond a page where the race detector looks at each of its bytes, and a microsecond where it does
// not; it does look at who fills the page and who stores it.
//
//go:norace
func sums(page []byte, column int) uint32 {
	o, le := offsets(column), binary.LittleEndian
	s0, s1, s2, s3, s4, s5, s6, s7 := o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7]
	for at := column * 4; at+32 <= len(page); at += row {
		w := page[at : at+32 : at+32]
		third := le.Uint32(w[8:])
		if at == 0 {
			third &= 0xFFFF0000 // the checksum itself counts as zero
		}
		s0, s1, s2, s3 = mix(s0, le.Uint32(w)), mix(s1, le.Uint32(w[4:])), mix(s2, third), mix(s3, le.Uint32(w[12:]))
		s4, s5, s6, s7 = mix(s4, le.Uint32(w[16:])), mix(s5, le.Uint32(w[20:])), mix(s6, le.Uint32(w[24:])), mix(s7, le.Uint32(w[28:]))
	}
	return finish(s0) ^ finish(s1) ^ finish(s2) ^ finish(s3) ^ finish(s4) ^ finish(s5) ^ finish(s6) ^ finish(s7)
}

func mix(sum, value uint32) uint32 {
	sum ^= value
	return sum*prime ^ sum>>17
}

// finish mixes in two rounds of zeros.
func finish(sum uint32) uint32 { return mix(mix(sum, 0), 0) }

// offsets returns eight of the values that the sums start from (checksumBaseOffsets).
func offsets(column int) [8]uint32 {
	switch column {
	case 0:
		return [8]uint32{0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C}
	case 8:
		return [8]uint32{0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB}
	case 16:
		return [8]uint32{0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4}
	default:
		return [8]uint32{0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756}
	}
}
