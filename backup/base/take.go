package base

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
)

// taking is one backup on its way.
type taking struct {
	cfg     Config
	r       *repo.Repo
	waitWAL WaitWAL

	server   *server
	primary  *server // where segments are switched; nil: nowhere
	remote   *remote // sends the files; nil: they are here
	s        *repo.Session
	control  pgdata.Control
	parent   repo.Manifest
	known    reuse
	trust    bool // times of files say what has changed
	list     *repo.FileWriter
	listLane *repo.Lane
	progress progress
	m        repo.Manifest
}

func (t *taking) run(ctx context.Context) error {
	if err := t.meet(ctx); err != nil {
		return err
	}
	defer t.part(ctx)
	s, run, err := t.r.Begin(ctx, repo.RunInfo{Kind: "backup", Lease: "writer", System: t.server.system})
	if err != nil {
		return err
	}
	t.s = s
	if t.cfg.Type == repo.Logical {
		err = t.dump(run)
	} else {
		err = t.take(run)
	}
	err = cause(run, err)
	if failed := s.Abort(ctx); failed != nil {
		return errors.Join(err, failed)
	}
	return err
}

// meet connects and makes sure that the folder can be the server's.
func (t *taking) meet(ctx context.Context) (err error) {
	if t.server, err = connect(ctx, t.cfg.DSN); err != nil {
		return err
	}
	if !t.server.standby {
		t.primary = t.server
	} else if t.cfg.PrimaryDSN != "" {
		t.primary, err = connect(ctx, t.cfg.PrimaryDSN)
	}
	if err == nil && t.cfg.Type != repo.Logical {
		err = t.reach(ctx)
	}
	if err != nil {
		t.part(ctx)
	}
	return err
}

// reach makes sure that the files can be had.
func (t *taking) reach(ctx context.Context) error {
	switch {
	case t.primary != nil && t.primary.system != t.server.system:
		return ErrServer.WithCause(fmt.Errorf("the primary is of system %d, the standby of %d", t.primary.system, t.server.system))
	case t.primary != nil && t.primary.standby:
		return ErrServer.WithCause(errors.New("what is given as the primary is a standby"))
	case t.cfg.PGData == "":
		return t.call(ctx)
	}
	return t.belongs()
}

func (t *taking) part(ctx context.Context) {
	if t.remote != nil {
		t.remote.conn.Close(ctx)
	}
	if t.primary != nil && t.primary != t.server {
		t.primary.close(ctx)
	}
	t.server.close(ctx)
}

func (t *taking) belongs() error {
	major, err := pgdata.Major(t.cfg.PGData)
	if err != nil {
		return err
	}
	if t.control, _, err = pgdata.ReadControl(t.cfg.PGData); err != nil {
		return err
	}
	switch {
	case major != t.server.major:
		return ErrFolder.WithCause(fmt.Errorf("it is of version %d, the server of %d", major, t.server.major))
	case t.control.SystemID != t.server.system:
		return ErrFolder.WithCause(fmt.Errorf("it is of system %d, the server of %d", t.control.SystemID, t.server.system))
	}
	return nil
}

// take is the order that makes a copy of files in use a backup.
func (t *taking) take(ctx context.Context) error {
	t.say(Starting)
	if err := t.begin(ctx); err != nil {
		return err
	}
	group, ready := errgroup.WithContext(ctx)
	group.Go(func() error { return t.prove(ready) })
	group.Go(func() error { return t.survey(ready) })
	if err := group.Wait(); err != nil {
		return err
	}
	t.say(Copying)
	if err := t.copy(ctx); err != nil {
		return err
	}
	if err := t.end(ctx); err != nil {
		return err
	}
	t.say(Archiving)
	if err := t.archived(ctx); err != nil {
		return err
	}
	if err := t.check(); err != nil {
		return err
	}
	if err := t.s.Commit(ctx, &t.m); err != nil {
		return err
	}
	t.say(Done)
	return nil
}

