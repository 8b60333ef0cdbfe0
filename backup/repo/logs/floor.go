package logs

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"

	"rootstream/backup/repo/seal"
	"rootstream/backup/wal"
)

// Floor is where a timeline's log begins to count. What lies below goes: no backup needs it, and none may come to.
type Floor struct {
	System      uint64         `json:"system,string"`
	Timeline    wal.TimelineID `json:"timeline"`
	At          wal.LSN        `json:"at"`
	SegmentSize uint32         `json:"segment_size"`
}

// Same reports whether two floors are of one timeline of one cluster.
func (f Floor) Same(o Floor) bool { return f.System == o.System && f.Timeline == o.Timeline }

// Floors says from where on each timeline's log is needed to restore each of a cluster's backups, of which each is the
// range that recovery goes through at least, to any later time, on every timeline that can be reached from it; wal.Open
// where none is. Timelines newer than all backups are needed whole: a backup may be on its way there. One whose history
// is nil, since nobody has stored it yet, may descend from any that is older. Without a backup there are no floors:
// everything is kept.
func Floors(backups []wal.Range, histories map[wal.TimelineID]wal.History) map[wal.TimelineID]wal.LSN {
	newest := wal.TimelineID(0)
	for _, b := range backups {
		newest = max(newest, b.Timeline)
	}
	floors := map[wal.TimelineID]wal.LSN{}
	if newest == 0 {
		return floors
	}
	for _, tli := range slices.Sorted(maps.Keys(histories)) {
		floor := wal.Open
		if tli > newest {
			floor = 0
		}
		for _, b := range backups {
			if histories[tli].Contains(b.Timeline, b.To) || histories[tli] == nil && b.Timeline <= tli {
				floor = min(floor, b.From)
			}
		}
		floors[tli] = floor
	}
	return floors
}

// Below returns the files and pieces of a log that end below the floor, and where the last of them ends. Histories are
// not among them.
func (s *Store) Below(ctx context.Context, f Floor) (below []WALInfo, end wal.LSN, err error) {
	if !wal.ValidSegmentSize(f.SegmentSize) {
		return nil, 0, seal.ErrInvalid.WithCause(fmt.Errorf("segments of %d bytes", f.SegmentSize))
	}
	for _, all := range []iter.Seq2[WALInfo, error]{s.ListWAL(ctx, f.System, f.Timeline), s.listPieces(ctx, f.System, f.Timeline)} {
		for info, err := range all {
			if err != nil {
				return nil, 0, err
			}
			start, known := f.start(info.Name)
			if !known {
				continue
			}
			if f.At < wal.LSN(f.SegmentSize) || start > f.At-wal.LSN(f.SegmentSize) {
				break // they come in the order of their positions
			}
			below, end = append(below, info), max(end, start+wal.LSN(f.SegmentSize))
		}
	}
	return below, end, nil
}

// start is where a file of the timeline begins. What has no position goes with no log.
func (f Floor) start(name string) (wal.LSN, bool) {
	n, err := wal.ParseName(name)
	if err != nil || n.Timeline != f.Timeline {
		return 0, false
	}
	start, err := n.Start(f.SegmentSize)
	return start, err == nil
}

// listPieces goes through a timeline's pieces in the order of their segments, under the names of those.
func (s *Store) listPieces(ctx context.Context, system uint64, tli wal.TimelineID) iter.Seq2[WALInfo, error] {
	return func(yield func(WALInfo, error) bool) {
		prefix := piecesPrefix(system, tli)
		for o, err := range s.st.List(ctx, prefix) {
			info := WALInfo{Stored: o.Size, Modified: o.Modified, Object: o.Name}
			if err == nil {
				info.Name = o.Name[len(prefix):min(len(prefix)+24, len(o.Name))]
			}
			if !yield(info, err) || err != nil {
				return
			}
		}
	}
}
