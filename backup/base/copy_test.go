package base_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"rootstream/backup/base"
	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
)

const page = pgdata.PageSize

// rig is a data folder without a server, so that a test decides what happens to files while they are copied.
type rig struct {
	t       *testing.T
	dir     string
	repo    *repo.Repo
	control pgdata.Control
}

func newRig(t *testing.T) *rig {
	t.Helper()
	_, r := newRepo(t)
	return &rig{t: t, dir: t.TempDir(), repo: r, control: pgdata.Control{BlockSize: page, BlocksPerSegment: 131072}}
}

// data returns n random bytes, page after page with a right checksum as if they were a relation's.
func data(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
	}
	for at := 0; at+page <= n; at += page {
		seal(b[at:at+page], uint32(at/page))
	}
	return b
}

func seal(p []byte, number uint32) {
	binary.LittleEndian.PutUint16(p[14:], 8000)
	binary.LittleEndian.PutUint16(p[8:], pgdata.PageChecksum(p, number))
}

func (g *rig) write(name string, content []byte) {
	g.t.Helper()
	full := filepath.Join(g.dir, name)
	if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
		g.t.Fatal(err)
	}
	if err := os.WriteFile(full, content, 0o600); err != nil {
		g.t.Fatal(err)
	}
}

func listed(name string, size int, parent *repo.File) base.Listed {
	e := pgdata.Entry{Path: name, Mode: 0o600, Size: int64(size), ModTime: time.Now().UnixNano()}
	e.Relation, e.Blocks = pgdata.ParseRelation(filepath.Base(name))
	return base.Listed{Entry: e, Parent: parent}
}

// copied copies what was listed and returns the files by name, and the bytes stored.
func (g *rig) copied(entries ...base.Listed) (map[string]repo.File, repo.Manifest, int64) {
	g.t.Helper()
	s, ctx, err := g.repo.Begin(g.t.Context(), repo.RunInfo{Kind: "backup", Lease: "writer"})
	if err != nil {
		g.t.Fatal(err)
	}
	m, err := base.CopyListed(ctx, g.repo, s, base.Folder{Dir: g.dir, Control: g.control, Listed: entries})
	if err != nil {
		g.t.Fatal(err)
	}
	if err = s.Abort(context.WithoutCancel(ctx)); err != nil { // waits for the packs
		g.t.Fatal(err)
	}
	files := map[string]repo.File{}
	for f, err := range g.repo.Files(g.t.Context(), m) {
		if err != nil {
			g.t.Fatal(err)
		}
		files[f.Path] = f
	}
	return files, m, s.Stored()
}

func (g *rig) requireContent(f repo.File, want []byte) {
	g.t.Helper()
	if got := content(g.t, g.repo, f); !bytes.Equal(got, want) {
		g.t.Errorf("%s: %d bytes, want %d, or others", f.Path, len(got), len(want))
	}
}

func TestFilesThatChangeWhileTheyAreCopied(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	small, large := data(1, 3*page), data(2, (2*4096+100)*page) // three units
	g.write("base/1/1001", small)
	g.write("base/1/1002", small)
	g.write("base/1/1003", small[:2*page])
	g.write("base/1/1004", large[:5000*page])
	g.write("base/1/1005", small[:page+100])
	g.write("base/1/1006", nil)
	files, m, _ := g.copied(
		listed("base/1/1001", len(small), nil), // stays
		listed("base/1/1002", page, nil),       // grew
		listed("base/1/1003", len(small), nil), // shrank
		listed("base/1/1004", len(large), nil), // lost its end while its pieces were read
		listed("base/1/1005", page+100, nil),   // ends within a page
		listed("base/1/1006", 0, nil),          // is empty
		listed("base/1/1007", len(small), nil), // vanished
		listed("base/1/1008", 9000*page, nil),  // vanished, in pieces
	)
	g.requireContent(files["base/1/1001"], small)
	g.requireContent(files["base/1/1002"], small[:page])
	g.requireContent(files["base/1/1003"], small[:2*page])
	g.requireContent(files["base/1/1004"], append(slices.Clone(large[:5000*page]), make([]byte, (2*4096-5000)*page)...))
	g.requireContent(files["base/1/1005"], small[:page+100])
	g.requireContent(files["base/1/1006"], nil)
	if len(files) != 6 || m.FileCount != 6 {
		t.Errorf("%d files in the list, the manifest says %d", len(files), m.FileCount)
	}
}