func (t *taking) say(p Phase) {
	t.progress.phase = p
	t.progress.tell(t.s.Stored())
}

// begin tells the server.
func (t *taking) begin(ctx context.Context) error {
	t.m = repo.Manifest{Type: t.cfg.Type, Tool: t.cfg.Tool, Compression: t.cfg.Compression, Annotations: t.cfg.Annotations}
	label := t.cfg.Label
	if label == "" {
		label = "rootstream " + string(t.cfg.Type)
	}
	start := t.enter
	if t.remote != nil {
		start = t.ask
	}
	err := start(ctx, label)
	if err != nil {
		return err
	}
	if t.m.ID, err = newID(t.m.Started, t.cfg.Type); err != nil {
		return err
	}
	t.m.StartTimeline, t.m.FromStandby = t.control.Timeline, t.server.standby
	t.m.Cluster = repo.Cluster{
		SystemID: t.server.system, Major: t.server.major, Catalog: t.control.Catalog, SegmentSize: t.control.WALSegmentSize,
		BlockSize: t.control.BlockSize, DataChecksums: t.control.PageChecksums,
	}
	t.m.Checksums, t.m.Settings, t.m.Databases = t.control.PageChecksums, t.server.settings, t.server.databases
	return t.s.MayBegin(&t.m)
}

// enter proves that the folder is the server's own: the checkpoint just made is in its pg_control.
func (t *taking) enter(ctx context.Context, label string) error {
	var err error
	if t.m.StartLSN, t.m.Started, err = t.server.start(ctx, label, !t.cfg.Spread); err != nil {
		return err
	}
	if t.control, _, err = pgdata.ReadControl(t.cfg.PGData); err != nil {
		return err
	}
	standby := t.control.State == pgdata.InArchiveRecovery
	if t.control.SystemID != t.server.system || t.control.Redo < t.m.StartLSN || standby != t.server.standby {
		return ErrFolder.WithCause(fmt.Errorf("the server's checkpoint is at %v, the folder's at %v", t.m.StartLSN, t.control.Redo)).
			WithHint("give the server's own data_directory")
	}
	t.m.Source, err = identity(t.cfg.PGData)
	return err
}

// newID names a backup by its time and type, and by chance.
func newID(at time.Time, kind repo.Type) (string, error) {
	var random [2]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s-%c-%s", at.UTC().Format("20060102T150405Z"), kind[0], hex.EncodeToString(random[:])), nil
}

// identity tells one data folder from another, also from one that took its place.
func identity(dir string) (string, error) {
	info, err := os.Stat(filepath.Join(dir, "PG_VERSION"))
	if err != nil {
		return "", err
	}
	var inode uint64
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = st.Ino
	}
	full, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	host, err := os.Hostname()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s:%s#%d-%d", host, full, inode, info.ModTime().UnixNano()), nil
}

// prove has the log's beginning archived, so that a broken archive is found before hours of copying.
func (t *taking) prove(ctx context.Context) error {
	if t.primary == nil {
		return nil // its own switches are the primary's; the end is waited for all the same
	}
	to, err := t.primary.switchSegment(ctx)
	if err != nil {
		return err
	}
	return t.await(ctx, wal.Range{Timeline: t.m.StartTimeline, From: t.m.StartLSN, To: max(to, t.m.StartLSN)})
}

func (t *taking) await(ctx context.Context, r wal.Range) error {
	waiting, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	var err error
	group, waiting := errgroup.WithContext(waiting)
	stop := make(chan struct{})
	group.Go(func() error {
		defer close(stop)
		return t.waitWAL(waiting, t.m.Cluster.SegmentSize, r)
	})
	group.Go(func() error { return t.watch(waiting, stop) })
	if err = group.Wait(); err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return ErrArchiving.WithCause(fmt.Errorf("%v, within %v: %w", r, t.cfg.Timeout, err)).
		WithHint("look at pg_stat_archiver and the server's log, or at the receiver; is it this repository that they bring the log to?")
}

