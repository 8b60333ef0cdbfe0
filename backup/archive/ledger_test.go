package archive_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rootstream/backup/archive"
	"rootstream/backup/archive/ledger"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
	"rootstream/errs"
)

func TestTheLedgerTellsFoundFromMissing(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	s := shelf{t, r}
	s.segments(1, 2, 3, 5)
	s.piece(6, 0, 1000)
	s.segments(2, 7, 8)
	s.history("1\t0/600200\tx\n") // within segment 6, of which timeline 2 has nothing
	l, err := ledger.Load(t.Context(), r, someSystem)
	if err != nil {
		t.Fatal(err)
	}
	entry := func(tli wal.TimelineID, from, to wal.LSN, status string) ledger.Entry {
		return ledger.Entry{Range: wal.Range{Timeline: tli, From: from, To: to}, Status: status}
	}
	want := []ledger.Entry{
		entry(1, 0x200000, 0x400000, ledger.Found), entry(1, 0x400000, 0x500000, ledger.Missing),
		entry(1, 0x500000, 0x600000, ledger.Found), entry(1, 0x600000, 0x6003E8, ledger.Partial),
		entry(2, 0x600000, 0x700000, ledger.Missing), entry(2, 0x700000, 0x900000, ledger.Found),
	}
	have := l.Entries()
	for i := range max(len(have), len(want)) {
		if i >= len(have) || i >= len(want) || have[i] != want[i] {
			t.Fatalf("%v\nnot %v", have, want)
		}
	}
	for _, c := range []struct {
		rng wal.Range
		gap bool
	}{
		{wal.Range{Timeline: 1, From: 0x200000, To: 0x400000}, false},
		{wal.Range{Timeline: 1, From: 0x200000, To: 0x400001}, true},
		{wal.Range{Timeline: 1, From: 0x500010, To: 0x6003E8}, false},
		{wal.Range{Timeline: 2, From: 0x500010, To: 0x600200}, false}, // timeline 1 leads there
		{wal.Range{Timeline: 2, From: 0x500010, To: 0x600201}, true},
		{wal.Range{Timeline: 2, From: 0x700000, To: 0x900000}, false},
		{wal.Range{Timeline: 3, From: 0x700000, To: 0x800000}, true},
	} {
		if err = l.Contiguous(c.rng); errors.Is(err, ledger.ErrGap) != c.gap || (err != nil) != c.gap {
			t.Errorf("%v: %v", c.rng, err)
		}
		ctx, cancel := contextOf(t)
		err = ledger.Wait(ctx, r, someSystem, 1<<20, c.rng)
		cancel()
		if errors.Is(err, ledger.ErrGap) != c.gap || (err != nil) != c.gap {
			t.Errorf("waiting for %v: %v", c.rng, err)
		}
	}
	status := l.Status(&ledger.Server{SystemID: someSystem, LSN: 0x900010})
	if status.Gaps != 2 || status.Sound() || status.Timeline != 2 || status.Archived != 0x900000 || status.Behind != 16 {
		t.Errorf("%+v", status)
	}
}

func TestAnEmptyLedgerHasNoGaps(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	l, err := ledger.Load(t.Context(), r, someSystem)
	if gaps := l.Gaps(); err != nil || len(gaps) != 0 {
		t.Errorf("%v, %v", gaps, err)
	}
	if _, err := r.FindWAL(t.Context(), someSystem, "x"); !errors.Is(err, wal.ErrName) {
		t.Errorf("%v", err)
	}
	if _, err := r.FindWAL(t.Context(), someSystem, "000000010000000000000001"); !errors.Is(err, repo.ErrWALAbsent) {
		t.Errorf("%v", err)
	}
}

// TestASegmentWithTwoContentsIsNamed makes what two servers leave that both took themselves for the primary: each of them
// stored its segment before it saw the other's.
func TestASegmentWithTwoContentsIsNamed(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t)
	s := shelf{t, r}
	s.segments(1, 1, 2, 3)
	folder := filepath.Join(dir, "clusters", fmt.Sprint(uint64(someSystem)), "wal", "00000001")
	name, other := segment(1, 2, 99)
	found, err := filepath.Glob(filepath.Join(folder, name+"-*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	away := filepath.Join(t.TempDir(), "away")
	if err = os.Rename(found[0], away); err != nil {
		t.Fatal(err)
	}
	s.file(name, other)
	if err = os.Rename(away, found[0]); err != nil {
		t.Fatal(err)
	}

	err = archive.Source{Repo: r, System: someSystem}.Fetch(t.Context(), name, filepath.Join(t.TempDir(), "fetched"))
	if !errors.Is(err, repo.ErrWALConflict) || !strings.Contains(err.Error(), filepath.Base(found[0])) || !strings.Contains(errs.Of(err).Hint, "remove the other") {
		t.Errorf("fetch: %v", err)
	}
	l, err := ledger.Load(t.Context(), r, someSystem)
	if err != nil {
		t.Fatal(err)
	}
	in := wal.Range{Timeline: 1, From: 0x200000, To: 0x300000}
	if entries := l.Entries(); len(entries) != 3 || entries[1] != (ledger.Entry{Range: in, Status: ledger.Conflict}) {
		t.Errorf("the ledger has %v", entries)
	}
	if gaps := l.Gaps(); len(gaps) != 1 || gaps[0].Range != in {
		t.Errorf("its gaps are %v", gaps)
	}
	if err = l.Contiguous(wal.Range{Timeline: 1, From: 0x100000, To: 0x400000}); !errors.Is(err, ledger.ErrGap) {
		t.Errorf("%v: recovery cannot pass", err)
	}
	var findings []repo.Finding
	for f, err := range r.Verify(t.Context(), repo.VerifyOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		findings = append(findings, f)
	}
	if len(findings) != 1 || !errors.Is(findings[0].Err, repo.ErrWALConflict) || !strings.Contains(findings[0].Err.Error(), filepath.Base(found[0])) {
		t.Errorf("verify: %v", findings)
	}
}

// Whoever sent the log may be long dead: it ends when the last of it arrived, not now.
func TestAStretchEndsWhenItsEndArrived(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t)
	s := shelf{t, r}
	s.segments(1, 2, 3)
	age(t, dir, 2*time.Hour)
	s.piece(4, 0, 1000)
	age(t, dir, time.Hour)
	l, err := ledger.Load(t.Context(), r, someSystem)
	if err != nil {
		t.Fatal(err)
	}
	at, until := l.Reach(l.History(1), 0x200000)
	if old := time.Since(until); at != 0x4003E8 || old < time.Hour || old > 2*time.Hour {
		t.Errorf("it reaches to %v, which arrived %v ago", at, old)
	}
	if have := l.Timelines[0].Have; len(have) != 1 {
		t.Errorf("%v: there is no hole", have)
	}
}

// age makes everything in a repository older.
func age(t *testing.T, dir string, by time.Duration) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		then := info.ModTime().Add(-by)
		return os.Chtimes(path, then, then)
	})
	if err != nil {
		t.Fatal(err)
	}
}
