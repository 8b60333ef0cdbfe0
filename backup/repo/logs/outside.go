package logs

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"rootstream/backup/repo/seal"
	"rootstream/backup/wal"
)

// WALOutside returns the files and pieces of a cluster's log that hold nothing of
// what is to be kept, and were stored before since, if that is set. Histories
// are not among them. Segments have size bytes.
func (s *Store) WALOutside(ctx context.Context, system uint64, size uint32, keep []wal.Range, since time.Time) ([]WALInfo, error) {
	if !wal.ValidSegmentSize(size) {
		return nil, seal.ErrInvalid.WithCause(fmt.Errorf("segments of %d bytes", size))
	}
	tlis, err := s.Timelines(ctx, system)
	if err != nil {
		return nil, err
	}
	var outside []WALInfo
	for _, tli := range tlis {
		for info, err := range s.filesOf(ctx, system, tli) {
			if err != nil {
				return nil, err
			}
			if !kept(info.Name, size, keep) && (since.IsZero() || info.Modified.Before(since)) {
				outside = append(outside, info)
			}
		}
	}
	return outside, nil
}

// filesOf goes through a timeline's files and pieces.
func (s *Store) filesOf(ctx context.Context, system uint64, tli wal.TimelineID) iter.Seq2[WALInfo, error] {
	return func(yield func(WALInfo, error) bool) {
		for info, err := range s.ListWAL(ctx, system, tli) {
			if !yield(info, err) || err != nil {
				return
			}
		}
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

// kept reports whether a file holds something of a range. What has no position stays.
func kept(name string, size uint32, keep []wal.Range) bool {
	n, err := wal.ParseName(name)
	if err != nil {
		return true
	}
	start, err := n.Start(size)
	if err != nil {
		return true
	}
	return slices.ContainsFunc(keep, func(k wal.Range) bool {
		return k.Timeline == n.Timeline && start < k.To && k.From < start+wal.LSN(size)
	})
}