// survey finds out what there is, and what of it is stored already.
func (t *taking) survey(ctx context.Context) (err error) {
	if err = t.adopt(ctx); err != nil || t.remote != nil {
		return err
	}
	t.trust, err = t.trusted(ctx)
	return err
}

// adopt finds the parent and what may be taken over from it.
func (t *taking) adopt(ctx context.Context) error {
	catalog, err := t.r.Catalog(ctx)
	if err != nil {
		return err
	}
	id, found := parentOf(t.cfg.Type, t.cfg.Reuse, catalog, t.server.system)
	if !found {
		if t.cfg.Type != repo.Full {
			t.cfg.Logger.InfoContext(ctx, "there is no backup to build on: this one is full", "type", t.cfg.Type)
		}
		t.m.Type = repo.Full
		return t.known.resume(ctx, t.s)
	}
	if t.parent, err = t.r.Manifest(ctx, id); err != nil {
		return fmt.Errorf("read the parent: %w", err)
	}
	if t.cfg.Type != repo.Full {
		t.m.Parent = id
	}
	return t.known.resume(ctx, t.s)
}

// pairs goes through the data folder beside the parent's files.
func (t *taking) pairs(ctx context.Context) iter.Seq2[pair, error] {
	files := func(func(repo.File, error) bool) {}
	if t.parent.ID != "" {
		files = t.r.Files(ctx, t.parent)
	}
	return joined(pgdata.Walk(ctx, t.cfg.PGData, t.server.major, t.control.Catalog), files)
}

// trusted looks at everything once, without reading it, and decides whether times say what has changed.
func (t *taking) trusted(ctx context.Context) (bool, error) {
	s, err := look(t.pairs(ctx))
	if err != nil {
		return false, err
	}
	t.progress.total.Store(s.bytes)
	if t.parent.ID == "" {
		return false, nil
	}
	const worthIt = 1 << 20
	if s.fresh > worthIt {
		if err := t.known.learn(ctx, t.s, t.parent); err != nil {
			return false, err
		}
	}
	why := distrust(t.parent, circumstances{t.m.Source, t.m.StartTimeline, t.m.Checksums, t.m.Started})
	if why == "" {
		why = s.odd
	}
	if t.cfg.Type == repo.Full {
		return false, nil
	}
	if why != "" {
		t.cfg.Logger.WarnContext(ctx, "times of files are not trusted: all are read", "reason", why)
	}
	return why == "", nil
}

// copy copies the folder, pg_control last.
func (t *taking) copy(ctx context.Context) (err error) {
	if t.listLane, err = t.s.NewLane(t.cfg.Compression); err != nil {
		return err
	}
	t.list = t.r.NewFileWriter(t.listLane)
	if t.remote != nil {
		return t.receive(ctx)
	}
	if err := t.copyFrom(ctx, &folder{dir: t.cfg.PGData}, t.trust, t.pairs, t.list); err != nil {
		return err
	}
	return t.copyControl(ctx)
}

// copyFrom copies all but pg_control.
func (t *taking) copyFrom(ctx context.Context, from source, trust bool, pairs walker, list fileList) error {
	c := &copier{
		source: from, r: t.r, s: t.s, control: t.control, workers: t.cfg.Workers, lanes: t.cfg.Compression,
		trust: trust, find: t.known.find, pace: &pace{rate: t.cfg.Rate}, done: &t.progress,
	}
	stop := make(chan struct{})
	group, copying := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		defer close(stop)
		t.m.PageErrors, err = c.run(copying, pairs, list)
		return err
	})
	group.Go(func() error { return t.watch(copying, stop) })
	return group.Wait()
}

