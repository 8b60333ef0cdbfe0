package base

import (
	"context"
	"errors"
	"iter"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/internal/wait"
)

const (
	pageSize   = pgdata.PageSize
	chunkPages = 32      // read, hashed and, if all of it is new, stored together
	unitPages  = 4096    // one worker's piece of a file; its page hashes are one blob
	fewPages   = 8       // a file of so many has no list of page hashes
	window     = 128     // units begun and not yet written down: bounds memory
	pieces     = 1 << 18 // extents of files begun and not yet written down, as far as known before: likewise; one per page in a file that changed page by page
	chunkBytes = chunkPages * pageSize
)

// copier copies a data folder. One goroutine walks, workers read and store pieces of files (units), one writes down
// what has become of each file, in the order of the walk.
type copier struct {
	source  source
	r       *repo.Repo
	s       *repo.Session
	control pgdata.Control
	workers int
	lanes   repo.Compression
	trust   bool // files whose time and size are the parent's are not read
	find    func(repo.Hash) (repo.Blob, bool)
	pace    *pace
	done    *progress

	zero  repo.Hash     // of a page of zeros
	units chan *unit    // to be read
	slots chan struct{} // held by units from their beginning until they are written down
	order chan *item
	room  *semaphore.Weighted // for what is known of files that are not yet written down
	freed chan struct{}       // there is more of it
	nudge chan struct{}       // the walk waits: whoever has nothing to do gives up waiting for more pages
}

// fileList is where files are written down.
type fileList interface {
	Write(ctx context.Context, f repo.File) error
}

// item is a file on its way to the list.
type item struct {
	file   repo.File
	parent *repo.File
	entry  pgdata.Entry
	units  []*unit // none: the file is known already
	weight int64   // extents that are known of it before it is read
}

// unit is a piece of a file.
type unit struct {
	item  *item
	first uint32 // page
	size  int64  // bytes to read
	last  bool

	chunks chan []byte // its content, if that is brought

	got     int64
	gone    bool // the file vanished
	hashes  []byte
	list    repo.Blob // holds hashes
	extents []repo.Extent
	bad     []uint32

	left atomic.Int32 // who still fills in something
	done chan struct{}
}

func (u *unit) release() {
	if u.left.Add(-1) == 0 {
		close(u.done)
	}
}

// walker goes through what there is to copy. Its context ends with the first worker that fails.
type walker func(context.Context) iter.Seq2[pair, error]

// run copies what the walk finds, but for pg_control, and writes the list of files. It returns how many pages are bad.
func (c *copier) run(ctx context.Context, pairs walker, list fileList) (int64, error) {
	c.zero = c.r.NewHasher().Sum(make([]byte, pageSize))
	c.units, c.order = make(chan *unit, window), make(chan *item, window)
	c.slots, c.nudge = make(chan struct{}, window), make(chan struct{}, 1)
	c.room, c.freed = semaphore.NewWeighted(pieces), make(chan struct{}, 1)
	var bad int64
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(c.order)
		defer close(c.units)
		return c.walk(ctx, pairs(ctx))
	})
	for range c.workers {
		group.Go(func() error { return c.work(ctx) })
	}
	group.Go(func() (err error) {
		bad, err = c.write(ctx, list)
		return err
	})
	return bad, group.Wait()
}

