package wal_test

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"rootstream/backup/wal"
	"rootstream/pgserver"
)

func TestAPositionIsReadAsPostgreSQLPrintsIt(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]wal.LSN{
		"0/0": 0, "0/16B3748": 0x16B3748, "16/B374D848": 0x16B374D848, "FFFFFFFF/FFFFFFFF": ^wal.LSN(0), "1/0": 1 << 32,
	} {
		have, err := wal.ParseLSN(text)
		if err != nil || have != want || have.String() != text {
			t.Errorf("%s is %d, printed %v, %v", text, have, have, err)
		}
	}
	for _, text := range []string{"", "0", "/", "0/", "/0", "0/0/0", "-1/0", "+1/0", "0/1_0", "100000000/0", "0/100000000", "0x1/0", " 0/0", "g/0"} {
		if have, err := wal.ParseLSN(text); !errors.Is(err, wal.ErrLSN) {
			t.Errorf("%q is read as %v, %v", text, have, err)
		}
	}
}

func anySize(t *rapid.T) uint32 { return 1 << rapid.Uint32Range(20, 30).Draw(t, "log2 of size") }

func TestASegmentsNameAndItsPositionSayTheSameForAnySize(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		size := anySize(t)
		lsn := wal.LSN(rapid.Uint64().Draw(t, "lsn"))
		tli := wal.TimelineID(rapid.Uint32Min(1).Draw(t, "timeline"))
		n, err := wal.ParseName(wal.SegmentName(tli, lsn, size))
		if err != nil || n.Kind != wal.Segment || n.Timeline != tli {
			t.Fatalf("%+v, %v", n, err)
		}
		start, err := n.Start(size)
		if err != nil || start != lsn.SegmentStart(size) || lsn-start != wal.LSN(lsn.Offset(size)) {
			t.Fatalf("%v is in the segment at %v, %v", lsn, start, err)
		}
		if end := (start + 1).SegmentEnd(size); end != start+wal.LSN(size) {
			t.Fatalf("the segment at %v ends at %v", start, end)
		}
	})
	if end := wal.LSN(3 << 24).SegmentEnd(1 << 24); end != 3<<24 {
		t.Errorf("a boundary belongs to the segment before it, not to that up to %v", end)
	}
}

func TestNamesOfAllKindsAreToldApart(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]wal.Kind{
		"00000001000000000000000A":                 wal.Segment,
		"00000001000000000000000A.partial":         wal.Partial,
		"00000001000000000000000A.00000028.backup": wal.BackupMark,
		"0000000A.history":                         wal.HistoryOfATime,
	} {
		n, err := wal.ParseName(text)
		if err != nil || n.Kind != want || n.String() != text {
			t.Errorf("%s is %+v (%v), %v", text, n, n, err)
		}
	}
	for _, text := range []string{
		"", "history", ".history", "00000000.history", "0000000a.history", "00000001000000000000000a", "00000000000000000000000A",
		"00000001000000000000000", "00000001000000000000000AB", "00000001000000000000000A.backup", "00000001000000000000000A.0000028.backup",
		"00000001000000000000000A.partial.gz", "../0000000100000000000000", "RECOVERYXLOG", "RECOVERYHISTORY", "0000000A.history.history",
	} {
		if n, err := wal.ParseName(text); !errors.Is(err, wal.ErrName) {
			t.Errorf("%q is read as %+v, %v", text, n, err)
		}
	}
}

func TestANameThatSegmentsOfASizeDoNotHaveIsRefused(t *testing.T) {
	t.Parallel()
	n, err := wal.ParseName("0000000100000000000000FF")
	if err != nil {
		t.Fatal(err)
	}
	if start, err := n.Start(16 << 20); err != nil || start != 0xFF000000 {
		t.Errorf("16 MiB: %v, %v", start, err)
	}
	for _, size := range []uint32{64 << 20, 0, 3 << 20, 1 << 19, 1 << 31} {
		if start, err := n.Start(size); !errors.Is(err, wal.ErrName) {
			t.Errorf("%d: %v, %v", size, start, err)
		}
	}
}

