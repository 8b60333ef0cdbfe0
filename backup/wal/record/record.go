// Package record finds in the write-ahead log what a recovery can end at, and
// what it does outside of its data folder: ends of transactions, restore
// points and new tablespaces.
//
// It is pure: [Scan] is handed segments and goes through their records. All
// others are skipped by their length, so it reads about as fast as memory.
// Source: src/include/access/xlogrecord.h, xlog_internal.h and xact.h of
// PostgreSQL 14 to 18.
package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"time"

	"rootstream/backup/wal"
	"rootstream/errs"
)

// ErrDamaged says that the log cannot be read on.
var ErrDamaged = errs.New(errs.Internal, "wal_record_damaged", "a record of the write-ahead log is damaged")

// ErrEnd is what a source of segments answers where the log ends.
var ErrEnd = errors.New("the log ends here")

// Kind is what a record is about.
type Kind uint8

// The records that Scan returns.
const (
	Commit       Kind = iota + 1
	Abort             // a transaction was undone
	RestorePoint      // pg_create_restore_point
	Tablespace        // CREATE TABLESPACE: replaying it makes files at a place of its own
)

// Record is one of the records looked for.
type Record struct {
	Kind  Kind
	Start wal.LSN
	End   wal.LSN // the next record begins here or behind
	XID   uint32  // of the transaction; 0 for one that was prepared
	Time  time.Time
	Name  string // of the restore point; the folder of the tablespace
	OID   uint32 // of the tablespace
}

const (
	recordHeader = 24      // XLogRecord
	maxRecord    = 1 << 30 // XLogRecordMaxSize, with room
	keep         = 1 << 12 // of a record: what is looked for is shorter
	align        = 8

	shortPage, longPage = 24, 40
	firstContinues      = 0x0001 // XLP_FIRST_IS_CONTRECORD
	firstIsOverwritten  = 0x0008 // XLP_FIRST_IS_OVERWRITE_CONTRECORD
	longHeader          = 0x0002

	managerXLOG, managerXact, managerTablespace = 0, 1, 5
	infoMask                                    = 0xF0 // the rest is the server's own use
	xlogSwitch, xlogRestorePoint                = 0x40, 0x70
	xactMask                                    = 0x70
	xactCommit, xactAbort                       = 0x00, 0x20
	xactCommitPrepared, xactAbortPrepared       = 0x30, 0x40

	dataShort, dataLong, origin, toplevel = 255, 254, 253, 252
)

// Scan goes through the log from a position at which a record begins, such as the start of a backup. segment returns
// the content of the segment that begins at a position, or ErrEnd.
func Scan(from wal.LSN, size uint32, segment func(start wal.LSN) ([]byte, error)) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		r := reader{at: from, size: wal.LSN(size), segment: segment}
		for {
			rec, wanted, err := r.next()
			if errors.Is(err, ErrEnd) {
				return
			}
			if err != nil {
				yield(Record{}, err)
				return
			}
			if wanted && !yield(rec, nil) {
				return
			}
		}
	}
}

// reader goes through the bytes of records, without the headers of pages.
type reader struct {
	at      wal.LSN
	size    wal.LSN
	segment func(wal.LSN) ([]byte, error)
	data    []byte // of the segment
	start   wal.LSN
	loaded  bool
	page    wal.LSN // size of a page
	body    [keep]byte
}

// load makes the segment that holds r.at the current one.
func (r *reader) load() error {
	start := r.at &^ (r.size - 1)
	if r.loaded && start == r.start {
		return nil
	}
	data, err := r.segment(start)
	if err != nil {
		return err
	}
	h, err := wal.ParseHeader(data)
	if err != nil {
		return err
	}
	r.data, r.start, r.loaded, r.page = data, start, true, wal.LSN(h.PageSize)
	return nil
}

// offset returns where r.at is in the loaded segment.
func (r *reader) offset() int { return int(r.at & (r.size - 1)) } //nolint:gosec // less than a segment, which is at most 1 GiB

// header returns the flags and the length of what is continued on the page that begins at r.at, and moves behind it.
// A page that was not written ends the log.
func (r *reader) header() (flags uint16, rest uint32, err error) {
	at := r.offset()
	if at+longPage > len(r.data) {
		return 0, 0, ErrEnd
	}
	le, p := binary.LittleEndian, r.data[at:]
	if wal.LSN(le.Uint64(p[8:])) != r.at {
		return 0, 0, ErrEnd
	}
	flags, rest = le.Uint16(p[2:]), le.Uint32(p[16:])
	r.at += shortPage
	if flags&longHeader != 0 {
		r.at += longPage - shortPage
	}
	return flags, rest, nil
}

// errTorn says that a record was begun and never finished: a crash cut it off.
var errTorn = errors.New("the record was given up")

// next reads one record.
func (r *reader) next() (Record, bool, error) {
	for {
		rec, wanted, err := r.one()
		if !errors.Is(err, errTorn) {
			return rec, wanted, err
		}
	}
}

