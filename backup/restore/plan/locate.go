package plan

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"rootstream/backup/archive/ledger"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
	"rootstream/backup/wal/record"
)

// source returns what record.Scan reads: the log on the way to a timeline.
func source(ctx context.Context, r *repo.Repo, system uint64, path wal.History, size uint32) func(wal.LSN) ([]byte, error) {
	return func(start wal.LSN) ([]byte, error) {
		for _, name := range path.Candidates(start, size) {
			data, err := r.GetWAL(ctx, system, name)
			if errors.Is(err, repo.ErrWALAbsent) {
				data, err = r.Pieces(ctx, system, name)
			}
			if err != nil || len(data) > 0 {
				return data, err
			}
		}
		return nil, record.ErrEnd
	}
}

// locate looks in the log for the transaction or the restore point that a target names, the newest part of it first.
func locate(ctx context.Context, r *repo.Repo, t Target, backups []Backup, l ledger.Ledger) (Target, error) {
	if t.Kind != AtXID && t.Kind != AtName {
		return t, nil
	}
	backups = slices.DeleteFunc(sorted(backups), func(b Backup) bool { return t.Backup != "" && b.ID != t.Backup })
	if len(backups) == 0 {
		return t, nil
	}
	path, err := follow(l, t, backups[len(backups)-1])
	if err != nil {
		return t, err
	}
	s := search{target: t, size: l.SegmentSize, segment: source(ctx, r, l.SystemID, path, l.SegmentSize), limit: wal.Open}
	for _, b := range slices.Backward(backups) {
		if !path.Contains(b.Timeline, b.Stop) {
			continue
		}
		if t.found, err = s.after(b); err != nil || t.found != 0 {
			return t, err
		}
	}
	if t.Kind == AtXID && s.nameless { // it may be one of those that were prepared
		return t, nil
	}
	return t, ErrOutside.WithCause(fmt.Errorf("the log at hand, on timeline %d after the oldest backup, has no %v", path.Timeline(), t))
}

// search goes through the log from its end towards its beginning, from backup to backup.
type search struct {
	target   Target
	size     uint32
	segment  func(wal.LSN) ([]byte, error)
	limit    wal.LSN // what is behind has been looked through
	nameless bool    // a transaction ended that was prepared: its record does not begin with its number
}

// after returns where what is looked for ends, if it does behind the end of a backup; else 0.
func (s *search) after(b Backup) (wal.LSN, error) {
	for rec, err := range record.Scan(b.Start, s.size, s.segment) {
		if err != nil {
			return 0, fmt.Errorf("look for %v: %w", s.target, err)
		}
		if rec.Start >= s.limit {
			break
		}
		s.nameless = s.nameless || rec.XID == 0 && (rec.Kind == record.Commit || rec.Kind == record.Abort)
		if rec.Start >= b.Stop && s.target.isAt(rec) {
			return rec.Start, nil
		}
	}
	s.limit = b.Stop
	return 0, nil
}

func (t Target) isAt(rec record.Record) bool {
	switch t.Kind {
	case AtXID:
		return (rec.Kind == record.Commit || rec.Kind == record.Abort) && rec.XID == uint32(t.XID) //nolint:gosec // as PostgreSQL compares
	case AtName:
		return rec.Kind == record.RestorePoint && rec.Name == t.Name
	case AtTime, AtLSN, Latest, Immediate:
	}
	return false
}

// Replayed goes through the records that recovery reads from the backup on, up to its target.
func (c Choice) Replayed(ctx context.Context, r *repo.Repo) iter.Seq2[record.Record, error] {
	return func(yield func(record.Record, error) bool) {
		segment := source(ctx, r, c.system, c.History, c.segmentSize)
		for rec, err := range record.Scan(c.Backup.Start, c.segmentSize, segment) {
			if err == nil && c.past(rec) || !yield(rec, err) {
				return
			}
		}
	}
}

// past reports whether recovery ends before the record.
func (c Choice) past(rec record.Record) bool {
	t := c.Target
	switch t.Kind {
	case Immediate:
		return rec.Start >= c.Backup.Stop
	case AtLSN:
		return rec.Start > t.LSN
	case AtTime:
		return rec.Kind == record.Commit && rec.Time.After(t.Time)
	case AtXID, AtName:
		return t.found != 0 && rec.Start > t.found
	case Latest:
	}
	return false
}