func TestARangeGoesThroughItsSegments(t *testing.T) {
	t.Parallel()
	const size = 16 << 20
	r := wal.Range{Timeline: 2, From: 0xFE800000, To: 0x101000000}
	want := []string{"0000000200000000000000FE", "0000000200000000000000FF", "000000020000000100000000"}
	if diff := cmp.Diff(want, slices.Collect(r.Segments(size))); diff != "" {
		t.Error(diff)
	}
	last := wal.Range{Timeline: 1, From: wal.Open - 1, To: wal.Open}
	if have := slices.Collect(last.Segments(size)); !slices.Equal(have, []string{"00000001FFFFFFFF000000FF"}) {
		t.Errorf("the last segment of all is %v", have)
	}
	if have := slices.Collect(wal.Range{Timeline: 1, From: 5, To: 5}.Segments(size)); have != nil {
		t.Errorf("an empty range has %v", have)
	}
}

const history = "1\t0/3000158\tno recovery target specified\n\n# said by a person\n2\t0/5000000\tbefore 2026-11-23 10:00:00+00\n"

func TestAHistoryLeadsFromTimelineToTimeline(t *testing.T) {
	t.Parallel()
	h, err := wal.ParseHistory(5, []byte(history)) // the number after a promotion need not be the next one
	if err != nil {
		t.Fatal(err)
	}
	want := wal.History{{1, 0, 0x3000158}, {2, 0x3000158, 0x5000000}, {5, 0x5000000, wal.Open}}
	if diff := cmp.Diff(want, h); diff != "" || h.Timeline() != 5 {
		t.Fatal(diff)
	}
	for _, c := range []struct {
		tli  wal.TimelineID
		lsn  wal.LSN
		want bool
	}{{1, 0x3000158, true}, {1, 0x3000159, false}, {2, 0x4000000, true}, {2, 0x5000001, false}, {3, 0x100, false}, {5, 0x9000000, true}} {
		if have := h.Contains(c.tli, c.lsn); have != c.want {
			t.Errorf("timeline %d up to %v: %v", c.tli, c.lsn, have)
		}
	}
	for lsn, tli := range map[wal.LSN]wal.TimelineID{0: 1, 0x3000157: 1, 0x3000158: 2, 0x4FFFFFF: 2, 0x5000000: 5} {
		if have := h.At(lsn); have != tli {
			t.Errorf("%v is on timeline %d, not %d", lsn, tli, have)
		}
	}
	path := []wal.Range{{Timeline: 1, From: 0x2000000, To: 0x3000158}, {Timeline: 2, From: 0x3000158, To: 0x5000000}, {Timeline: 5, From: 0x5000000, To: 0x6000000}}
	if diff := cmp.Diff(path, h.Path(0x2000000, 0x6000000)); diff != "" {
		t.Error(diff)
	}
	if have := h.Path(0x2000000, 0x3000000); !slices.Equal(have, []wal.Range{{Timeline: 1, From: 0x2000000, To: 0x3000000}}) {
		t.Errorf("the path before the first branch is %v", have)
	}
}

func TestASegmentInWhichATimelineBranchedOffIsLookedForUnderBoth(t *testing.T) {
	t.Parallel()
	h, err := wal.ParseHistory(5, []byte(history))
	if err != nil {
		t.Fatal(err)
	}
	for lsn, want := range map[wal.LSN][]string{
		0x2000000: {"000000010000000000000002"},
		0x3000000: {"000000020000000000000003", "000000010000000000000003"},
		0x3000200: {"000000020000000000000003", "000000010000000000000003"},
		0x4000000: {"000000020000000000000004"},
		0x5000000: {"000000050000000000000005"}, // timeline 2 ended at the boundary
	} {
		if diff := cmp.Diff(want, h.Candidates(lsn, 16<<20)); diff != "" {
			t.Errorf("%v: %s", lsn, diff)
		}
	}
	if have := wal.History(nil).Candidates(0, 1<<20); have != nil {
		t.Errorf("no history has %v", have)
	}
	if have := wal.NewHistory(7).Candidates(0, 1<<20); !slices.Equal(have, []string{"000000070000000000000000"}) {
		t.Errorf("a timeline without ancestors has %v", have)
	}
}

