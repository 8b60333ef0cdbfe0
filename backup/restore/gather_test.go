package restore

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/internal/proc"
	"rootstream/tests/harness"
)

// sheet is a file in memory, each page of which is written at most once.
type sheet struct {
	mu      sync.Mutex
	content []byte
	puts    int
	twice   int // pages
}

func (s *sheet) put(_ *target, at int64, run []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 0; i < len(run); i += pgdata.PageSize {
		if s.content[at+int64(i)] != 0 {
			s.twice++
		}
	}
	copy(s.content[at:], run)
	s.puts++
	return nil
}

// scattered are pieces of random length of a file, in an order that is random within some distance.
func scattered(rng *rand.Rand, to *target, distance int) []piece {
	var all []piece
	for page := uint32(0); int(page) < len(to.hashes); {
		n := min(1+uint32(rng.IntN(300)), uint32(len(to.hashes))-page)
		if rng.IntN(10) > 0 { // else it is there already
			all = append(all, piece{to: to, page: page, pages: n})
		}
		page += n
	}
	for i := range all {
		k := min(len(all)-1, i+rng.IntN(distance))
		all[i], all[k] = all[k], all[i]
	}
	return all
}

func TestPagesThatComeInAnyOrderAreAllWrittenOnce(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(harness.Seed(t), 21))
	for _, distance := range []int{1, 20, 2000} {
		size := int64(openParts*3/2*partBytes + rng.IntN(3*partBytes))
		to := &target{file: repo.File{Size: size}, hashes: make([]repo.Hash, pagesOf(size)), parts: make([]part, pagesOf(size)/partPages+1)}
		pieces := scattered(rng, to, distance)
		s := &sheet{content: make([]byte, size)}
		g := beginGathering(func(to *target, at int64, run []byte) error {
			defer to.left.Add(-1)
			return s.put(to, at, run)
		})
		want := make([]byte, size)
		for _, p := range pieces {
			p.expect()
			for i := range p.pages {
				at := int64(p.page+i) * pgdata.PageSize
				copy(want[at:], bytes.Repeat([]byte{byte(1 + (p.page+i)%251)}, int(to.size(p.page+i))))
			}
		}
		var workers sync.WaitGroup
		for w := range 3 {
			workers.Go(func() {
				for i := w; i < len(pieces); i += 3 {
					p := pieces[i]
					at := int64(p.page) * pgdata.PageSize
					if err := g.add(p, want[at:at+p.bytes()]); err != nil {
						t.Error(err)
					}
				}
			})
		}
		workers.Wait()
		if err := g.end(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(s.content, want) || s.twice > 0 || to.left.Load() != 0 || len(g.open) > 0 {
			t.Errorf("distance %d: the same %v, %d pages twice, %d writes to come, %d parts open", distance, bytes.Equal(s.content, want), s.twice, to.left.Load(), len(g.open))
		}
		if few := len(to.parts) * 2; distance == 1 && s.puts > few {
			t.Errorf("%d writes, more than %d, of pages that come in order", s.puts, few)
		}
	}
}

func TestAWriteThatFailsIsSaid(t *testing.T) {
	t.Parallel()
	broken := errors.New("the disk is full")
	to := &target{file: repo.File{Size: 4 * partBytes}, hashes: make([]repo.Hash, 4*partPages), parts: make([]part, 4)}
	g := beginGathering(func(*target, int64, []byte) error { return broken })
	whole := piece{to: to, pages: 4 * partPages}
	whole.expect()
	said := g.add(whole, make([]byte, 4*partBytes))
	if err := g.end(); !errors.Is(errors.Join(said, err), broken) {
		t.Errorf("%v, %v", said, err)
	}
}

// What a disk does not take past the cache is written nonetheless.
func TestWhatIsNoWholeBlockIsWrittenToo(t *testing.T) {
	t.Parallel()
	us, err := proc.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	tr, err := openTree(dir, us, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{100, 3 * partBytes / 2} { // one that is never opened so, and one that is
		j := &Job{tree: tr, Config: Config{NoSync: size < partBytes}}
		to := &target{file: repo.File{Path: "f", Size: size}, hashes: make([]repo.Hash, pagesOf(size))}
		to.left.Store(3)
		f, made := j.handle(to)
		if made != nil {
			t.Fatal(made)
		}
		direct, none := tr.openDirect("f")
		if errors.Is(none, unix.EINVAL) { // this disk takes nothing so
			direct, none = tr.open("f")
		}
		if none != nil {
			t.Fatal(none)
		}
		failed := errors.Join(j.writeAt(to, direct, []byte("rootstream"), 3), direct.Close(), j.writeAt(to, f, []byte("!"), 13))
		j.abandon(to)
		got, unread := os.ReadFile(filepath.Join(dir, "f"))
		if err := errors.Join(failed, unread); err != nil {
			t.Fatal(err)
		}
		if want := append([]byte("\x00\x00\x00rootstream!"), make([]byte, size-14)...); string(got) != string(want) {
			t.Errorf("%d bytes: %q", len(got), got[:20])
		}
	}
	if err := tr.close(); err != nil {
		t.Fatal(err)
	}
}

// Each blob is read once, and what one file needs by one after the other.
func TestAnAgendaHasEverythingOnce(t *testing.T) {
	t.Parallel()
	var w window
	number := uint32(0)
	add := func(name string, pages, each uint32) {
		f := repo.File{Path: name, Kind: repo.Regular, Size: int64(pages) * pgdata.PageSize}
		for page := uint32(0); page < pages; page += each {
			n := min(each, pages-page)
			f.Extents = append(f.Extents, repo.Extent{Page: page, Pages: n, Blob: repo.Blob{Number: number, Stored: 9000, Raw: n * pgdata.PageSize}})
			number++
		}
		w.add(f)
	}
	add("base/1/1", 3, 1)
	add("base/1/2", 40_000, 128)
	add("base/1/3", 20_000, 128)
	for i := range 3000 {
		add("base/1/4", 1+uint32(i%7), 8)
	}
	zeros, content := w.wanted()
	if len(zeros) > 0 || len(content) != int(number) {
		t.Fatalf("%d blobs of %d, %d zeros", len(content), number, len(zeros))
	}
	a := newAgenda(content)
	first, some := a.next(nil)
	second, others := a.next(nil)
	if some[0].pieces[0].to.file.Path != "base/1/2" || others[0].pieces[0].to.file.Size > batchPlain {
		t.Errorf("one begins with %v, the other with %v", some[0].pieces[0].to.file.Path, others[0].pieces[0].to.file.Path)
	}
	seen := map[uint32]int{}
	count := func(some []portion) {
		for _, p := range some {
			seen[p.blob.Number]++
		}
	}
	count(some)
	count(others)
	for first != nil || second != nil {
		if first != nil {
			if first, some = a.next(first); first != nil {
				count(some)
			}
		}
		if second != nil {
			if second, some = a.next(second); second != nil {
				count(some)
			}
		}
	}
	for n, times := range seen {
		if times != 1 {
			t.Errorf("blob %d is read %d times", n, times)
		}
	}
	if len(seen) != int(number) {
		t.Errorf("%d blobs of %d are read", len(seen), number)
	}
}
