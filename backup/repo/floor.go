package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"rootstream/backup/repo/logs"
	"rootstream/backup/wal"
)

// floors says where the logs begin that these backups need. The log of a cluster without a backup of its files, or
// with segments of several sizes, has no floor: all of it is kept.
func (r *Repo) floors(ctx context.Context, found []*surveyed) ([]logs.Floor, error) {
	backups, sizes := map[uint64][]wal.Range{}, map[uint64][]uint32{}
	for _, s := range found {
		if system := s.Cluster.SystemID; s.Err == nil && s.Type != Logical {
			backups[system] = append(backups[system], wal.Range{Timeline: s.StopTimeline, From: s.StartLSN, To: s.StopLSN})
			sizes[system] = append(sizes[system], s.Cluster.SegmentSize)
		}
	}
	var all []logs.Floor
	for _, system := range slices.Sorted(maps.Keys(backups)) {
		if size := sizes[system][0]; slices.ContainsFunc(sizes[system], func(o uint32) bool { return o != size }) || !wal.ValidSegmentSize(size) {
			continue
		}
		histories, err := r.histories(ctx, system)
		if err != nil {
			return nil, err
		}
		for tli, at := range logs.Floors(backups[system], histories) {
			all = append(all, logs.Floor{System: system, Timeline: tli, At: at, SegmentSize: sizes[system][0]})
		}
	}
	return all, nil
}

// histories reads where the timelines of a cluster come from; nil where that is not stored.
func (r *Repo) histories(ctx context.Context, system uint64) (map[wal.TimelineID]wal.History, error) {
	timelines, err := r.Timelines(ctx, system)
	if err != nil {
		return nil, err
	}
	all := map[wal.TimelineID]wal.History{}
	for _, tli := range timelines {
		if tli == 1 {
			all[tli] = wal.NewHistory(tli)
			continue
		}
		text, err := r.GetWAL(ctx, system, wal.HistoryName(tli))
		if errors.Is(err, ErrWALAbsent) {
			all[tli] = nil
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the history of timeline %d: %w", uint32(tli), err)
		}
		if all[tli], err = wal.ParseHistory(tli, text); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// raised adds floors to those that there are; a floor never sinks. It reports whether one rose.
func raised(floors, by []logs.Floor) ([]logs.Floor, bool) {
	all, rose := slices.Clone(floors), false
	for _, f := range by {
		i := slices.IndexFunc(all, f.Same)
		switch {
		case i < 0:
			all, rose = append(all, f), true
		case all[i].At < f.At:
			all[i], rose = f, true
		}
	}
	return all, rose
}

// needsBelow refuses a backup that recovery would begin below a floor.
func needsBelow(floors []logs.Floor, m *Manifest) error {
	if m.Type == Logical {
		return nil
	}
	for _, f := range floors {
		if f.System == m.Cluster.SystemID && f.Timeline == m.StartTimeline && m.StartLSN < f.At {
			return ErrLogGone.WithCause(fmt.Errorf("it would begin at %v on timeline %d, log before %v is deleted", m.StartLSN, uint32(f.Timeline), f.At)).
				WithHint("take it again: of a standby once it has replayed a later checkpoint (CHECKPOINT on its primary makes one)")
		}
	}
	return nil
}