func TestAHistoryThatContradictsItselfIsRefused(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"own timeline":        "5\t0/3000000\tx\n",
		"newer timeline":      "6\t0/3000000\tx\n",
		"timelines fall":      "2\t0/3000000\tx\n1\t0/4000000\tx\n",
		"timeline twice":      "2\t0/3000000\tx\n2\t0/4000000\tx\n",
		"positions fall":      "1\t0/4000000\tx\n2\t0/3000000\tx\n",
		"no position":         "1\n",
		"no timeline":         "x\t0/4000000\tx\n",
		"timeline 0":          "0\t0/4000000\tx\n",
		"not a position":      "1\t4000000\tx\n",
		"end of all":          "1\tFFFFFFFF/FFFFFFFF\tx\n",
		"torn in the middle":  "1\t0/30",
		"far too much of it ": strings.Repeat("# \n", 1<<19),
	} {
		h, err := wal.ParseHistory(5, []byte(text))
		if name == "torn in the middle" {
			continue // cannot be told from a whole one: what keeps it is what is to notice
		}
		if !errors.Is(err, wal.ErrHistory) {
			t.Errorf("%s: %v, %v", name, h, err)
		}
	}
	if _, err := wal.ParseHistory(0, nil); !errors.Is(err, wal.ErrHistory) {
		t.Errorf("timeline 0: %v", err)
	}
}

// realSegment is the oldest segment of a new cluster, which was switched away from: what is behind the current one may be
// recycled.
func realSegment(t *testing.T, segmentMB string) (name string, data []byte, system uint64) {
	t.Helper()
	in, err := pgserver.Find(0)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "rs-wal-*") //nolint:usetesting // only root can enter the folders of t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s, err := pgserver.New(pgserver.Config{Installation: in, DataDir: filepath.Join(dir, "d")})
	if err != nil {
		t.Fatal(err)
	}
	if err = s.Account().Own(dir); err != nil {
		t.Fatal(err)
	}
	run := func(stdin, name string, args ...string) {
		cmd := exec.CommandContext(t.Context(), in.Bin(name), args...)
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: s.Account().UID, Gid: s.Account().GID}}
		}
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
		if out, failed := cmd.CombinedOutput(); failed != nil {
			t.Fatalf("%v: %s", failed, out)
		}
	}
	run("", "initdb", "-D", s.DataDir(), "--no-sync", "--wal-segsize", segmentMB)
	run("select pg_switch_wal()\n", "postgres", "--single", "-F", "-c", "wal_keep_size=64MB", "-D", s.DataDir(), "postgres")
	files, err := filepath.Glob(filepath.Join(s.DataDir(), "pg_wal", "0000*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	if data, err = os.ReadFile(files[0]); err != nil {
		t.Fatal(err)
	}
	control, err := os.ReadFile(filepath.Join(s.DataDir(), "global", "pg_control"))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Base(files[0]), data, binary.LittleEndian.Uint64(control)
}

func TestARealSegmentPassesAndAnyOtherOneIsNamed(t *testing.T) {
	t.Parallel()
	for _, size := range []string{"1", "16"} {
		name, data, system := realSegment(t, size)
		h, err := wal.CheckSegment(name, data, system)
		if err != nil || h.Major != 15 || h.SystemID != system || int(h.SegmentSize) != len(data) || h.Timeline != 1 || h.PageSize != 8192 {
			t.Fatalf("%s: %+v, %v", name, h, err)
		}
		if _, err := wal.CheckSegment(name, data, 0); err != nil {
			t.Errorf("any cluster: %v", err)
		}
		for _, c := range faults(name, data, system) {
			if _, err := wal.CheckSegment(c.name, c.data, c.system); !errors.Is(err, c.want) {
				t.Errorf("%s MiB, %s: %v", size, c.what, err)
			}
		}
	}
}

type fault struct {
	what, name string
	data       []byte
	system     uint64
	want       error
}

