package receive_test

import (
	"testing"

	"rootstream/backup/archive/receive"
	"rootstream/backup/wal"
	"rootstream/errs"
)

func TestSizesAreReadAsPostgreSQLShowsThem(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint32{"1MB": 1 << 20, "16MB": 16 << 20, "1GB": 1 << 30, "16384kB": 16 << 20} {
		if have, err := receive.ParseSize(text); err != nil || have != want {
			t.Errorf("%s is %d, %v", text, have, err)
		}
	}
	for _, text := range []string{"", "MB", "16", "3MB", "2GB", "512kB", "-1MB", "16TB", "16 MB", "16777216B16MB"} {
		if have, err := receive.ParseSize(text); err == nil {
			t.Errorf("%q is %d", text, have)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add(append([]byte{'w'}, make([]byte, 24)...))
	f.Add(append([]byte{'k'}, make([]byte, 17)...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, data, _, ask, err := receive.ParseMessage(b)
		if err == nil && (len(b) != len(data)+25 && len(data) > 0 || ask && b[0] != 'k') {
			t.Errorf("%d bytes of data in %d, %v", len(data), len(b), ask)
		}
	})
}

func FuzzParseBranchOff(f *testing.F) {
	f.Add([]byte("2"), []byte("0/3000000"))
	f.Fuzz(func(t *testing.T, tli, at []byte) {
		n, lsn, err := receive.ParseBranchOff([][]byte{tli, at})
		if again, bad := wal.ParseLSN(lsn.String()); err == nil && (bad != nil || again != lsn) {
			t.Errorf("timeline %d at %v", n, lsn)
		}
	})
	if _, _, err := receive.ParseBranchOff(nil); err == nil {
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
		if next, at, ok := receive.Leave(h, c.tli, c.reached); next != c.next || at != c.at || ok != c.leaves {
			t.Errorf("%s: to %d at %v, %v", c.what, next, at, ok)
		}
	}
}

func TestAReceiverNamesEverySettingThatIsWrong(t *testing.T) {
	t.Parallel()
	_, err := receive.New(receive.Config{Spool: "relative", Slot: "No Slot", SpoolMax: 1, PieceEvery: 1, Patience: 1})
	if n := len(errs.FieldsOf(err)); n != 6 {
		t.Errorf("%d faults: %v", n, err)
	}
}
