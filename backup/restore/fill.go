package restore

import (
	"cmp"
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

	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
)

// A window is as much of the list of files as is worked on at a time: it bounds memory, however large the cluster.
const (
	windowPages   = 512 << 10 // four gigabytes: several of PostgreSQL's files, so that workers seldom meet in one
	windowExtents = 128 << 10
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

	left   atomic.Int32 // runs to write
	mu     sync.Mutex
	handle *os.File // open while there are runs to write
}

// piece is a run of pages that comes from one blob.
type piece struct {
	to    *target
	blob  repo.Blob
	at    uint32 // pages into the blob
	page  uint32 // of the file
	pages uint32
}

// window collects files and what they are made of.
type window struct {
	files  []*target
	pieces []piece
	pages  int64
}

func (w *window) full() bool {
	return w.pages >= windowPages || len(w.pieces) >= windowExtents || len(w.files) >= windowFiles
}

// fill makes all files and returns what belongs into pg_control.
func (j *Job) fill(ctx context.Context) ([]byte, error) {
	j.Report("files", 0)
	j.writeback = beginWriteback(j.tree.open)
	defer j.writeback.end()
	var w window
	for f, err := range j.entries(ctx) {
		if err != nil {
			return nil, err
		}
		if err = checkPath(f); err != nil {
			return nil, err
		}
		switch f.Kind {
		case repo.Dir:
			err = j.tree.mkdir(f.Path)
		case repo.Symlink:
			err = j.link(f)
		case repo.Regular:
			w.add(f)
		default:
			err = repo.ErrDamaged.WithCause(fmt.Errorf("%s is of no kind that is known", f.Path))
		}
		if err == nil && w.full() && f.Path != pgdata.ControlPath {
			_, err = j.flush(ctx, &w)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	return j.flush(ctx, &w)
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
	for _, e := range f.Extents {
		w.pieces = append(w.pieces, piece{to: t, blob: e.Blob, at: e.At, page: e.Page, pages: e.Pages})
	}
	w.files, w.pages = append(w.files, t), w.pages+pages
}

func pagesOf(size int64) int64 { return (size + pgdata.PageSize - 1) / pgdata.PageSize }

// size returns the bytes of a page: all but the last are whole.
func (t *target) size(page uint32) int64 {
	return min(pgdata.PageSize, t.file.Size-int64(page)*pgdata.PageSize)
}

// flush writes the files of the window and empties it. It returns the content of pg_control if that was among them.
func (j *Job) flush(ctx context.Context, w *window) ([]byte, error) {
	defer func() {
		for _, t := range w.files {
			j.abandon(t)
		}
		*w = window{}
	}()
	if err := j.open(ctx, w); err != nil {
		return nil, err
	}
	wanted := w.wanted()
	if err := j.fetch(ctx, wanted); err != nil {
		return nil, err
	}
	hasher := j.repo.NewHasher()
	var control []byte
	for _, t := range w.files {
		if err := t.check(hasher); err != nil {
			return nil, err
		}
		if t.inline != nil {
			control = t.inline
		}
	}
	return control, nil
}

// open makes the window's files. Where something is reused, it finds out which pages are the same.
func (j *Job) open(ctx context.Context, w *window) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(j.Config.Workers)
	for _, t := range w.files {
		if ctx.Err() != nil || t.inline != nil {
			continue
		}
		group.Go(func() error {
			if err := j.make(ctx, t); err != nil {
				return fmt.Errorf("%s: %w", t.file.Path, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (j *Job) make(ctx context.Context, t *target) error {
	if !j.reuse {
		f, err := j.tree.create(t.file.Path, t.file.Size, false)
		if err != nil {
			return err
		}
		if len(t.hashes) > smallFile && !slices.ContainsFunc(t.file.Extents, blank) {
			err = reserve(f, t.file.Size)
		}
		return errors.Join(err, f.Close())
	}
	if len(t.hashes) > smallFile {
		t.want = make([]repo.Hash, 0, len(t.hashes))
		for some, err := range j.repo.PageHashes(ctx, t.file) {
			if err != nil {
				return err
			}
			t.want = append(t.want, some...)
		}
	}
	f, err := j.tree.create(t.file.Path, t.file.Size, true)
	if err != nil {
		return err
	}
	return errors.Join(t.compare(j.repo.NewHasher(), f), f.Close())
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

// wanted returns the runs that have to be written, those of one blob beside each other.
func (w *window) wanted() []piece {
	var all []piece
	for _, p := range w.pieces {
		for run := range p.missing() {
			run.to.left.Add(1)
			all = append(all, run)
		}
	}
	slices.SortFunc(all, func(a, b piece) int {
		return cmp.Or(cmp.Compare(min(a.blob.Raw, 1), min(b.blob.Raw, 1)),
			slices.Compare(a.blob.Pack[:], b.blob.Pack[:]), cmp.Compare(a.blob.Number, b.blob.Number))
	})
	return all
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
			run := piece{p.to, p.blob, p.at + from - p.page, from, to - from}
			if !p.to.found[from] && !yield(run) {
				return
			}
			from = to
		}
	}
}

// fetch reads the blobs and writes their pages.
func (j *Job) fetch(ctx context.Context, wanted []piece) error {
	hashers := sync.Pool{New: func() any { return j.repo.NewHasher() }}
	blank, content := split(wanted)
	for _, p := range blank {
		if err := j.writeZeros(p); err != nil {
			return fmt.Errorf("%s: %w", p.to.file.Path, err)
		}
	}
	groups := blobsOf(content)
	blobs := func(yield func(int, repo.Blob) bool) {
		for i, g := range groups {
			if !yield(i, g[0].blob) {
				return
			}
		}
	}
	var mu sync.Mutex
	return j.repo.ReadAll(ctx, blobs, j.Config.Workers, func(i int, plain []byte) error {
		hasher, _ := hashers.Get().(*repo.Hasher)
		defer hashers.Put(hasher)
		var bytes int64
		for _, p := range groups[i] {
			if err := j.write(p, plain, hasher); err != nil {
				return fmt.Errorf("%s: %w", p.to.file.Path, err)
			}
			bytes += p.bytes()
		}
		mu.Lock()
		defer mu.Unlock()
		j.fetched += bytes
		j.Report("files", bytes)
		return nil
	})
}

// split parts the runs of zeros, which no blob holds, from the others.
func split(sorted []piece) (blank, content []piece) {
	i := slices.IndexFunc(sorted, func(p piece) bool { return p.blob.Raw != 0 })
	if i < 0 {
		i = len(sorted)
	}
	return sorted[:i], sorted[i:]
}

// blobsOf splits the runs by blob.
func blobsOf(sorted []piece) [][]piece {
	var groups [][]piece
	for i, p := range sorted {
		if i == 0 || p.blob.Pack != sorted[i-1].blob.Pack || p.blob.Number != sorted[i-1].blob.Number {
			groups = append(groups, sorted[i:i:len(sorted)])
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], p)
	}
	return groups
}

// bytes returns how much of the file the run is.
func (p piece) bytes() int64 {
	return min(int64(p.pages)*pgdata.PageSize, p.to.file.Size-int64(p.page)*pgdata.PageSize)
}

// write puts a run of pages where it belongs.
func (j *Job) write(p piece, plain []byte, hasher *repo.Hasher) error {
	from, size := int64(p.at)*pgdata.PageSize, p.bytes()
	if from+size > int64(len(plain)) {
		return repo.ErrDamaged.WithCause(fmt.Errorf("page %d ends behind the blob it is in", p.page))
	}
	run := plain[from : from+size]
	for i := range p.pages {
		at := int64(i) * pgdata.PageSize
		p.to.hashes[p.page+i] = hasher.Sum(run[at : at+p.to.size(p.page+i)])
	}
	return j.put(p, run)
}

func (j *Job) put(p piece, run []byte) error {
	at := int64(p.page) * pgdata.PageSize
	if p.to.inline != nil {
		copy(p.to.inline[at:], run)
		return nil
	}
	f, err := j.handle(p.to)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(run, at); err == nil && !j.Config.NoSync {
		j.writeback.wrote(p.to.file.Path, at, int64(len(run)))
	}
	return errors.Join(err, j.release(p.to, f))
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

// handle returns the open file of t, which the one who writes its last run closes.
func (j *Job) handle(t *target) (*os.File, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.handle != nil {
		return t.handle, nil
	}
	f, err := j.tree.open(t.file.Path)
	if err == nil && j.handles.Load() < maxHandles {
		t.handle = f
		j.handles.Add(1)
	}
	return f, err
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

// check proves that the file is what the backup says: the hash over the hashes of all its pages.
func (t *target) check(hasher *repo.Hasher) error {
	if got := t.fileHash(hasher); got != t.file.Hash {
		return fmt.Errorf("%s: %w", t.file.Path, repo.ErrDamaged.WithCause(errors.New("its content is not what the backup says it is")))
	}
	return nil
}

func (t *target) fileHash(hasher *repo.Hasher) repo.Hash {
	all := make([]byte, 0, len(t.hashes)*len(repo.Hash{}))
	for _, h := range t.hashes {
		all = append(all, h[:]...)
	}
	return hasher.Sum(all)
}