// It was replaced by a longer one between the walk and the copy.
func TestAFileOfSettingsIsNeverCut(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	long := bytes.Repeat([]byte("work_mem = '64MB'\n"), 1000)
	g.write("postgresql.auto.conf", long)
	g.write("pg_logical/replorigin_checkpoint", long[:40])
	files, _, _ := g.copied(listed("pg_logical/replorigin_checkpoint", 8, nil), listed("postgresql.auto.conf", 88, nil))
	g.requireContent(files["postgresql.auto.conf"], long)
	g.requireContent(files["pg_logical/replorigin_checkpoint"], long[:40])
}

func TestOnlyChangedPagesAreStoredAgain(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	before := data(3, 5000*page)
	clear(before[100*page : 140*page])
	g.write("base/1/2001", before)
	files, _, whole := g.copied(listed("base/1/2001", len(before), nil))
	parent := files["base/1/2001"]
	g.requireContent(parent, before)

	after := append(slices.Clone(before), data(4, 10*page+50)...)
	changed := []int{0, 31, 32, 101, 4095, 4096, 4999}
	for _, n := range changed {
		copy(after[n*page:], data(uint64(n+10), page))
	}
	clear(after[200*page : 201*page])
	g.write("base/1/2001", after)
	files, _, added := g.copied(listed("base/1/2001", len(after), &parent))
	f := files["base/1/2001"]
	g.requireContent(f, after)
	pages := len(changed) + 11 // and those added; the one that became zeros needs none
	if limit := int64(pages*page + 2*4096*16 + 8<<10); added > limit {
		t.Errorf("%d changed pages took %d bytes", pages, added)
	}
	packs := map[repo.PackID]bool{}
	for _, e := range parent.Extents {
		packs[e.Blob.Pack] = true
	}
	for _, e := range f.Extents {
		for n := e.Page; n < e.Page+e.Pages; n++ {
			old := int64(n) < 5000 && bytes.Equal(after[n*page:(n+1)*page], before[n*page:(n+1)*page])
			if e.Blob.Raw > 0 && packs[e.Blob.Pack] != old {
				t.Errorf("page %d: unchanged %v, stored with the parent %v", n, old, packs[e.Blob.Pack])
			}
		}
	}
	if whole < int64(len(before))/2 {
		t.Errorf("the first copy took %d bytes", whole)
	}

	_, _, none := g.copied(listed("base/1/2001", len(after), &f))
	if none > 16<<10 {
		t.Errorf("a copy of the same again took %d bytes", none)
	}
}

func TestUnchangedFilesAreNotRead(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.write("base/1/3001", data(5, 20*page))
	entry := listed("base/1/3001", 20*page, nil)
	files, _, _ := g.copied(entry)
	parent := files["base/1/3001"]
	g.write("base/1/3001", data(6, 20*page)) // would be seen by whoever reads it
	entry.Parent = &parent
	files, _, _ = g.copied(entry)
	g.requireContent(files["base/1/3001"], data(5, 20*page))
	entry.Entry.ModTime++
	files, _, _ = g.copied(entry)
	g.requireContent(files["base/1/3001"], data(6, 20*page))
}

func TestWrongPagesAreNamedAndDoNotStopTheCopy(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.control.PageChecksums = true
	bad := data(7, 300*page)
	bad[7*page+1000] ^= 1
	bad[299*page+8] ^= 1
	g.write("base/1/4001", bad)
	g.write("base/1/4001_fsm", make([]byte, 3*page))
	g.write("base/1/PG_VERSION", []byte("15\n"))
	g.write("base/1/pg_filenode.map", data(8, 512))
	second := data(9, 2*page)
	for n := range 2 {
		seal(second[n*page:(n+1)*page], 131072+uint32(n))
	}
	g.write("base/1/4001.1", second)
	files, m, _ := g.copied(listed("base/1/4001", len(bad), nil), listed("base/1/4001.1", len(second), nil), listed("base/1/4001_fsm", 3*page, nil),
		listed("base/1/PG_VERSION", 3, nil), listed("base/1/pg_filenode.map", 512, nil))
	if got := files["base/1/4001"].BadPages; !slices.Equal(got, []uint32{7, 299}) || m.PageErrors != 2 {
		t.Errorf("wrong pages %d, counted %d", got, m.PageErrors)
	}
	g.requireContent(files["base/1/4001"], bad)
	for _, name := range []string{"base/1/4001.1", "base/1/4001_fsm", "base/1/pg_filenode.map"} {
		if len(files[name].BadPages) > 0 {
			t.Errorf("%s: wrong pages %d", name, files[name].BadPages)
		}
	}
	parent := files["base/1/4001"]
	same := listed("base/1/4001", len(bad), &parent)
	same.Entry.ModTime = parent.ModTime
	if _, m, _ = g.copied(same); m.PageErrors != 2 {
		t.Errorf("taken over from the parent: %d wrong pages", m.PageErrors)
	}
	bad[100*page+500] ^= 1
	copy(bad[7*page:], data(70, 8*page)[7*page:])
	g.write("base/1/4001", bad)
	files, m, _ = g.copied(listed("base/1/4001", len(bad), &parent))
	if got := files["base/1/4001"].BadPages; !slices.Equal(got, []uint32{100, 299}) || m.PageErrors != 2 {
		t.Errorf("one mended, one kept, one new: wrong pages %d, counted %d", got, m.PageErrors)
	}
}

