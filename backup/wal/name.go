package wal

import (
	"fmt"
	"strings"
)

// Kind is what a file of the write-ahead log is.
type Kind uint8

// The files that PostgreSQL archives.
const (
	Segment        Kind = iota + 1 // 000000010000000000000001
	Partial                        // 000000010000000000000001.partial: what a timeline had of its last segment
	BackupMark                     // 000000010000000000000001.00000028.backup: notes about a base backup
	HistoryOfATime                 // 00000002.history: where a timeline comes from
)

// Name is the name of a file of the write-ahead log, taken apart.
type Name struct {
	Kind     Kind
	Timeline TimelineID
	log, seg uint32 // as in the name; what they mean depends on the size of a segment
	offset   uint32 // of a BackupMark
}

// ParseName reads a name in exactly the form PostgreSQL gives.
func ParseName(text string) (Name, error) {
	stem, rest, dotted := strings.Cut(text, ".")
	var n Name
	switch {
	case !dotted:
		n.Kind = Segment
	case rest == "partial":
		n.Kind = Partial
	case rest == "history":
		n.Kind = HistoryOfATime
	case len(rest) == len("00000028.backup") && strings.HasSuffix(rest, ".backup"):
		n.Kind = BackupMark
	default:
		return Name{}, badName(text)
	}
	fields := []*uint32{(*uint32)(&n.Timeline), &n.log, &n.seg}
	if n.Kind == HistoryOfATime {
		fields = fields[:1]
	}
	if n.Kind == BackupMark {
		stem += rest[:8]
		fields = append(fields, &n.offset)
	}
	if len(stem) != 8*len(fields) {
		return Name{}, badName(text)
	}
	for i, f := range fields {
		v, err := hex32(stem[8*i : 8*i+8])
		if err != nil {
			return Name{}, badName(text)
		}
		*f = v
	}
	if n.Timeline == 0 || n.String() != text {
		return Name{}, badName(text)
	}
	return n, nil
}

func badName(text string) error {
	return ErrName.WithCause(fmt.Errorf("%.60q; it looks like 000000010000000000000001", text))
}

// String returns the name.
func (n Name) String() string {
	stem := fmt.Sprintf("%08X%08X%08X", uint32(n.Timeline), n.log, n.seg)
	switch n.Kind {
	case Segment:
		return stem
	case Partial:
		return stem + ".partial"
	case BackupMark:
		return fmt.Sprintf("%s.%08X.backup", stem, n.offset)
	case HistoryOfATime:
		return HistoryName(n.Timeline)
	}
	return ""
}

// Start returns the first position of the segment. It fails for a name that segments of this size do not have.
func (n Name) Start(size uint32) (LSN, error) {
	if !ValidSegmentSize(size) {
		return 0, ErrName.WithCause(fmt.Errorf("no segment has %d bytes", size))
	}
	if n.Kind == HistoryOfATime || uint64(n.seg) >= (1<<32)/uint64(size) {
		return 0, ErrName.WithCause(fmt.Errorf("%v names no segment of %d bytes", n, size))
	}
	return LSN(n.log)<<32 + LSN(n.seg)*LSN(size), nil
}

// SegmentName returns the name of the segment of size bytes that holds the byte at lsn.
func SegmentName(tli TimelineID, lsn LSN, size uint32) string {
	number, perLog := lsn.Segment(size), (1<<32)/uint64(size)
	return fmt.Sprintf("%08X%08X%08X", uint32(tli), number/perLog, number%perLog)
}

// HistoryName returns the name of a timeline's history.
func HistoryName(tli TimelineID) string { return tli.String() + ".history" }
