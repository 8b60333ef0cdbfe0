package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"rootstream/backup/repo"
	"rootstream/backup/wal"
	"rootstream/backup/wal/record"
	"rootstream/errs"
)

// Load reads what planning needs of a cluster's backups and log. A system of 0 means the only one in the repository.
func Load(ctx context.Context, r *repo.Repo, system uint64) ([]Backup, Archive, error) {
	catalog, err := r.Catalog(ctx)
	if err != nil {
		return nil, Archive{}, err
	}
	systems := map[uint64]bool{}
	for _, e := range catalog {
		systems[e.Cluster.SystemID] = true
	}
	if system == 0 && len(systems) > 1 {
		return nil, Archive{}, errs.NewInvalid("system", fmt.Sprintf("is required: the repository holds %d clusters", len(systems)))
	}
	for only := range systems {
		if system == 0 {
			system = only
		}
	}
	var backups []Backup
	a := Archive{System: system, SegmentSize: wal.DefaultSegmentSize, Histories: map[wal.TimelineID]wal.History{}}
	for _, e := range catalog {
		if e.Cluster.SystemID != system || e.Err != nil || e.Type == repo.Logical {
			continue
		}
		a.SegmentSize = e.Cluster.SegmentSize
		backups = append(backups, Backup{ID: e.ID, Start: e.StartLSN, Stop: e.StopLSN, Timeline: e.StopTimeline, Completed: e.Completed})
	}
	timelines, err := r.Timelines(ctx, system)
	if err != nil {
		return nil, a, err
	}
	for _, tli := range timelines {
		if err := a.load(ctx, r, system, tli); err != nil {
			return nil, a, err
		}
	}
	return backups, a, nil
}

// load adds a timeline.
func (a *Archive) load(ctx context.Context, r *repo.Repo, system uint64, tli wal.TimelineID) error {
	text, err := r.GetWAL(ctx, system, wal.HistoryName(tli))
	switch {
	case errors.Is(err, repo.ErrWALAbsent):
		a.Histories[tli] = wal.NewHistory(tli)
	case err != nil:
		return err
	default:
		if a.Histories[tli], err = wal.ParseHistory(tli, text); err != nil {
			return fmt.Errorf("read %s: %w", wal.HistoryName(tli), err)
		}
	}
	first := len(a.Pieces)
	for info, err := range r.ListWAL(ctx, system, tli) {
		if err != nil {
			return err
		}
		if start, ok := a.startOf(info.Name); ok {
			a.append(first, Piece{wal.Range{Timeline: tli, From: start, To: start + wal.LSN(a.SegmentSize)}, info.Modified})
		}
	}
	return a.loadOpen(ctx, r, system, tli)
}

// loadOpen adds what there is of the segment that is still being written.
func (a *Archive) loadOpen(ctx context.Context, r *repo.Repo, system uint64, tli wal.TimelineID) error {
	open, err := r.OpenSegments(ctx, system, tli)
	if err != nil || len(open) == 0 {
		return err
	}
	now, err := r.Now(ctx)
	if err != nil {
		return err
	}
	for _, name := range open {
		start, ok := a.startOf(name)
		if !ok {
			continue
		}
		data, err := r.Pieces(ctx, system, name)
		if err != nil {
			return err
		}
		piece := Piece{wal.Range{Timeline: tli, From: start, To: start + wal.LSN(len(data))}, now}
		if len(data) == 0 || slices.ContainsFunc(a.Pieces, func(p Piece) bool { return p.Timeline == tli && p.From <= start && start < p.To }) {
			continue
		}
		a.append(0, piece)
	}
	return nil
}

// append adds a piece, to the one before it where they are of one timeline and meet.
func (a *Archive) append(first int, p Piece) {
	if n := len(a.Pieces); n > first && a.Pieces[n-1].Timeline == p.Timeline && a.Pieces[n-1].To == p.From {
		a.Pieces[n-1].To, a.Pieces[n-1].Until = p.To, p.Until
		return
	}
	a.Pieces = append(a.Pieces, p)
}

// startOf returns where a segment begins; false for names of other files.
func (a *Archive) startOf(name string) (wal.LSN, bool) {
	n, err := wal.ParseName(name)
	if err != nil || n.Kind != wal.Segment {
		return 0, false
	}
	start, err := n.Start(a.SegmentSize)
	return start, err == nil
}

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
func locate(ctx context.Context, r *repo.Repo, t Target, backups []Backup, a Archive) (Target, error) {
	if t.Kind != AtXID && t.Kind != AtName {
		return t, nil
	}
	backups = slices.DeleteFunc(slices.Clone(backups), func(b Backup) bool { return t.Backup != "" && b.ID != t.Backup })
	if len(backups) == 0 {
		return t, nil
	}
	sortBackups(backups)
	path, err := a.follow(t, backups[len(backups)-1])
	if err != nil {
		return t, err
	}
	s := search{target: t, size: a.SegmentSize, segment: source(ctx, r, a.System, path, a.SegmentSize), limit: wal.Open}
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

// elsewhere returns the first tablespace that replaying would make at a place which was not given for it: on a machine
// where the original lives, that is the original's own folder. One that was made while the backup began may be in it and
// in the log; replaying leads its link back to where it was.
func (j *job) elsewhere(ctx context.Context) (record.Record, bool, error) {
	spaces, err := j.spaces()
	if err != nil {
		return record.Record{}, false, err
	}
	known := map[uint32]string{}
	for _, s := range spaces {
		known[s.oid] = s.location
	}
	path := j.choice.History
	segment := source(ctx, j.repo, j.manifest.Cluster.SystemID, path, j.manifest.Cluster.SegmentSize)
	for rec, err := range record.Scan(j.choice.Backup.Start, j.manifest.Cluster.SegmentSize, segment) {
		if err != nil {
			return rec, false, fmt.Errorf("look through the log: %w", err)
		}
		if j.past(rec) {
			return rec, false, nil
		}
		if rec.Kind == record.Tablespace && known[rec.OID] != rec.Name {
			return rec, true, nil
		}
	}
	return record.Record{}, false, nil
}

// past reports whether recovery ends before the record.
func (j *job) past(rec record.Record) bool {
	t := j.cfg.Target
	switch t.Kind {
	case Immediate:
		return rec.Start >= j.choice.Backup.Stop
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

// beside refuses to replay what would make files outside of the target, where something is already.
func (j *job) beside(ctx context.Context) error {
	rec, found, err := j.elsewhere(ctx)
	if err != nil || !found {
		return err
	}
	filled, err := holdsAnything(rec.Name + "/" + j.version())
	if err != nil || !filled {
		return err
	}
	return ErrNotEmpty.WithCause(fmt.Errorf("after the backup, at %v, tablespace %s was made at %s, where data is; recovery would write over it",
		rec.Start, strconv.FormatUint(uint64(rec.OID), 10), rec.Name)).
		WithHint("end before it: --target-lsn " + rec.Start.String() + " --exclusive, or restore a later backup")
}
