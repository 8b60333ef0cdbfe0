package base

import (
	"context"
	"iter"
	"time"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
)

// Listed is an entry as a walk found it, and what the parent has under its name.
type Listed struct {
	Entry  pgdata.Entry
	Parent *repo.File
}

// Folder is one without a server.
type Folder struct {
	Dir     string
	Control pgdata.Control
	Listed  []Listed
}

// CopyListed copies what was listed, which need not be what is there any more, and returns the list of files.
func CopyListed(ctx context.Context, r *repo.Repo, s *repo.Session, f Folder) (repo.Manifest, error) {
	lane, err := s.NewLane(repo.Compression{})
	if err != nil {
		return repo.Manifest{}, err
	}
	list := r.NewFileWriter(lane)
	var known reuse
	c := &copier{
		source: &folder{dir: f.Dir}, r: r, s: s, control: f.Control, workers: 2, trust: true, find: known.find, pace: &pace{}, done: &progress{},
	}
	m := repo.Manifest{ID: "test-1", Type: repo.Full}
	m.PageErrors, err = c.run(ctx, pairsOf(f.Listed), list)
	if err == nil {
		m.Files, err = list.Close(ctx)
	}
	if err == nil {
		err = lane.Close(ctx)
	}
	m.FileCount, m.Size, m.Packs = list.Count(), list.Size(), list.Packs()
	return m, err
}

func pairsOf(listed []Listed) iter.Seq2[pair, error] {
	return func(yield func(pair, error) bool) {
		for _, l := range listed {
			if !yield(pair{entry: l.Entry, parent: l.Parent}, nil) {
				return
			}
		}
	}
}

// The pure decisions.
var (
	ParentOf  = parentOf
	Anomaly   = anomaly
	Unchanged = unchanged
)

// Odd says why a look at what was listed does not trust times; at goes on between one entry and the next.
func Odd(listed iter.Seq[Listed]) (string, error) {
	s, err := look(func(yield func(pair, error) bool) {
		for l := range listed {
			if !yield(pair{entry: l.Entry, parent: l.Parent}, nil) {
				return
			}
		}
	})
	return s.odd, err
}

// Distrust is distrust with its circumstances in a row.
func Distrust(parent repo.Manifest, source string, timeline wal.TimelineID, checksums bool, now time.Time) string {
	return distrust(parent, circumstances{source, timeline, checksums, now})
}