func (c *copier) walk(ctx context.Context, pairs iter.Seq2[pair, error]) error {
	for p, err := range pairs {
		if err != nil {
			return err
		}
		if p.entry.Path == pgdata.ControlPath {
			continue
		}
		it := c.item(p)
		if err := c.makeRoom(ctx, it); err != nil {
			return err
		}
		if err := put(ctx, c, c.order, it); err != nil {
			return err
		}
		for _, u := range it.units {
			if err := put(ctx, c, c.slots, struct{}{}); err != nil {
				return err
			}
			c.units <- u // as many fit as there are slots
			if p.feed == nil {
				continue
			}
			if err := p.feed(ctx, u); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeRoom waits until what is known of the item fits in beside what waits to be written down, as [put] does.
func (c *copier) makeRoom(ctx context.Context, it *item) error {
	it.weight = int64(len(it.file.Extents))
	if it.parent != nil {
		it.weight = int64(len(it.parent.Extents))
	}
	it.weight = min(it.weight, pieces)
	for !c.room.TryAcquire(it.weight) {
		select {
		case <-c.freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case c.nudge <- struct{}{}:
		}
	}
	return nil
}

// put sends; if it has to wait, so that workers may be what it waits for, it tells them.
func put[T any](ctx context.Context, c *copier, ch chan T, v T) error {
	for {
		select {
		case ch <- v:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		default:
		}
		select {
		case ch <- v:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case c.nudge <- struct{}{}:
		}
	}
}

// item prepares an entry: what the parent has of it is taken over, or it is cut into units.
func (c *copier) item(p pair) *item {
	e := p.entry
	f := repo.File{Path: e.Path, Mode: e.Mode, ModTime: e.ModTime, Size: e.Size, Target: e.Target}
	switch e.Kind {
	case pgdata.Dir:
		f.Kind, f.ModTime = repo.Dir, 0
		return &item{file: f}
	case pgdata.Symlink:
		f.Kind, f.ModTime = repo.Symlink, 0
		return &item{file: f}
	case pgdata.Regular:
		f.Kind = repo.Regular
	}
	if c.trust && unchanged(e, p.parent) && c.mayReuse(p.parent) {
		f.Hash, f.Extents, f.Hashes, f.BadPages = p.parent.Hash, p.parent.Extents, p.parent.Hashes, p.parent.BadPages
		return &item{file: f, entry: e}
	}
	it := &item{file: f, entry: e, parent: p.parent}
	if p.parent != nil && p.parent.Kind != repo.Regular {
		it.parent = nil
	}
	const unitBytes = unitPages * pageSize
	for at := int64(0); at == 0 || at < e.Size; at += unitBytes {
		u := &unit{item: it, first: uint32(at / pageSize), size: min(unitBytes, e.Size-at), done: make(chan struct{})}
		u.last = at+u.size == e.Size
		u.left.Store(1)
		if p.feed != nil {
			u.chunks = make(chan []byte, (u.size+chunkBytes-1)/chunkBytes)
		}
		it.units = append(it.units, u)
	}
	return it
}

// mayReuse reports whether nothing that a file needs is about to be deleted.
func (c *copier) mayReuse(f *repo.File) bool {
	for _, e := range f.Extents {
		if e.Blob.Raw > 0 && !c.s.MayReuse(e.Blob.Pack) {
			return false
		}
	}
	for _, b := range f.Hashes {
		if !c.s.MayReuse(b.Pack) {
			return false
		}
	}
	return true
}

// write writes down the items in their order.
func (c *copier) write(ctx context.Context, list fileList) (bad int64, err error) {
	hasher := c.r.NewHasher()
	for {
		var it *item
		select {
		case it = <-c.order:
		case <-ctx.Done():
			return bad, context.Cause(ctx)
		}
		if it == nil {
			return bad, nil
		}
		there, err := c.finish(ctx, it, hasher)
		if err != nil {
			return bad, err
		}
		if there {
			if err := list.Write(ctx, it.file); err != nil {
				return bad, err
			}
			bad += int64(len(it.file.BadPages))
			c.done.files.Add(1)
		}
		if len(it.units) == 0 {
			c.done.bytes.Add(it.file.Size)
		}
		c.room.Release(it.weight)
		wait.Wake(c.freed)
	}
}

var errHole = errors.New("a piece of a file was read beyond its end")

// finish puts a file together from its units; false if it vanished.
func (c *copier) finish(ctx context.Context, it *item, hasher *repo.Hasher) (bool, error) {
	if len(it.units) == 0 {
		return true, nil
	}
	f, there := &it.file, true
	var hashes []byte
	f.Size = 0
	for i, u := range it.units {
		select {
		case <-u.done:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
		<-c.slots
		it.units[i] = nil
		if there = there && !u.gone; !there {
			continue
		}
		if u.got > 0 && f.Size != int64(u.first)*pageSize {
			return false, errHole
		}
		f.Size += u.got
		hashes = append(hashes, u.hashes...)
		for _, e := range u.extents {
			f.Extents = extend(f.Extents, e)
		}
		f.BadPages = append(f.BadPages, u.bad...)
		if u.list.Raw > 0 {
			f.Hashes = append(f.Hashes, u.list)
		}
	}
	f.Hash = hasher.Sum(hashes)
	return there, nil
}

// extend appends a run of pages, as part of the run before if it goes on where that one ends.
func extend(all []repo.Extent, e repo.Extent) []repo.Extent {
	if n := len(all); n > 0 {
		p := &all[n-1]
		zeros := p.Blob.Raw == 0 && e.Blob.Raw == 0
		if p.Page+p.Pages == e.Page && (zeros || p.Blob == e.Blob && p.At+p.Pages == e.At) {
			p.Pages += e.Pages
			return all
		}
	}
	return append(all, e)
}
