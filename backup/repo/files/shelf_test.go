package files_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo/files"
	"rootstream/backup/repo/pack"
	"rootstream/backup/repo/seal"
)

func entries(n int) []files.File {
	all := []files.File{{Path: "global/pg_control", Kind: files.Regular, Mode: 0o600}, {Path: "base", Kind: files.Dir, Mode: 0o700}}
	for i := range n {
		f := files.File{Path: fmt.Sprintf("base/%d/%d", i%7, 16384+i), Kind: files.Regular, Mode: 0o600, Size: 2*files.PageSize + int64(i%files.PageSize), ModTime: int64(i) * 1e9}
		blob := pack.Blob{Pack: pack.ID{byte(i), byte(i >> 8), 1}, Number: uint32(i), Offset: 100, Stored: 50, Raw: 2 * files.PageSize}
		f.Extents = []files.Extent{{Pages: 2, Blob: blob}}
		if f.Size > 2*files.PageSize {
			f.Extents = append(f.Extents, files.Extent{Page: 2, Pages: 1})
		}
		all = append(all, f)
	}
	return all
}

func TestWhatIsPutOnAShelfIsFoundAndGoneThroughInOrder(t *testing.T) {
	t.Parallel()
	s, err := files.NewShelf()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	all := entries(3000)
	for i, at := range rand.New(rand.NewPCG(1, 2)).Perm(len(all)) {
		if err = s.Write(t.Context(), all[at]); err != nil {
			t.Fatal(err)
		}
		if i%500 == 0 { // also while others are still to come
			if f, failed := s.Find(all[at].Path); failed != nil || f == nil || !cmp.Equal(*f, all[at]) {
				t.Errorf("found %+v of %+v, %v", f, all[at], failed)
			}
		}
	}
	if f, failed := s.Find("base/1/1"); f != nil || failed != nil {
		t.Errorf("found %+v, %v", f, failed)
	}
	if err = s.Write(t.Context(), files.File{Path: "../etc", Kind: files.Dir}); !errors.Is(err, seal.ErrInvalid) {
		t.Errorf("a path that leads elsewhere: %v", err)
	}
	slices.SortFunc(all, func(a, b files.File) int { return pgdata.ComparePaths(a.Path, b.Path) })
	var sorted []files.File
	for f, err := range s.Sorted() {
		if err != nil {
			t.Fatal(err)
		}
		sorted = append(sorted, f)
	}
	if diff := cmp.Diff(all, sorted); diff != "" {
		t.Errorf("(-in order +from the shelf):\n%s", diff)
	}
}

// What no longer fits into memory is in several runs on disk.
func TestAShelfOfManyFilesIsInOrderAndFindsEach(t *testing.T) {
	t.Parallel()
	s, err := files.NewShelf()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	all := entries(60_000)
	for _, at := range rand.New(rand.NewPCG(3, 4)).Perm(len(all)) {
		if err = s.Write(t.Context(), all[at]); err != nil {
			t.Fatal(err)
		}
	}
	for at := 0; at < len(all); at += 997 {
		if f, err := s.Find(all[at].Path); err != nil || f == nil || !cmp.Equal(*f, all[at]) {
			t.Fatalf("found %+v of %+v, %v", f, all[at], err)
		}
	}
	for _, path := range []string{"a", "base/3", "base/3/1", "base/3/999999", "zzz"} {
		if f, err := s.Find(path); f != nil || err != nil {
			t.Errorf("%s: found %+v, %v", path, f, err)
		}
	}
	n, last := 0, ""
	for f, err := range s.Sorted() {
		if err != nil || n > 0 && pgdata.ComparePaths(last, f.Path) >= 0 {
			t.Fatalf("%q after %q, %v", f.Path, last, err)
		}
		n, last = n+1, f.Path
	}
	if n != len(all) {
		t.Errorf("went through %d of %d", n, len(all))
	}
}

func TestAFileThatComesTwiceIsNamed(t *testing.T) {
	t.Parallel()
	for _, apart := range []int{0, 60_000} { // in one run, in two
		s, err := files.NewShelf()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		all := entries(apart + 1)
		for _, f := range append(all, all[2]) {
			if err = s.Write(t.Context(), f); err != nil {
				t.Fatal(err)
			}
		}
		var said error
		for _, err := range s.Sorted() {
			said = errors.Join(said, err)
		}
		if !errors.Is(said, seal.ErrInvalid) || !strings.Contains(said.Error(), all[2].Path) {
			t.Errorf("%d apart: %v", apart, said)
		}
	}
}

// What cannot be read any more is an error, not an end.
func TestAShelfThatIsGoneSaysSo(t *testing.T) {
	t.Parallel()
	s, err := files.NewShelf()
	if err != nil {
		t.Fatal(err)
	}
	if err = s.Write(t.Context(), entries(1)[2]); err != nil {
		t.Fatal(err)
	}
	if err = s.Close(); err != nil {
		t.Fatal(err)
	}
	if f, err := s.Find("base/0/16384"); f != nil || err == nil {
		t.Errorf("found %+v, %v", f, err)
	}
	for f, err := range s.Sorted() {
		if err == nil {
			t.Errorf("went through %+v", f)
		}
	}
}
