package base

import (
	"bytes"
	"context"
	"encoding/binary"
	"iter"
	"time"

	"rootstream/backup/base/wire"
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
	m.PageErrors, err = c.run(ctx, always(pairsOf(f.Listed)), list)
	if err == nil {
		m.Files, err = list.Close(ctx)
	}
	if err == nil {
		err = lane.Close(ctx)
	}
	m.FileCount, m.Size, m.Packs = list.Count(), list.Size(), list.Packs()
	return m, err
}

// Stalled holds the first piece of a file back until it is closed.
type Stalled chan struct{}

func (s Stalled) open(*unit) (content, error) {
	<-s
	return &once{bytes.Repeat([]byte{7}, pageSize)}, nil
}

type once struct{ rest []byte }

func (o *once) next(context.Context, []byte) ([]byte, error)         { return o.rest, nil }
func (o *once) excused(context.Context, []byte, int64) (bool, error) { return true, nil }
func (o *once) close()                                               {}

// CopyAhead copies what is listed, the times of which are trusted. The list is told how many files are written down.
func CopyAhead(ctx context.Context, r *repo.Repo, s *repo.Session, first Stalled, list func(written func() int64) iter.Seq[Listed]) error {
	lane, err := s.NewLane(repo.Compression{})
	if err != nil {
		return err
	}
	var known reuse
	c := &copier{source: first, r: r, s: s, workers: 2, trust: true, find: known.find, pace: &pace{}, done: &progress{}}
	_, err = c.run(ctx, always(func(yield func(pair, error) bool) {
		for l := range list(c.done.files.Load) {
			if !yield(pair{entry: l.Entry, parent: l.Parent}, nil) {
				return
			}
		}
	}), r.NewFileWriter(lane))
	return err
}

func always(pairs iter.Seq2[pair, error]) walker {
	return func(context.Context) iter.Seq2[pair, error] { return pairs }
}

// Broken is a source of which nothing can be read.
type Broken struct{ Err error }

func (b Broken) open(*unit) (content, error) { return nil, b.Err }

// CopyBroken copies a file that cannot be read, from somebody who then is silent until nobody listens any more.
func CopyBroken(ctx context.Context, r *repo.Repo, s *repo.Session, from Broken, file pgdata.Entry) error {
	lane, err := s.NewLane(repo.Compression{})
	if err != nil {
		return err
	}
	var known reuse
	c := &copier{source: from, r: r, s: s, workers: 2, find: known.find, pace: &pace{}, done: &progress{}}
	_, err = c.run(ctx, func(ctx context.Context) iter.Seq2[pair, error] {
		return func(yield func(pair, error) bool) {
			if yield(pair{entry: file}, nil) {
				<-ctx.Done()
				yield(pair{}, context.Cause(ctx))
			}
		}
	}, r.NewFileWriter(lane))
	return err
}

// Doubted has n pages of a file doubted whose position in the log is at, and returns how many of them are named once all was over at stop, and how many are not.
func Doubted(ctx context.Context, n int, at, stop wal.LSN) (named, unnamed int64, err error) {
	r := &remote{backup: &wire.Backup{}, doubts: map[string][]doubt{}}
	c := &onItsWay{r: r, u: &unit{item: &item{entry: pgdata.Entry{Path: "base/1/2"}}}}
	block := make([]byte, pageSize)
	binary.LittleEndian.PutUint32(block, uint32(at>>32))
	binary.LittleEndian.PutUint32(block[4:], uint32(at))
	for i := range n {
		if _, err = c.excused(ctx, block, int64(i)*pageSize); err != nil {
			return 0, 0, err
		}
	}
	f := repo.File{Path: "base/1/2"}
	named = r.doubted(&f, stop)
	return named, r.unnamed(), nil
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
