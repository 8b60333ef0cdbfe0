package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
)

// A window is as much of the list of files as is worked on at a time: it bounds memory, however large the cluster.
const (
	windowPages   = 512 << 10 // four gigabytes: several of PostgreSQL's files, so that workers seldom meet in one
	windowExtents = 64 << 10
	windowFiles   = 16 << 10
	smallFile     = 8 // pages; smaller files have no list of page hashes
)

// target is a file of the window.
type target struct {
	file   repo.File
	hashes []repo.Hash // of its pages, as they are written or found
	want   []repo.Hash // as the backup has them; only where something is reused
	found  []bool      // pages that are there already; nil where nothing is reused
	inline []byte      // content of a file that is not written, but handed out: pg_control
	parts  []part      // of it, as they are put together

	left   atomic.Int32 // writes to come, at least
	mu     sync.Mutex
	made   bool
	handle *os.File // open while there is something to write
}

// piece is a run of pages that comes from one blob.
type piece struct {
	to    *target
	at    uint32 // pages into the blob
	page  uint32 // of the file
	pages uint32
}

// window collects files.
type window struct {
	files   []*target
	extents int
	pages   int64
}

func (w *window) full() bool {
	return w.pages >= windowPages || w.extents >= windowExtents || len(w.files) >= windowFiles
}

// fill makes all files and returns what belongs into pg_control. A window is collected while the one before is written.
func (j *Job) fill(ctx context.Context) ([]byte, error) {
	j.Report("files", 0)
	j.writeback = beginWriteback(j.tree.open)
	defer j.writeback.end()
	group, ctx := errgroup.WithContext(ctx)
	windows := make(chan *window)
	var control []byte
	group.Go(func() error {
		defer close(windows)
		return j.collect(ctx, windows)
	})
	group.Go(func() error {
		for w := range windows {
			last, err := j.flush(ctx, w)
			if err != nil {
				return err
			}
			control = last
		}
		return nil
	})
	err := group.Wait()
	return control, err
}

