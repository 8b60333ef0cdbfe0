package pgdata

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"rootstream/backup/wal"
)

// ControlPath is where the control file is in a data folder.
const ControlPath = "global/pg_control"

// State is what the server last did, as pg_control says it (DBState).
type State uint32

// The states of a cluster.
const (
	Starting State = iota
	ShutDown
	ShutDownInRecovery
	ShuttingDown
	InCrashRecovery
	InArchiveRecovery
	InProduction
)

// Control is what pg_control says about a cluster.
type Control struct {
	SystemID   uint64
	Version    uint32 // of the file's format
	Catalog    uint32
	State      State
	Written    time.Time
	Checkpoint wal.LSN
	Redo       wal.LSN // where recovery from that checkpoint begins
	Timeline   wal.TimelineID

	MinRecovery         wal.LSN // on a standby: what must be replayed before the files agree with each other
	MinRecoveryTimeline wal.TimelineID
	BackupStart         wal.LSN // recovery from a backup has not passed its end
	BackupEnd           wal.LSN
	BackupEndRequired   bool

	WALLevel         int32
	WALLogHints      bool
	MaxConnections   int32
	MaxWorkers       int32
	MaxWALSenders    int32
	MaxPrepared      int32
	MaxLocks         int32
	TrackCommitTime  bool
	BlockSize        uint32
	BlocksPerSegment uint32 // of a relation's file
	WALBlockSize     uint32
	WALSegmentSize   uint32
	PageChecksums    bool
}

// Where the fields are (struct ControlFileData). PostgreSQL 18 put one byte before the nonce that precedes the CRC.
const (
	atSystem, atVersion, atCatalog, atState, atWritten, atCheckpoint = 0, 8, 12, 16, 24, 32
	atRedo, atTimeline                                               = 40, 48
	atMinRecovery, atMinTimeline, atBackupStart, atBackupEnd         = 136, 144, 152, 160
	atEndRequired, atWALLevel, atWALLogHints, atSettings, atTrack    = 168, 172, 176, 180, 200
	atBlockSize, atSegmentBlocks, atWALBlock, atWALSegment           = 216, 220, 224, 228
	atChecksums, atCRC, atCRC18                                      = 252, 288, 292

	version14, version17, version18 = 1300, 1700, 1800
	controlSize                     = 8192
)

// crcAt returns where the CRC of a pg_control in this format is.
func crcAt(version uint32) (int, bool) {
	switch version {
	case version14, version17:
		return atCRC, true
	case version18:
		return atCRC18, true
	}
	return 0, false
}

// ParseControl reads a pg_control and checks its CRC.
func ParseControl(raw []byte) (Control, error) {
	le := binary.LittleEndian
	if len(raw) < atCRC18+4 || len(raw) > controlSize {
		return Control{}, ErrControl.WithCause(fmt.Errorf("it has %d bytes", len(raw)))
	}
	crc, known := crcAt(le.Uint32(raw[atVersion:]))
	if !known {
		return Control{}, ErrControl.WithCause(fmt.Errorf("its format %d is not one of PostgreSQL 14 to 18", le.Uint32(raw[atVersion:])))
	}
	if crcOf(raw[:crc]) != le.Uint32(raw[crc:]) {
		return Control{}, ErrControl.WithCause(fmt.Errorf("its CRC is wrong"))
	}
	i32 := func(at int) int32 { return int32(le.Uint32(raw[at:])) } //nolint:gosec // the same bits
	c := Control{
		SystemID: le.Uint64(raw[atSystem:]), Version: le.Uint32(raw[atVersion:]), Catalog: le.Uint32(raw[atCatalog:]),
		State: State(le.Uint32(raw[atState:])), Written: time.Unix(int64(le.Uint64(raw[atWritten:])), 0).UTC(), //nolint:gosec // pg_time_t
		Checkpoint: wal.LSN(le.Uint64(raw[atCheckpoint:])), Redo: wal.LSN(le.Uint64(raw[atRedo:])),
		Timeline:            wal.TimelineID(le.Uint32(raw[atTimeline:])),
		MinRecovery:         wal.LSN(le.Uint64(raw[atMinRecovery:])),
		MinRecoveryTimeline: wal.TimelineID(le.Uint32(raw[atMinTimeline:])),
		BackupStart:         wal.LSN(le.Uint64(raw[atBackupStart:])), BackupEnd: wal.LSN(le.Uint64(raw[atBackupEnd:])),
		BackupEndRequired: raw[atEndRequired] != 0, WALLevel: i32(atWALLevel), WALLogHints: raw[atWALLogHints] != 0,
		MaxConnections: i32(atSettings), MaxWorkers: i32(atSettings + 4), MaxWALSenders: i32(atSettings + 8),
		MaxPrepared: i32(atSettings + 12), MaxLocks: i32(atSettings + 16), TrackCommitTime: raw[atTrack] != 0,
		BlockSize: le.Uint32(raw[atBlockSize:]), BlocksPerSegment: le.Uint32(raw[atSegmentBlocks:]),
		WALBlockSize: le.Uint32(raw[atWALBlock:]), WALSegmentSize: le.Uint32(raw[atWALSegment:]),
		PageChecksums: le.Uint32(raw[atChecksums:]) != 0,
	}
	return c, c.check()
}

// check refuses what no PostgreSQL writes, so that nothing below divides by zero or asks for too much.
func (c Control) check() error {
	blocks := []uint32{1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10}
	switch {
	case !slices.Contains(blocks, c.BlockSize):
		return ErrControl.WithCause(fmt.Errorf("it says a block has %d bytes", c.BlockSize))
	case c.BlocksPerSegment == 0:
		return ErrControl.WithCause(fmt.Errorf("it says a segment of a relation has no blocks"))
	case !wal.ValidSegmentSize(c.WALSegmentSize):
		return ErrControl.WithCause(fmt.Errorf("it says a WAL segment has %d bytes", c.WALSegmentSize))
	}
	return nil
}

func crcOf(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// WithoutCheckpoint returns a copy of a pg_control from which no server starts unless a backup label says where its
// recovery begins: who deletes the label does not get a cluster that looks sound and is not.
func WithoutCheckpoint(raw []byte) ([]byte, error) {
	if _, err := ParseControl(raw); err != nil {
		return nil, err
	}
	const nowhere = 0xDEAD
	out, le := slices.Clone(raw), binary.LittleEndian
	le.PutUint64(out[atCheckpoint:], nowhere)
	crc, _ := crcAt(le.Uint32(out[atVersion:]))
	le.PutUint32(out[crc:], crcOf(out[:crc]))
	return out, nil
}

// ReadControl reads the control file of a data folder. A server may be writing it, so a wrong CRC is looked at again.
func ReadControl(dir string) (Control, []byte, error) {
	var last []byte
	for {
		raw, err := readControl(dir)
		if err != nil {
			return Control{}, nil, ErrFolder.WithCause(err)
		}
		c, err := ParseControl(raw)
		if err == nil || slices.Equal(raw, last) {
			return c, raw, err
		}
		last = raw
	}
}

func readControl(dir string) ([]byte, error) {
	f, err := os.Open(filepath.Join(dir, ControlPath)) //nolint:gosec // the operator's data folder
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, controlSize+1))
}
