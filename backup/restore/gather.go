package restore

import (
	"iter"
	"slices"
	"sync"
	"unsafe"

	"rootstream/backup/pgdata"
)

const (
	partPages = 128 // of a file that are written at once, if they can be
	partBytes = partPages * pgdata.PageSize
	openParts = 64       // are put together at the same time; of more, the oldest is written as far as it came
	writers   = 2        // at a time: the disk is busy, and few processors are
	shortRun  = 64 << 10 // bytes; what is shorter is written by the one who brings it, if nothing has to be waited for
	diskBlock = 4 << 10  // bytes, of any disk
)

// part is a stretch of a file. What has changed since a backup is in another one's blobs, so its pages come from several,
// and are written together.
type part struct {
	mu   sync.Mutex
	left int // pages to come
	draft
}

// draft is what has come of a part.
type draft struct {
	buf  []byte
	have [partPages]bool // pages that are in buf
}

// place names a part.
type place struct {
	to    *target
	index int
}

// gatherer puts parts together and writes them, beside those who bring their pages.
type gatherer struct {
	put     func(t *target, at int64, run []byte) error
	queue   chan chapter
	writers sync.WaitGroup

	mu   sync.Mutex
	open []place // parts with a buffer, oldest first
	free [][]byte
	err  error
}

// chapter is a draft that is written.
type chapter struct {
	place
	draft
}

func beginGathering(put func(*target, int64, []byte) error) *gatherer {
	g := &gatherer{put: put, queue: make(chan chapter, writers)}
	for range writers {
		g.writers.Go(func() {
			for c := range g.queue {
				g.write(c)
			}
		})
	}
	return g
}

// end waits until all is written, and says what went wrong.
func (g *gatherer) end() error {
	close(g.queue)
	g.writers.Wait()
	return g.err
}

// parts goes through the parts that the piece lies in, with what of it lies there.
func (p piece) parts() iter.Seq2[int, piece] {
	return func(yield func(int, piece) bool) {
		for end := p.page + p.pages; p.page < end; {
			p.pages = min(end-p.page, partPages-p.page%partPages)
			if !yield(int(p.page/partPages), p) {
				return
			}
			p.at, p.page = p.at+p.pages, p.page+p.pages
		}
	}
}

// expect notes that the piece will come.
func (p piece) expect() {
	for i, some := range p.parts() {
		part := &p.to.parts[i]
		if part.left == 0 {
			p.to.left.Add(1)
		}
		part.left += int(some.pages)
	}
}

// add takes the pages of a piece.
func (g *gatherer) add(p piece, run []byte) error {
	for i, some := range p.parts() {
		n := min(len(run), int(some.pages)*pgdata.PageSize)
		if err := g.bring(place{p.to, i}, some, run[:n]); err != nil {
			return err
		}
		run = run[n:]
	}
	return nil
}

func (g *gatherer) bring(to place, some piece, run []byte) error {
	p := &to.to.parts[to.index]
	p.mu.Lock()
	if p.buf == nil && p.left == int(some.pages) && len(run) < shortRun {
		p.left = 0
		p.mu.Unlock()
		return g.put(to.to, int64(some.page)*pgdata.PageSize, run)
	}
	if p.buf == nil {
		p.mu.Unlock()
		buf, err := g.take(to)
		if err != nil {
			return err
		}
		p.mu.Lock()
		if p.buf == nil {
			p.buf = buf
		}
	}
	first := int(some.page % partPages)
	copy(p.buf[first*pgdata.PageSize:], run)
	for i := range int(some.pages) {
		p.have[first+i] = true
	}
	p.left -= int(some.pages)
	if p.left > 0 {
		p.mu.Unlock()
		return nil
	}
	whole := chapter{to, p.draft}
	p.draft = draft{}
	p.mu.Unlock()
	g.forget(to)
	g.queue <- whole
	return nil
}

// take returns a buffer for a part.
func (g *gatherer) take(to place) (buf []byte, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.open) >= openParts {
		old := g.open[0]
		g.open = g.open[1:]
		g.mu.Unlock()
		g.interrupt(old)
		g.mu.Lock()
	}
	g.open = append(g.open, to)
	if n := len(g.free); n > 0 {
		buf, g.free = g.free[n-1], g.free[:n-1]
	} else {
		buf = aligned(partBytes)
	}
	return buf, g.err
}

// aligned makes memory that a disk can read from.
func aligned(n int) []byte {
	buf := make([]byte, n+diskBlock)
	if over := offBlock(buf); over > 0 {
		buf = buf[diskBlock-over:]
	}
	return buf[:n:n]
}

// offBlock is how far after a block of memory b begins.
func offBlock(b []byte) int {
	return int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) % diskBlock) //nolint:gosec // nothing is read through it
}

// interrupt has a part written as far as it came.
func (g *gatherer) interrupt(old place) {
	p := &old.to.parts[old.index]
	p.mu.Lock()
	some := chapter{old, p.draft}
	p.draft = draft{}
	if some.buf != nil {
		old.to.left.Add(1) // this is not the last
	}
	p.mu.Unlock()
	if some.buf != nil {
		g.queue <- some
	}
}

func (g *gatherer) forget(p place) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = slices.DeleteFunc(g.open, func(o place) bool { return o == p })
}

// write writes what has come of a part, and keeps its buffer for another.
func (g *gatherer) write(c chapter) {
	g.mu.Lock()
	err := g.err
	g.mu.Unlock()
	if err == nil {
		err = c.write(g.put)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.free = append(g.free, c.buf)
	if g.err == nil {
		g.err = err
	}
}

func (c chapter) write(put func(*target, int64, []byte) error) error {
	begin := int64(c.index) * partBytes
	var runs [][2]int
	for i, here := range c.have {
		switch {
		case !here:
		case i > 0 && c.have[i-1]:
			runs[len(runs)-1][1] = i + 1
		default:
			runs = append(runs, [2]int{i, i + 1})
		}
	}
	c.to.left.Add(int32(len(runs) - 1)) //nolint:gosec // a part has few pages
	for _, r := range runs {
		from, to := int64(r[0])*pgdata.PageSize, min(int64(r[1])*pgdata.PageSize, c.to.file.Size-begin)
		if err := put(c.to, begin+from, c.buf[from:to]); err != nil {
			return err
		}
	}
	return nil
}