// collect goes through the list of files: makes folders and links, and hands on files.
func (j *Job) collect(ctx context.Context, windows chan<- *window) error {
	w := &window{}
	hand := func() error {
		select {
		case windows <- w:
			w = &window{}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for f, err := range j.entries(ctx) {
		if err != nil {
			return err
		}
		if err = checkPath(f); err != nil {
			return err
		}
		switch f.Kind {
		case repo.Dir:
			err = j.tree.mkdir(f.Path)
		case repo.Symlink:
			err = j.link(f)
		case repo.Regular:
			w.add(f)
		default:
			err = repo.ErrDamaged.WithCause(errors.New("it is of no kind that is known"))
		}
		if err == nil && w.full() && f.Path != pgdata.ControlPath {
			err = hand()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	return hand()
}

// link makes a link: that of a tablespace, of which it is ours to say where it leads, or one to a file of the machine,
// such as a key, which leads where it did.
func (j *Job) link(f repo.File) error {
	for _, s := range j.tree.spaces {
		if s.link == f.Path {
			return j.tree.link(s.link, s.location)
		}
	}
	return j.tree.link(f.Path, f.Target)
}

// entries goes through the files of the backup that come back. Left out are notes of an earlier restore, and a
// tablespace that the backup does not name: it was made while the backup was taken, so the log has it, and all in it.
func (j *Job) entries(ctx context.Context) iter.Seq2[repo.File, error] {
	named := map[string]bool{}
	for _, ts := range j.Manifest.Tablespaces {
		named[linkOf(ts)] = true
	}
	return func(yield func(repo.File, error) bool) {
		late := ""
		for f, err := range j.repo.Files(ctx, j.Manifest) {
			if err == nil && f.Kind == repo.Symlink && path.Dir(f.Path) == spacesPath && !named[f.Path] {
				late = f.Path
			}
			inLate := f.Path == late || strings.HasPrefix(f.Path, late+"/")
			if err == nil && (inLate || strings.HasPrefix(f.Path, statePath)) {
				continue
			}
			if !yield(f, err) {
				return
			}
		}
	}
}

// add takes a file into the window.
func (w *window) add(f repo.File) {
	pages := pagesOf(f.Size)
	t := &target{file: f, hashes: make([]repo.Hash, pages)}
	if f.Path == pgdata.ControlPath {
		t.inline = make([]byte, f.Size)
	}
	w.files, w.pages, w.extents = append(w.files, t), w.pages+pages, w.extents+len(f.Extents)
}

func pagesOf(size int64) int64 { return (size + pgdata.PageSize - 1) / pgdata.PageSize }

// size returns the bytes of a page: all but the last are whole.
func (t *target) size(page uint32) int64 {
	return min(pgdata.PageSize, t.file.Size-int64(page)*pgdata.PageSize)
}

// flush writes the files of the window. It returns the content of pg_control if that was among them.
func (j *Job) flush(ctx context.Context, w *window) ([]byte, error) {
	defer func() {
		for _, t := range w.files {
			j.abandon(t)
		}
	}()
	if j.reuse {
		if err := j.compare(ctx, w); err != nil {
			return nil, err
		}
	}
	if err := j.fetch(ctx, w); err != nil {
		return nil, err
	}
	hasher := j.repo.NewHasher()
	var control []byte
	for _, t := range w.files {
		if err := j.finish(t, hasher); err != nil {
			return nil, fmt.Errorf("%s: %w", t.file.Path, err)
		}
		if t.inline != nil {
			control = t.inline
		}
	}
	return control, nil
}

// finish makes a file in which nothing had to be written, and proves that it is what the backup says: by the hash over
// the hashes of all its pages.
func (j *Job) finish(t *target, hasher *repo.Hasher) error {
	if t.fileHash(hasher) != t.file.Hash {
		return repo.ErrDamaged.WithCause(errors.New("its content is not what the backup says it is"))
	}
	if t.made || t.inline != nil {
		return nil
	}
	f, err := j.make(t)
	if err != nil {
		return err
	}
	return f.Close()
}

// compare finds out which pages of the window's files are the same.
func (j *Job) compare(ctx context.Context, w *window) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(j.Config.Workers)
	for _, t := range w.files {
		if ctx.Err() != nil || t.inline != nil {
			continue
		}
		group.Go(func() error {
			if err := j.compareFile(ctx, t); err != nil {
				return fmt.Errorf("%s: %w", t.file.Path, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (j *Job) compareFile(ctx context.Context, t *target) error {
	if len(t.hashes) > smallFile {
		t.want = make([]repo.Hash, 0, len(t.hashes))
		for some, err := range j.repo.PageHashes(ctx, t.file) {
			if err != nil {
				return err
			}
			t.want = append(t.want, some...)
		}
	}
	f, err := j.make(t)
	if err != nil {
		return err
	}
	return errors.Join(t.compare(j.repo.NewHasher(), f), f.Close())
}

// make makes the file, or cuts what is there to its size where that may be reused. Of a new one that is written to, the
// disk keeps room for all.
func (j *Job) make(t *target) (*os.File, error) {
	f, err := j.tree.create(t.file.Path, t.file.Size, j.reuse)
	if err != nil {
		return nil, err
	}
	t.made = true
	if !j.reuse && len(t.hashes) > smallFile && !slices.ContainsFunc(t.file.Extents, blank) {
		err = reserve(f, t.file.Size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// blank reports whether an extent is of zeros, which need no room on the disk.
func blank(e repo.Extent) bool { return e.Blob.Raw == 0 }

// compare hashes what is in the file and notes which pages may stay.
func (t *target) compare(hasher *repo.Hasher, f *os.File) error {
	buf := make([]byte, 32*pgdata.PageSize)
	for page := 0; page < len(t.hashes); {
		n, err := f.ReadAt(buf, int64(page)*pgdata.PageSize)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF // it was cut to its size just now
		}
		for at := 0; at < n; at += pgdata.PageSize {
			t.hashes[page] = hasher.Sum(buf[at:min(n, at+pgdata.PageSize)])
			page++
		}
	}
	same := t.fileHash(hasher) == t.file.Hash
	t.found = make([]bool, len(t.hashes))
	for i := range t.found {
		t.found[i] = same || (len(t.want) == len(t.hashes) && t.want[i] == t.hashes[i])
	}
	return nil
}

// missing goes through the parts of the piece that are not there already.
func (p piece) missing() iter.Seq[piece] {
	return func(yield func(piece) bool) {
		if p.to.found == nil {
			yield(p)
			return
		}
		for from := p.page; from < p.page+p.pages; {
			to := from
			for to < p.page+p.pages && p.to.found[to] == p.to.found[from] {
				to++
			}
			run := piece{p.to, p.at + from - p.page, from, to - from}
			if !p.to.found[from] && !yield(run) {
				return
			}
			from = to
		}
	}
}

// fetch reads the blobs and writes their pages.
func (j *Job) fetch(ctx context.Context, w *window) error {
	blank, content := w.wanted()
	for _, p := range blank {
		if err := j.writeZeros(p); err != nil {
			return fmt.Errorf("%s: %w", p.to.file.Path, err)
		}
	}
	plan := newAgenda(content)
	g := beginGathering(j.put)
	group, ctx := errgroup.WithContext(ctx)
	for range j.Config.Workers {
		group.Go(func() error {
			hasher := j.repo.NewHasher()
			for l, some := plan.next(nil); l != nil; l, some = plan.next(l) {
				if err := j.read(ctx, some, g, hasher); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return errors.Join(group.Wait(), g.end())
}

// read reads the blobs of a batch and hands on the pages that come from them.
func (j *Job) read(ctx context.Context, some []portion, g *gatherer, hasher *repo.Hasher) error {
	blobs := make([]repo.Blob, len(some))
	for i, p := range some {
		blobs[i] = p.blob
	}
	return j.repo.ReadBatch(ctx, blobs, func(i int, plain []byte) error {
		var bytes int64
		for _, p := range some[i].pieces {
			if err := j.spread(p, plain, g, hasher); err != nil {
				return fmt.Errorf("%s: %w", p.to.file.Path, err)
			}
			bytes += p.bytes()
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		j.fetched += bytes
		j.Report("files", bytes)
		return nil
	})
}

// bytes returns how much of the file the run is.
func (p piece) bytes() int64 {
	return min(int64(p.pages)*pgdata.PageSize, p.to.file.Size-int64(p.page)*pgdata.PageSize)
}

// spread hashes a run of pages and hands it on.
func (j *Job) spread(p piece, plain []byte, g *gatherer, hasher *repo.Hasher) error {
	from, size := int64(p.at)*pgdata.PageSize, p.bytes()
	if from+size > int64(len(plain)) {
		return repo.ErrDamaged.WithCause(fmt.Errorf("page %d ends behind the blob it is in", p.page))
	}
	run := plain[from : from+size]
	for i := range p.pages {
		at := int64(i) * pgdata.PageSize
		p.to.hashes[p.page+i] = hasher.Sum(run[at : at+p.to.size(p.page+i)])
	}
	if p.to.inline != nil {
		copy(p.to.inline[int64(p.page)*pgdata.PageSize:], run)
		return nil
	}
	return g.add(p, run)
}

// put writes a run of pages where it belongs.
func (j *Job) put(t *target, at int64, run []byte) error {
	f, err := j.handle(t)
	if err != nil {
		return fmt.Errorf("%s: %w", t.file.Path, err)
	}
	if err = j.writeAt(t, f, run, at); err == nil && !j.Config.NoSync && !j.straight(t) {
		j.writeback.wrote(t.file.Path, at, int64(len(run)))
	}
	if err = errors.Join(err, j.release(t, f)); err != nil {
		return fmt.Errorf("%s: %w", t.file.Path, err)
	}
	return nil
}

// writeZeros makes a run of zeros; a file that was just made is nothing else.
func (j *Job) writeZeros(p piece) error {
	zeros := make([]byte, 32*pgdata.PageSize)
	hasher := j.repo.NewHasher()
	whole := hasher.Sum(zeros[:pgdata.PageSize])
	for i := range p.pages {
		p.to.hashes[p.page+i] = whole
		if n := p.to.size(p.page + i); n < pgdata.PageSize {
			p.to.hashes[p.page+i] = hasher.Sum(zeros[:n])
		}
	}
	if p.to.found == nil {
		p.to.left.Add(-1)
		return nil
	}
	f, err := j.handle(p.to)
	if err != nil {
		return err
	}
	end := int64(p.page)*pgdata.PageSize + p.bytes()
	for at := int64(p.page) * pgdata.PageSize; at < end && err == nil; at += int64(len(zeros)) {
		_, err = f.WriteAt(zeros[:min(int64(len(zeros)), end-at)], at)
	}
	return errors.Join(err, j.release(p.to, f))
}

const maxHandles = 1000 // more files at a time are opened anew for each run

// handle returns the open file of t, which is closed with what is written last.
func (j *Job) handle(t *target) (*os.File, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.handle != nil {
		return t.handle, nil
	}
	f, err := j.enter(t)
	if err == nil && j.handles.Load() < maxHandles {
		t.handle = f
		j.handles.Add(1)
	}
	return f, err
}

// enter opens a file for writing, which makes it the first time.
func (j *Job) enter(t *target) (*os.File, error) {
	if t.made && !j.straight(t) {
		return j.tree.open(t.file.Path)
	}
	if !t.made {
		f, err := j.make(t)
		if err != nil || !j.straight(t) {
			return f, err
		}
		if err = f.Close(); err != nil {
			return nil, err
		}
	}
	f, err := j.tree.openDirect(t.file.Path)
	if errors.Is(err, unix.EINVAL) { // this filesystem cannot
		j.indirect.Store(true)
		return j.tree.open(t.file.Path)
	}
	return f, err
}

// straight reports whether what is written to a file goes past the cache: it only costs time where all has to be on disk
// at the end. What is reused is in the cache already.
func (j *Job) straight(t *target) bool {
	return t.file.Size >= partBytes && !j.reuse && !j.Config.NoSync && !j.indirect.Load()
}

// writeAt writes to a file that may be open past the cache, which takes whole blocks, and is worth its while for many.
func (j *Job) writeAt(t *target, f *os.File, run []byte, at int64) error {
	var err error
	if !j.straight(t) || len(run) >= shortRun && len(run)%diskBlock == 0 && offBlock(run) == 0 {
		if _, err = f.WriteAt(run, at); !errors.Is(err, unix.EINVAL) {
			return err
		}
		j.indirect.Store(true)
	}
	if f, err = j.tree.open(t.file.Path); err != nil {
		return err
	}
	_, err = f.WriteAt(run, at)
	return errors.Join(err, f.Close())
}

func (j *Job) release(t *target, f *os.File) error {
	last := t.left.Add(-1) == 0
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.handle != f {
		return f.Close()
	}
	if !last {
		return nil
	}
	t.handle = nil
	j.handles.Add(-1)
	return f.Close()
}

// abandon closes what a failure left open.
func (j *Job) abandon(t *target) {
	if t.handle != nil {
		_ = t.handle.Close()
		t.handle = nil
		j.handles.Add(-1)
	}
}

func (t *target) fileHash(hasher *repo.Hasher) repo.Hash {
	all := make([]byte, 0, len(t.hashes)*len(repo.Hash{}))
	for _, h := range t.hashes {
		all = append(all, h[:]...)
	}
	return hasher.Sum(all)
}