// watch tells of the progress and keeps the server's session alive, until stop is closed.
func (t *taking) watch(ctx context.Context, stop <-chan struct{}) error {
	const beat, pings = 500 * time.Millisecond, 20
	for i := 1; ; i++ {
		timer := time.NewTimer(beat)
		select {
		case <-stop:
			timer.Stop()
			return nil
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
		t.progress.tell(t.s.Stored())
		if i%pings != 0 {
			continue
		}
		if err := t.server.ping(ctx); err != nil {
			return err
		}
	}
}

// copyControl reads pg_control after everything else: on a standby it says up to where the log has to be replayed.
func (t *taking) copyControl(ctx context.Context) error {
	info, err := os.Stat(filepath.Join(t.cfg.PGData, pgdata.ControlPath))
	if err != nil {
		return err
	}
	var raw []byte
	if t.control, raw, err = pgdata.ReadControl(t.cfg.PGData); err != nil {
		return err
	}
	return t.writeControl(ctx, raw, uint32(info.Mode().Perm()), info.ModTime().UnixNano())
}

// writeControl ends the list of files.
func (t *taking) writeControl(ctx context.Context, raw []byte, mode uint32, changed int64) error {
	hasher := t.r.NewHasher()
	page := hasher.Sum(raw)
	f := repo.File{
		Path: pgdata.ControlPath, Kind: repo.Regular, Mode: mode, ModTime: changed,
		Size: int64(len(raw)), Hash: hasher.Sum(page[:]),
	}
	blob, err := t.listLane.Add(ctx, repo.Hash{}, raw)
	if err != nil {
		return err
	}
	f.Extents = []repo.Extent{{Pages: 1, Blob: blob}}
	if err = t.list.Write(ctx, f); err != nil {
		return err
	}
	if t.m.Files, err = t.list.Close(ctx); err != nil {
		return err
	}
	t.m.Packs, t.m.FileCount, t.m.Size = t.list.Packs(), t.list.Count(), t.list.Size()
	return t.listLane.Close(ctx)
}

// end tells the server that the copy is done.
func (t *taking) end(ctx context.Context) error {
	stop := t.server.stop
	if t.remote != nil {
		stop = t.ended
	}
	e, err := stop(ctx)
	if err != nil {
		return err
	}
	label, err := pgdata.ParseLabel(e.label)
	if err != nil {
		return err
	}
	spaces, err := pgdata.ParseTablespaceMap(e.spaces)
	if err != nil {
		return err
	}
	if label.Timeline != t.m.StartTimeline || t.control.Timeline != t.m.StartTimeline ||
		t.server.standby && t.control.MinRecoveryTimeline > t.m.StartTimeline {
		return ErrTimeline.WithCause(fmt.Errorf("from %d to %d", label.Timeline, t.control.Timeline))
	}
	if label.Start != t.m.StartLSN || label.FromStandby != t.server.standby {
		return ErrServer.WithCause(fmt.Errorf("its label says that the backup began at %v, it did at %v", label.Start, t.m.StartLSN))
	}
	t.m.StopLSN, t.m.StopTimeline, t.m.Completed = e.lsn, label.Timeline, e.at
	t.m.Label, t.m.TablespaceMap = e.label, e.spaces
	for _, s := range spaces {
		t.m.Tablespaces = append(t.m.Tablespaces, repo.Tablespace(s))
	}
	return nil
}

// archived waits until the repository has all of the log that the copy needs.
func (t *taking) archived(ctx context.Context) error {
	if t.primary != nil && t.server.standby { // the stop of a backup switches segments only on a primary
		if _, err := t.primary.switchSegment(ctx); err != nil {
			return err
		}
	}
	to := t.m.StopLSN
	if t.primary != nil { // its last segment was ended: pieces of it would end what can be replayed once others follow
		to = to.SegmentEnd(t.m.Cluster.SegmentSize)
	}
	return t.await(ctx, wal.Range{Timeline: t.m.StopTimeline, From: t.m.StartLSN, To: to})
}

var errNoEnd = errors.New("the label, pg_control or the list of files is missing")

// check refuses what no backup can be.
func (t *taking) check() error {
	const least = 100 // files of an empty cluster: there are about a thousand
	if t.m.FileCount < least || t.m.StopLSN < t.m.StartLSN || len(t.m.Label) == 0 || len(t.m.Files) == 0 {
		return errNoEnd
	}
	return nil
}