func (r *reader) one() (Record, bool, error) {
	if err := r.align(); err != nil {
		return Record{}, false, err
	}
	start := r.at
	length := uint32(0)
	if at := r.offset(); at+4 <= len(r.data) {
		length = binary.LittleEndian.Uint32(r.data[at:])
	}
	if length == 0 {
		return Record{}, false, ErrEnd
	}
	if length < recordHeader || length > maxRecord {
		return Record{}, false, fmt.Errorf("record at %v: %w", start, ErrDamaged.WithCause(fmt.Errorf("it has %d bytes", length)))
	}
	body, err := r.read(length)
	if err != nil {
		return Record{}, false, err
	}
	rec, wanted := parse(body, length)
	rec.Start, rec.End = start, r.at
	if body[17] == managerXLOG && body[16]&infoMask == xlogSwitch { // the rest of the segment is empty
		r.at = (r.at + r.size - 1) &^ (r.size - 1)
	}
	if wanted && length <= keep && !sound(body) {
		return Record{}, false, fmt.Errorf("record at %v: %w", start, ErrDamaged.WithCause(errors.New("its CRC is wrong")))
	}
	return rec, wanted, nil
}

// align moves to where the next record begins.
func (r *reader) align() error {
	r.at = (r.at + align - 1) &^ (align - 1)
	if err := r.load(); err != nil {
		return err
	}
	if r.at%r.page != 0 {
		return nil
	}
	flags, rest, err := r.header()
	if err != nil {
		return err
	}
	if flags&firstContinues != 0 { // somebody began to read in the middle of a record
		return r.skip(rest)
	}
	return nil
}

func (r *reader) skip(n uint32) error {
	_, err := r.read(n)
	if err != nil {
		return err
	}
	return r.align()
}

// read moves over n bytes of a record and returns the first of them. They are valid until the next call.
func (r *reader) read(n uint32) ([]byte, error) {
	kept := 0
	for n > 0 {
		if err := r.load(); err != nil {
			return nil, err
		}
		if r.at%r.page == 0 {
			here := r.at
			flags, rest, err := r.header()
			if err != nil {
				return nil, err
			}
			if flags&firstContinues == 0 || flags&firstIsOverwritten != 0 || rest != n {
				r.at = here
				return nil, r.giveUp()
			}
		}
		rest := r.data[min(r.offset(), len(r.data)):]
		step := min(n, uint32(r.page-r.at%r.page)) //nolint:gosec // at most a page
		if uint64(len(rest)) < uint64(step) {
			return nil, ErrEnd
		}
		kept += copy(r.body[kept:], rest[:step])
		r.at += wal.LSN(step)
		n -= step
	}
	return r.body[:kept], nil
}

// giveUp goes on with the first record that begins on the page at r.at.
func (r *reader) giveUp() error {
	flags, rest, err := r.header()
	if err != nil {
		return err
	}
	if flags&firstContinues != 0 {
		return fmt.Errorf("page at %v: %w", r.at, ErrDamaged.WithCause(fmt.Errorf("it goes on with another record, %d bytes", rest)))
	}
	return errTorn
}

// parse looks at a record's header and, where it is one of those looked for, at its data.
func parse(body []byte, length uint32) (Record, bool) {
	if len(body) < recordHeader || length > keep {
		return parseCommit(body)
	}
	info, manager := body[16], body[17]
	switch {
	case manager == managerXact:
		return parseCommit(body)
	case manager == managerXLOG && info&infoMask == xlogRestorePoint:
		data := mainData(body)
		const name = 64
		if len(data) < 8+name {
			return Record{}, false
		}
		text, _, _ := bytes.Cut(data[8:8+name], []byte{0})
		return Record{Kind: RestorePoint, Time: timeOf(data), Name: string(text)}, true
	case manager == managerTablespace && info&infoMask == 0:
		data := mainData(body)
		if len(data) < 4 {
			return Record{}, false
		}
		text, _, _ := bytes.Cut(data[4:], []byte{0})
		return Record{Kind: Tablespace, OID: binary.LittleEndian.Uint32(data), Name: string(text)}, true
	}
	return Record{}, false
}

// parseCommit reads the end of a transaction, which may drop so many tables that its record is long.
func parseCommit(body []byte) (Record, bool) {
	if len(body) < recordHeader || body[17] != managerXact {
		return Record{}, false
	}
	rec := Record{XID: binary.LittleEndian.Uint32(body[4:])}
	switch body[16] & xactMask {
	case xactCommit:
		rec.Kind = Commit
	case xactAbort:
		rec.Kind = Abort
	case xactCommitPrepared:
		rec.Kind, rec.XID = Commit, 0
	case xactAbortPrepared:
		rec.Kind, rec.XID = Abort, 0
	default:
		return Record{}, false
	}
	data := mainData(body)
	if len(data) < 8 {
		return Record{}, false
	}
	rec.Time = timeOf(data)
	return rec, true
}

// mainData returns what follows the headers of a record without pages, as far as it was kept.
func mainData(body []byte) []byte {
	for b := body[recordHeader:]; len(b) >= 2; {
		switch b[0] {
		case dataShort:
			return b[2:]
		case dataLong:
			return b[min(5, len(b)):]
		case origin:
			b = b[min(3, len(b)):]
		case toplevel:
			b = b[min(5, len(b)):]
		default:
			return nil // it is about pages
		}
	}
	return nil
}

// timeOf reads a TimestampTz: microseconds since 2000.
func timeOf(data []byte) time.Time {
	epoch := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	return epoch.Add(time.Duration(int64(binary.LittleEndian.Uint64(data))) * time.Microsecond) //nolint:gosec // the same bits
}

// sound checks the CRC of a whole record: of its data, then of its header up to the CRC.
func sound(body []byte) bool {
	table := crc32.MakeTable(crc32.Castagnoli)
	const atCRC = 20
	sum := crc32.Update(crc32.Checksum(body[recordHeader:], table), table, body[:atCRC])
	return sum == binary.LittleEndian.Uint32(body[atCRC:])
}
