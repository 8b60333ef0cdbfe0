package base

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
)

// worker reads units and stores what is new in them. Pages that are new among old ones, of whatever files, share blobs.
type worker struct {
	c      *copier
	lane   *repo.Lane
	hasher *repo.Hasher
	buf    []byte

	shared  []byte // new pages that wait for more
	waiting []pending
	marks   [chunkPages]mark
	known   []byte // the parent's hashes of a unit's pages
}

// pending is an extent whose blob is not yet stored.
type pending struct {
	u      *unit
	extent int
}

// notYet stands for the blob of a pending extent: with none at all its pages would be zeros.
var notYet = repo.Blob{Raw: math.MaxUint32} //nolint:gochecknoglobals // a constant

// mark is what is to be done with a page.
type mark uint8

const (
	fresh mark = iota // store it
	same              // the parent has it
	zeros
)

func (c *copier) work(ctx context.Context) error {
	lane, err := c.s.NewLane(c.lanes)
	if err != nil {
		return err
	}
	w := &worker{c: c, lane: lane, hasher: c.r.NewHasher(), buf: make([]byte, chunkBytes)}
	for {
		u, err := w.next(ctx)
		if err != nil {
			return err
		}
		if u == nil {
			return errors.Join(w.flush(ctx), lane.Close(ctx))
		}
		if err := w.unit(ctx, u); err != nil {
			return fmt.Errorf("%s: %w", u.item.entry.Path, err)
		}
	}
}