func faults(name string, data []byte, system uint64) []fault {
	change := func(at int, value byte) []byte {
		d := slices.Clone(data)
		d[at] ^= value
		return d
	}
	hole := slices.Clone(data)
	clear(hole[8192 : 5*8192])
	copy(hole[5*8192:], hole[:24])
	binary.LittleEndian.PutUint64(hole[5*8192+8:], binary.LittleEndian.Uint64(data[8:])+5*8192)
	return []fault{
		{"pages that were never written, before others", name, hole, system, wal.ErrDamaged},
		{"another cluster", name, data, system + 1, wal.ErrForeign},
		{"another segment", name[:23] + "9", data, system, wal.ErrForeign},
		{"a size whose names differ", "0000000100000000FFFFFFFF", data, system, wal.ErrForeign},
		{"a newer timeline than the name says", name, change(4, 2), system, wal.ErrForeign},
		{"not a segment's name", name + ".partial", data, system, wal.ErrName},
		{"cut off", name, data[:len(data)-1], system, wal.ErrDamaged},
		{"too long", name, append(slices.Clone(data), 0), system, wal.ErrDamaged},
		{"empty", name, nil, system, wal.ErrDamaged},
		{"another magic", name, change(0, 1), system, wal.ErrDamaged},
		{"unknown flags", name, change(3, 0x80), system, wal.ErrDamaged},
		{"a segment size that is none", name, change(32, 1), system, wal.ErrDamaged},
		{"a page that is elsewhere", name, change(8192+9, 0x40), system, wal.ErrDamaged},
		{"a page of another version", name, change(8192, 1), system, wal.ErrDamaged},
		{"a page of a later timeline", name, change(8192+4, 2), system, wal.ErrDamaged},
	}
}

// TestHeadersOfAllVersions: the layout has been the same since 14, only the number in front differs.
func TestHeadersOfAllVersionsAreRead(t *testing.T) {
	t.Parallel()
	for magic, major := range map[uint16]int{0xD10D: 14, 0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18} {
		page := make([]byte, 40)
		le := binary.LittleEndian
		le.PutUint16(page, magic)
		le.PutUint16(page[2:], 2)
		le.PutUint32(page[4:], 3)
		le.PutUint64(page[8:], 0x1_C000_0000)
		le.PutUint64(page[24:], 1<<63+5) // system ids are unsigned
		le.PutUint32(page[32:], 1<<30)
		le.PutUint32(page[36:], 8192)
		want := wal.Header{Major: major, Timeline: 3, Start: 0x1_C000_0000, SystemID: 1<<63 + 5, SegmentSize: 1 << 30, PageSize: 8192}
		have, err := wal.ParseHeader(page)
		if diff := cmp.Diff(want, have); diff != "" || err != nil {
			t.Errorf("%d: %v %s", major, err, diff)
		}
	}
}

func FuzzParseName(f *testing.F) {
	f.Add("00000001000000000000000A.00000028.backup")
	f.Add("0000000A.history")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := wal.ParseName(text)
		if err == nil && n.String() != text {
			t.Errorf("%q is read as %v", text, n)
		}
	})
}

func FuzzParseLSN(f *testing.F) {
	f.Add("16/B374D848")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := wal.ParseLSN(text)
		if err != nil {
			return
		}
		if again, err := wal.ParseLSN(l.String()); err != nil || again != l {
			t.Errorf("%q is %v and then %v", text, l, again)
		}
	})
}

func FuzzParseHistory(f *testing.F) {
	f.Add(uint32(5), []byte(history))
	f.Fuzz(func(t *testing.T, tli uint32, text []byte) {
		h, err := wal.ParseHistory(wal.TimelineID(tli), text)
		if err != nil {
			return
		}
		at := wal.LSN(0)
		for i, b := range h {
			if b.Begin != at || b.End < b.Begin || i > 0 && b.Timeline <= h[i-1].Timeline {
				t.Fatalf("%v does not hang together", h)
			}
			at = b.End
		}
		if h.Timeline() != wal.TimelineID(tli) || at != wal.Open {
			t.Errorf("%v is not the history of %d", h, tli)
		}
	})
}

func FuzzCheckSegment(f *testing.F) {
	page := make([]byte, 1<<20)
	le := binary.LittleEndian
	le.PutUint16(page, 0xD110)
	le.PutUint16(page[2:], 2)
	le.PutUint32(page[4:], 1)
	le.PutUint64(page[8:], 1<<20)
	le.PutUint64(page[24:], 7)
	le.PutUint32(page[32:], 1<<20)
	le.PutUint32(page[36:], 8192)
	const name = "000000010000000000000001"
	if _, err := wal.CheckSegment(name, page, 7); err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(0), byte(1))
	f.Add(uint32(40), byte(1))
	f.Fuzz(func(t *testing.T, at uint32, value byte) {
		d := slices.Clone(page)
		d[at%(1<<20)] ^= value
		h, err := wal.CheckSegment(name, d, 7)
		if err == nil && (h.SystemID != 7 || h.Start != 1<<20 || h.SegmentSize != 1<<20) {
			t.Errorf("accepted %+v", h)
		}
	})
}
