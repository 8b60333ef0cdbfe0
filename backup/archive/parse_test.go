package archive_test

import (
	"errors"
	"testing"

	"rootstream/backup/archive"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
	"rootstream/errs"
)

func TestSizesAreReadAsPostgreSQLShowsThem(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint32{"1MB": 1 << 20, "16MB": 16 << 20, "1GB": 1 << 30, "16384kB": 16 << 20} {
		if have, err := archive.ParseSize(text); err != nil || have != want {
			t.Errorf("%s is %d, %v", text, have, err)
		}
	}
	for _, text := range []string{"", "MB", "16", "3MB", "2GB", "512kB", "-1MB", "16TB", "16 MB", "16777216B16MB"} {
		if have, err := archive.ParseSize(text); err == nil {
			t.Errorf("%q is %d", text, have)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add(append([]byte{'w'}, make([]byte, 24)...))
	f.Add(append([]byte{'k'}, make([]byte, 17)...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, data, _, ask, err := archive.ParseMessage(b)
		if err == nil && (len(b) != len(data)+25 && len(data) > 0 || ask && b[0] != 'k') {
			t.Errorf("%d bytes of data in %d, %v", len(data), len(b), ask)
		}
	})
}

func FuzzParseBranchOff(f *testing.F) {
	f.Add([]byte("2"), []byte("0/3000000"))
	f.Fuzz(func(t *testing.T, tli, at []byte) {
		n, lsn, err := archive.ParseBranchOff([][]byte{tli, at})
		if again, bad := wal.ParseLSN(lsn.String()); err == nil && (bad != nil || again != lsn) {
			t.Errorf("timeline %d at %v", n, lsn)
		}
	})
	if _, _, err := archive.ParseBranchOff(nil); err == nil {
		f.Error("an empty row names a timeline")
	}
}

func TestATimelineIsLeftWhereTheServersHistoryLeavesIt(t *testing.T) {
	t.Parallel()
	h, err := wal.ParseHistory(5, []byte("1\t0/3000000\tx\n2\t0/5000000\tx\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what    string
		tli     wal.TimelineID
		reached wal.LSN
		next    wal.TimelineID
		at      wal.LSN
		leaves  bool
	}{
		{"all of it is the server's too", 1, 0x3000000, 0, 0, false},
		{"we have more than the server ever had", 1, 0x3000001, 2, 0x3000000, true},
		{"the same on the next", 2, 0x6000000, 5, 0x5000000, true},
		{"a branch that the server is not on", 3, 0x4000000, 5, 0x5000000, true},
		{"the server's own", 5, 0x9000000, 0, 0, false},
	} {
		if next, at, ok := archive.Leave(h, c.tli, c.reached); next != c.next || at != c.at || ok != c.leaves {
			t.Errorf("%s: to %d at %v, %v", c.what, next, at, ok)
		}
	}
}

func TestAReceiverNamesEverySettingThatIsWrong(t *testing.T) {
	t.Parallel()
	_, err := archive.NewReceiver(archive.Config{Spool: "relative", Slot: "No Slot", SpoolMax: 1, PieceEvery: 1, Patience: 1})
	if n := len(errs.FieldsOf(err)); n != 6 {
		t.Errorf("%d faults: %v", n, err)
	}
}

func TestTheLedgerTellsFoundFromMissing(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	s := shelf{t, r}
	s.segments(1, 2, 3, 5)
	s.piece(6, 0, 1000)
	s.segments(2, 7, 8)
	s.history("1\t0/600200\tx\n") // within segment 6, of which timeline 2 has nothing
	l, err := archive.Load(t.Context(), r, someSystem)
	if err != nil {
		t.Fatal(err)
	}
	entry := func(tli wal.TimelineID, from, to wal.LSN, status string) archive.Entry {
		return archive.Entry{Range: wal.Range{Timeline: tli, From: from, To: to}, Status: status}
	}
	want := []archive.Entry{
		entry(1, 0x200000, 0x400000, archive.Found), entry(1, 0x400000, 0x500000, archive.Missing),
		entry(1, 0x500000, 0x600000, archive.Found), entry(1, 0x600000, 0x6003E8, archive.Partial),
		entry(2, 0x600000, 0x700000, archive.Missing), entry(2, 0x700000, 0x900000, archive.Found),
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
		if err = l.Contiguous(c.rng); errors.Is(err, archive.ErrGap) != c.gap || (err != nil) != c.gap {
			t.Errorf("%v: %v", c.rng, err)
		}
		ctx, cancel := contextOf(t)
		err = archive.Wait(ctx, r, someSystem, 1<<20, c.rng)
		cancel()
		if errors.Is(err, archive.ErrGap) != c.gap || (err != nil) != c.gap {
			t.Errorf("waiting for %v: %v", c.rng, err)
		}
	}
	status, err := archive.StatusOf(t.Context(), r, someSystem, &archive.Server{SystemID: someSystem, LSN: 0x900010})
	if err != nil || status.Gaps != 2 || status.Sound() || status.Timeline != 2 || status.Archived != 0x900000 || status.Behind != 16 {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestAnEmptyLedgerHasNoGaps(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	if gaps, err := archive.Gaps(t.Context(), r, someSystem); err != nil || len(gaps) != 0 {
		t.Errorf("%v, %v", gaps, err)
	}
	if _, err := r.FindWAL(t.Context(), someSystem, "x"); !errors.Is(err, wal.ErrName) {
		t.Errorf("%v", err)
	}
	if _, err := r.FindWAL(t.Context(), someSystem, "000000010000000000000001"); !errors.Is(err, repo.ErrWALAbsent) {
		t.Errorf("%v", err)
	}
}