// next returns the next unit, nil after the last. If there is none and the walk waits for those at hand, they are
// stored without waiting for more.
func (w *worker) next(ctx context.Context) (*unit, error) {
	for {
		select {
		case u := <-w.c.units:
			return u, nil
		default:
		}
		select {
		case u := <-w.c.units:
			return u, nil
		case <-w.c.nudge:
			if err := w.flush(ctx); err != nil {
				return nil, err
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// unit reads a unit; a file that is gone is one that recovery drops.
func (w *worker) unit(ctx context.Context, u *unit) error {
	defer u.release()
	from, err := w.c.source.open(u)
	if errors.Is(err, fs.ErrNotExist) {
		u.gone = true
		return nil
	}
	if err != nil {
		return err
	}
	defer from.close()
	if err := w.recall(ctx, u); err != nil {
		return err
	}
	for at := int64(0); at < u.size; at += chunkBytes {
		want := min(chunkBytes, u.size-at)
		if err := w.c.pace.wait(ctx, int(want)); err != nil {
			return err
		}
		data, err := from.next(ctx, w.buf[:want])
		if err != nil {
			return err
		}
		w.c.done.bytes.Add(want)
		if len(data) > 0 {
			err = w.chunk(ctx, from, u, data)
		}
		if err != nil {
			return err
		}
		if len(data) < chunkBytes {
			break // the end; what is added from now on is in the log
		}
	}
	return w.hashes(ctx, u)
}

// recall fetches the parent's hashes of the unit's pages, if it has a list.
func (w *worker) recall(ctx context.Context, u *unit) (err error) {
	w.known = w.known[:0]
	p, i := u.item.parent, int(u.first/unitPages)
	if p == nil || i >= len(p.Hashes) {
		return nil
	}
	w.known, err = w.c.r.Read(ctx, p.Hashes[i], w.known)
	return err
}

// chunk hashes, compares and stores up to 32 pages.
func (w *worker) chunk(ctx context.Context, from content, u *unit, data []byte) error {
	first := u.first + uint32(u.got/pageSize) //nolint:gosec // no file has 2^32 pages
	begin := len(u.hashes)
	for i, page := range pages(data) {
		var hash repo.Hash
		hash, w.marks[i] = w.judge(u, first+uint32(i), page) //nolint:gosec // at most 31
		u.hashes = append(u.hashes, hash[:]...)
	}
	if err := w.verify(ctx, from, u, data, first); err != nil {
		return err
	}
	u.got += int64(len(data))
	hashes := u.hashes[begin:]
	if done := w.wholeAsBefore(u, hashes); done {
		return nil
	}
	count := len(hashes) / len(repo.Hash{})
	if !slices.ContainsFunc(w.marks[:count], func(m mark) bool { return m != fresh }) && (count > fewPages || u.item.parent == nil) {
		return w.whole(ctx, u, first, data, hashes)
	}
	return w.mixed(ctx, u, first, data, count)
}

// judge returns the hash of a page and what to do with it.
func (w *worker) judge(u *unit, number uint32, page []byte) (repo.Hash, mark) {
	if len(page) == pageSize && pgdata.IsZero(page) {
		return w.c.zero, zeros
	}
	hash := w.hasher.Sum(page)
	at := int(number-u.first) * len(hash)
	if at+len(hash) <= len(w.known) && bytes.Equal(hash[:], w.known[at:at+len(hash)]) {
		if e, found := parentExtent(u.item.parent, number); found && (e.Blob.Raw == 0 || w.c.s.MayReuse(e.Blob.Pack)) {
			return hash, same
		}
	}
	return hash, fresh
}

// wholeAsBefore takes over a small file, whose page hashes the parent does not list, if all of it is as it was.
func (w *worker) wholeAsBefore(u *unit, hashes []byte) bool {
	p := u.item.parent
	if p == nil || len(p.Hashes) > 0 || u.first > 0 || u.got != u.size || u.got != p.Size || u.got > chunkBytes {
		return false
	}
	if w.hasher.Sum(hashes) != p.Hash || !w.c.mayReuse(p) {
		return false
	}
	u.extents = append(u.extents, p.Extents...)
	return true
}

// whole stores a chunk as a blob of its own, unless one like it is known.
func (w *worker) whole(ctx context.Context, u *unit, first uint32, data, hashes []byte) error {
	hash := w.hasher.Sum(hashes)
	blob, found := w.c.find(hash)
	if !found || int(blob.Raw) != len(data) || !w.c.s.MayReuse(blob.Pack) {
		var err error
		if blob, err = w.lane.Add(ctx, hash, data); err != nil {
			return err
		}
	}
	u.extents = append(u.extents, repo.Extent{Page: first, Pages: uint32(len(hashes) / len(hash)), Blob: blob}) //nolint:gosec // at most 32
	return nil
}

// mixed goes through a chunk that is not all new.
func (w *worker) mixed(ctx context.Context, u *unit, first uint32, data []byte, count int) error {
	for i := 0; i < count; {
		n := i + 1
		for n < count && w.marks[n] == w.marks[i] {
			n++
		}
		page, run := first+uint32(i), uint32(n-i) //nolint:gosec // at most 32
		switch w.marks[i] {
		case zeros:
			u.extents = extend(u.extents, repo.Extent{Page: page, Pages: run})
		case same:
			for e := range parentExtents(u.item.parent, page, run) {
				u.extents = extend(u.extents, e)
			}
		case fresh:
			if err := w.share(ctx, u, page, data[i*pageSize:min(n*pageSize, len(data))]); err != nil {
				return err
			}
		}
		i = n
	}
	return nil
}

// share puts new pages with others into a blob that is stored when it is full.
func (w *worker) share(ctx context.Context, u *unit, page uint32, data []byte) error {
	for len(data) > 0 {
		room := data[:min(len(data), chunkBytes-len(w.shared))]
		count := uint32((len(room) + pageSize - 1) / pageSize) //nolint:gosec // at most 32
		if n := len(w.waiting); n == 0 || w.waiting[n-1].u != u {
			u.left.Add(1)
		}
		w.waiting = append(w.waiting, pending{u, len(u.extents)})
		u.extents = append(u.extents, repo.Extent{Page: page, Pages: count, Blob: notYet, At: uint32(len(w.shared) / pageSize)}) //nolint:gosec // at most 31
		w.shared = append(w.shared, room...)
		if short := len(w.shared) % pageSize; short > 0 {
			w.shared = append(w.shared, make([]byte, pageSize-short)...)
		}
		page, data = page+count, data[len(room):]
		if len(w.shared) == chunkBytes {
			if err := w.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush stores the pages that have come together, and tells their units where.
func (w *worker) flush(ctx context.Context) error {
	if len(w.shared) == 0 {
		return nil
	}
	blob, err := w.lane.Add(ctx, repo.Hash{}, w.shared)
	if err != nil {
		return err
	}
	var last *unit
	for _, p := range w.waiting {
		p.u.extents[p.extent].Blob = blob
		if last != nil && last != p.u {
			last.release()
		}
		last = p.u
	}
	last.release()
	w.shared, w.waiting = w.shared[:0], w.waiting[:0]
	return nil
}

// hashes stores the list of the unit's page hashes, if the file is not a small one.
func (w *worker) hashes(ctx context.Context, u *unit) (err error) {
	if u.first == 0 && u.got <= fewPages*pageSize || len(u.hashes) == 0 {
		return nil
	}
	if bytes.Equal(u.hashes, w.known) {
		if list := u.item.parent.Hashes[u.first/unitPages]; w.c.s.MayReuse(list.Pack) {
			u.list = list
			return nil
		}
	}
	u.list, err = w.lane.Add(ctx, repo.Hash{}, u.hashes)
	return err
}

// verify checks the checksums of a relation's new pages; what is known of those that the parent has still holds. A page
// may be half written when it is read; recovery replaces it whatever it holds. Any other is damage on disk.
func (w *worker) verify(ctx context.Context, from content, u *unit, data []byte, first uint32) error {
	c, e := w.c.control, u.item.entry
	if !c.PageChecksums || !e.Blocks {
		return nil
	}
	size := int(c.BlockSize)
	base := e.Relation.Segment*c.BlocksPerSegment + uint32(int64(first)*pageSize/int64(size)) //nolint:gosec // block numbers have 32 bits
	for i := 0; (i+1)*size <= len(data); i++ {
		at, to := i*size/pageSize, ((i+1)*size-1)/pageSize+1 // its pages
		page := first + uint32(at)                           //nolint:gosec // page numbers have 32 bits
		if !slices.Contains(w.marks[at:to], fresh) {
			if p := u.item.parent; w.marks[at] == same && slices.Contains(p.BadPages, page) {
				u.bad = append(u.bad, page)
			}
			continue
		}
		block := data[i*size : (i+1)*size]
		if pgdata.CheckPage(block, base+uint32(i)) != pgdata.Torn {
			continue
		}
		ok, err := from.excused(ctx, block, int64(first)*pageSize+int64(i*size))
		if err != nil {
			return err
		}
		if !ok {
			u.bad = append(u.bad, page)
			continue
		}
		for n := at; n < to; n++ { // it may have been read again
			var hash repo.Hash
			number := first + uint32(n) //nolint:gosec // page numbers have 32 bits
			hash, w.marks[n] = w.judge(u, number, data[n*pageSize:min((n+1)*pageSize, len(data))])
			copy(u.hashes[int(number-u.first)*len(hash):], hash[:])
		}
	}
	return nil
}
