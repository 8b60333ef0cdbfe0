package repo

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"rootstream/backup/wal"
)

// DropWAL removes the files of a cluster's log that lie outside what is to be
// kept. Histories stay, and so does what was stored since a run that is not over
// began: its backup needs it. Segments have size bytes.
func (r *Repo) DropWAL(ctx context.Context, system uint64, size uint32, keep []wal.Range, dry bool) (Report, error) {
	var report Report
	if !wal.ValidSegmentSize(size) {
		return report, ErrInvalid.WithCause(fmt.Errorf("segments of %d bytes", size))
	}
	since, err := r.oldestRun(ctx)
	if err != nil {
		return report, fmt.Errorf("drop WAL: %w", err)
	}
	tlis, err := r.Timelines(ctx, system)
	if err != nil {
		return report, err
	}
	var names []string
	for _, tli := range tlis {
		for info, err := range r.filesOf(ctx, system, tli) {
			if err != nil {
				return report, fmt.Errorf("drop WAL: %w", err)
			}
			if !kept(info.Name, size, keep) && (since.IsZero() || info.Modified.Before(since)) {
				names = append(names, info.object)
				report.Objects++
				report.Bytes += info.Stored
			}
		}
	}
	if dry {
		return report, nil
	}
	return report, r.deleteObjects(ctx, names)
}

// oldestRun is when the oldest run began that is not over; zero if there is none.
func (r *Repo) oldestRun(ctx context.Context) (oldest time.Time, _ error) {
	sessions, err := r.sessions(ctx)
	for _, o := range sessions {
		if !o.over() && o.Lease != maintenance && (oldest.IsZero() || o.Started.Before(oldest)) {
			oldest = o.Started
		}
	}
	return oldest, err
}

// filesOf goes through a timeline's files and pieces.
func (r *Repo) filesOf(ctx context.Context, system uint64, tli wal.TimelineID) iter.Seq2[WALInfo, error] {
	return func(yield func(WALInfo, error) bool) {
		for info, err := range r.ListWAL(ctx, system, tli) {
			if !yield(info, err) || err != nil {
				return
			}
		}
		prefix := piecesPrefix(system, tli)
		for o, err := range r.st.List(ctx, prefix) {
			info := WALInfo{Stored: o.Size, Modified: o.Modified, object: o.Name}
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