// The other half of the page is written while the first look is on.
func TestPageThatIsBeingWrittenIsNotCalledWrong(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.control.PageChecksums = true
	versions := [][]byte{data(10, page), data(11, page)}
	g.write("base/1/5001", versions[0])
	f, err := os.OpenFile(filepath.Join(g.dir, "base/1/5001"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			v := versions[i%2]
			_, _ = f.WriteAt(v[:page/2], 0)
			_, _ = f.WriteAt(v[page/2:], page/2)
		}
	}()
	for range 60 {
		if _, m, _ := g.copied(listed("base/1/5001", page, nil)); m.PageErrors != 0 {
			t.Errorf("%d wrong pages", m.PageErrors)
			break
		}
	}
	close(stop)
	<-stopped
	_ = f.Close()
}

// Files that changed page by page have an extent for each page. The walk does not run ahead with many such, however
// long one before them takes.
func TestTheWalkHoldsFewFilesOfManyPieces(t *testing.T) {
	t.Parallel()
	const files, pieces, most = 20, 100_000, 4 // the one that is held up, two that fit, one that waits
	_, r := newRepo(t)
	s, ctx, err := r.Begin(t.Context(), repo.RunInfo{Kind: "backup", Lease: "writer"})
	if err != nil {
		t.Fatal(err)
	}
	held, pulled := make(base.Stalled), int64(0)
	err = base.CopyAhead(ctx, r, s, held, func(written func() int64) iter.Seq[base.Listed] {
		return func(yield func(base.Listed) bool) {
			for i := range files {
				if pulled++; pulled == most {
					close(held)
				}
				if ahead := pulled - written(); ahead > most {
					t.Errorf("it is %d files ahead", ahead)
				}
				l := base.Listed{Entry: pgdata.Entry{Path: fmt.Sprintf("f%03d", i), Size: page, ModTime: 1}}
				if i > 0 {
					l.Entry.Size, l.Parent = pieces*page, inPieces(l.Entry.Path, pieces)
				}
				if !yield(l) {
					return
				}
			}
		}
	})
	if err = errors.Join(err, s.Abort(t.Context())); err != nil || pulled != files {
		t.Errorf("%d of %d files: %v", pulled, files, err)
	}
}

// inPieces is a file, each of whose pages is in a blob of its own.
func inPieces(path string, pages uint32) *repo.File {
	f := &repo.File{Path: path, Kind: repo.Regular, ModTime: 1, Size: int64(pages) * page, Extents: make([]repo.Extent, pages)}
	for i := range pages {
		f.Extents[i] = repo.Extent{Page: i, Pages: 1, Blob: repo.Blob{Pack: repo.PackID{15: 1}, Number: i, Stored: 100, Raw: page}}
	}
	return f
}

// Whoever is listened to need not say anything more: that a worker has failed is noticed at once.
func TestAWorkerThatFailsEndsTheWalk(t *testing.T) {
	t.Parallel()
	_, r := newRepo(t)
	s, ctx, err := r.Begin(t.Context(), repo.RunInfo{Kind: "backup", Lease: "writer"})
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	err = base.CopyBroken(ctx, r, s, base.Broken{Err: broken}, pgdata.Entry{Path: "base/1/2", Size: page})
	if !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if err := s.Abort(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestEveryDoubtfulPageIsCountedHoweverMany(t *testing.T) {
	t.Parallel()
	const many, most = 1<<16 + 9, 1 << 16
	for stop, want := range map[wal.LSN][2]int64{
		0x5_0000_0000: {most, 9}, // they claim to have been written after all was over
		0x7_0000_0000: {0, 9},    // or not: then those that are remembered are excused
	} {
		named, unnamed, err := base.Doubted(t.Context(), many, 0x6_0000_0001, stop)
		if err != nil || named != want[0] || unnamed != want[1] {
			t.Errorf("up to %v, %d are named and %d are not, %v; want %d", stop, named, unnamed, err, want)
		}
	}
}
