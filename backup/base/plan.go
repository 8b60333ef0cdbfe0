package base

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
)

// parentOf picks the backup whose data a new one of this type may share: the last full one, or the last of any type.
// Data is shared by content, so one on another timeline will do.
func parentOf(t repo.Type, reuse bool, catalog []repo.Entry, system uint64) (string, bool) {
	if t == repo.Full && !reuse {
		return "", false
	}
	fit := func(e repo.Entry) bool {
		return e.Err == nil && e.Cluster.SystemID == system && e.Type != repo.Logical && (t != repo.Differential || e.Type == repo.Full)
	}
	catalog = slices.DeleteFunc(slices.Clone(catalog), func(e repo.Entry) bool { return !fit(e) })
	if len(catalog) == 0 {
		return "", false
	}
	last := slices.MaxFunc(catalog, func(a, b repo.Entry) int {
		return cmp.Or(cmp.Compare(a.StopTimeline, b.StopTimeline), cmp.Compare(a.StopLSN, b.StopLSN))
	})
	return last.ID, true
}

// circumstances are what has to be as it was for times of files to say what has changed.
type circumstances struct {
	source    string
	timeline  wal.TimelineID
	checksums bool
	now       time.Time
}

// distrust says why the times of files say nothing about what has changed since a backup; "" if they do.
func distrust(parent repo.Manifest, c circumstances) string {
	switch {
	case parent.Source != c.source:
		return "the parent was taken from another folder"
	case parent.StopTimeline != c.timeline:
		return fmt.Sprintf("the parent is of timeline %d, this is timeline %d", parent.StopTimeline, c.timeline)
	case parent.Cluster.DataChecksums != c.checksums:
		return "page checksums were switched on or off"
	case parent.Completed.After(c.now):
		return "the parent is from the future: a clock was set back"
	}
	return ""
}

// anomaly says why an entry's time shows that clocks or tools play tricks; "" if it does not. Then none is trusted.
func anomaly(e pgdata.Entry, parent *repo.File, now time.Time) string {
	switch {
	case e.Kind != pgdata.Regular || e.ModTime == 0:
		return ""
	case e.ModTime > now.UnixNano():
		return "it was changed in the future"
	case parent == nil || parent.Kind != repo.Regular || parent.ModTime == 0:
		return ""
	case e.ModTime < parent.ModTime:
		return "it was changed earlier than the parent's"
	case e.ModTime == parent.ModTime && e.Size != parent.Size:
		return "it has another size but was changed at the same time"
	}
	return ""
}

// unchanged reports whether an entry needs not be read, times being trusted.
func unchanged(e pgdata.Entry, parent *repo.File) bool {
	return parent != nil && parent.Kind == repo.Regular && e.ModTime != 0 && e.ModTime == parent.ModTime && e.Size == parent.Size
}

// pair is an entry of the data folder and what the parent has under its name.
type pair struct {
	entry  pgdata.Entry
	parent *repo.File
	feed   func(context.Context, *unit) error // brings a unit's content, of a file that is not there to be read
}

// joined goes through the entries of a folder with what the parent has of each; both are in the same order.
func joined(entries iter.Seq2[pgdata.Entry, error], files iter.Seq2[repo.File, error]) iter.Seq2[pair, error] {
	return func(yield func(pair, error) bool) {
		next, stop := iter.Pull2(files)
		defer stop()
		f, err, more := next()
		for e, failed := range entries {
			for failed == nil && err == nil && more && pgdata.ComparePaths(f.Path, e.Path) < 0 {
				f, err, more = next()
			}
			p := pair{entry: e}
			if more && f.Path == e.Path {
				held := f
				p.parent = &held
			}
			if failed == nil && more {
				failed = err
			}
			if !yield(p, failed) || failed != nil {
				return
			}
		}
	}
}

// survey is what a look at all entries tells before one is read.
type survey struct {
	files int64
	bytes int64
	fresh int64  // bytes of files that the parent does not have
	odd   string // why times are not trusted
}

func look(pairs iter.Seq2[pair, error]) (survey, error) {
	var s survey
	for p, err := range pairs {
		if err != nil {
			return survey{}, err
		}
		s.files++
		s.bytes += p.entry.Size
		if p.parent == nil {
			s.fresh += p.entry.Size
		}
		if why := anomaly(p.entry, p.parent, time.Now()); why != "" && s.odd == "" {
			s.odd = p.entry.Path + ": " + why
		}
	}
	return s, nil
}
