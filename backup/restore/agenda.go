package restore

import (
	"cmp"
	"slices"
	"sync"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
)

// A batch is read at a time by one worker.
const (
	batchStored = 4 << 20  // bytes in the repository, about
	batchPlain  = 64 << 20 // bytes of pages, about
)

// portion is a blob and the runs of pages that come from it.
type portion struct {
	blob   repo.Blob
	pieces []piece
}

// wanted returns the runs that have to be written: those of zeros, which no blob holds, and all others by blob, in the
// order in which the files need them first.
func (w *window) wanted() (zeros []piece, content []portion) {
	type key struct {
		pack   repo.PackID
		number uint32
	}
	known := map[key]int{}
	for _, t := range w.files {
		t.parts = make([]part, (len(t.hashes)+partPages-1)/partPages)
		for _, e := range t.file.Extents {
			for p := range (piece{t, e.At, e.Page, e.Pages}).missing() {
				if blank(e) {
					t.left.Add(1)
					zeros = append(zeros, p)
					continue
				}
				p.expect()
				k := key{e.Blob.Pack, e.Blob.Number}
				i, ok := known[k]
				if !ok {
					i = len(content)
					known[k] = i
					content = append(content, portion{blob: e.Blob})
				}
				content[i].pieces = append(content[i].pieces, p)
			}
		}
	}
	return zeros, content
}

// agenda says what is read next. What a file needs is read by one worker after the other in it, so that its pages come
// close to each other in time; others begin with other files.
type agenda struct {
	mu      sync.Mutex
	lanes   []*lane // by size
	largest *lane   // that somebody is at
}

// lane is what one large file needs, or some small ones.
type lane struct {
	batches [][]portion
	bytes   int64
	busy    bool
}

func newAgenda(content []portion) *agenda {
	a := &agenda{}
	var last *lane
	var file *target
	var stored, plain int64 // of the last batch
	for _, p := range content {
		to, n := p.pieces[0].to, p.bytes()
		large := to.file.Size > batchPlain
		if last == nil || to != file && (large || file.file.Size > batchPlain) {
			last = &lane{batches: [][]portion{nil}}
			a.lanes = append(a.lanes, last)
			stored, plain = 0, 0
		}
		if stored >= batchStored || plain >= batchPlain {
			if last.batches = append(last.batches, nil); !large { // others may go on there
				last.batches = last.batches[:len(last.batches)-1]
				last = &lane{batches: [][]portion{nil}}
				a.lanes = append(a.lanes, last)
			}
			stored, plain = 0, 0
		}
		end := len(last.batches) - 1
		last.batches[end] = append(last.batches[end], p)
		stored, plain, file = stored+int64(p.blob.Stored), plain+n, to
		last.bytes += n
	}
	slices.SortStableFunc(a.lanes, func(a, b *lane) int { return cmp.Compare(a.bytes, b.bytes) })
	return a
}

func (p portion) bytes() (sum int64) {
	for _, x := range p.pieces {
		sum += int64(x.pages) * pgdata.PageSize
	}
	return sum
}

// next returns the next batch for the one who was at a lane, nil at first. One is at the largest file, which keeps the
// disk busy, the others begin with small files, which keep processors busy. Who finds all lanes taken helps.
func (a *agenda) next(at *lane) (*lane, []portion) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if at == nil || len(at.batches) == 0 {
		if at != nil && a.largest == at {
			a.largest = nil
		}
		a.lanes = slices.DeleteFunc(a.lanes, func(l *lane) bool { return len(l.batches) == 0 })
		if at = a.choose(); at == nil {
			return nil, nil
		}
		at.busy = true
	}
	some := at.batches[0]
	at.batches = at.batches[1:]
	return at, some
}

func (a *agenda) choose() *lane {
	free := func(l *lane) bool { return !l.busy }
	if i := slices.IndexFunc(a.lanes, free); i >= 0 {
		if a.largest != nil {
			return a.lanes[i]
		}
		for _, l := range slices.Backward(a.lanes) {
			if free(l) {
				a.largest = l
				return l
			}
		}
	}
	if len(a.lanes) == 0 {
		return nil
	}
	return slices.MaxFunc(a.lanes, func(a, b *lane) int { return cmp.Compare(len(a.batches), len(b.batches)) })
}
