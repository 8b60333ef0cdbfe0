package logs_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"rootstream/backup/repo/logs"
	"rootstream/backup/wal"
)

func TestWALIsKeptForEveryKeptBackupOnEveryTimelineItCanReach(t *testing.T) {
	t.Parallel()
	at := func(mib int) wal.LSN { return wal.LSN(mib) << 20 }
	history := func(tli wal.TimelineID, text string) wal.History {
		h, err := wal.ParseHistory(tli, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	// 1 ──100──┬─▶ 2 (of 1 at 100) ──200─▶ 4 (of 2 at 200)
	//          └─▶ 3 (of 1 at 50)
	histories := map[wal.TimelineID]wal.History{
		1: wal.NewHistory(1), 2: history(2, "1\t0/6400000\tx\n"), 3: history(3, "1\t0/3200000\tx\n"), 4: history(4, "1\t0/6400000\tx\n2\t0/C800000\tx\n"),
	}
	b := func(tli wal.TimelineID, start, stop int) wal.Range {
		return wal.Range{Timeline: tli, From: at(start), To: at(stop)}
	}
	for _, tt := range []struct {
		name string
		kept []wal.Range
		want string
	}{
		{"before all branches", []wal.Range{b(1, 10, 12)}, "1:10 2:0 3:0 4:0"},
		{"after the branch to 3", []wal.Range{b(1, 60, 62)}, "1:60 2:0 3:0 4:0"},
		{"it ends after the branch to 2", []wal.Range{b(1, 98, 102)}, "1:98 2:0 3:0 4:0"},
		{"on 2", []wal.Range{b(2, 150, 152)}, "1:gone 2:150 3:0 4:0"},
		{"on 4 only", []wal.Range{b(4, 210, 212)}, "1:gone 2:gone 3:gone 4:210"},
		{"on 4, and an old one", []wal.Range{b(4, 210, 212), b(1, 60, 62)}, "1:60 2:60 3:gone 4:60"},
		{"none: all is kept", nil, ""},
		{"on 4, an old one, and nobody has stored where 2 and 3 come from", []wal.Range{b(4, 210, 212), b(1, 60, 62)}, "1:60 2?:60 3?:60 4:60"},
		{"nor where 4 does", []wal.Range{b(4, 210, 212), b(1, 60, 62)}, "1:60 2:60 3?:60 4?:60"},
		{"on 2, and nobody has stored where 3 and 4 come from", []wal.Range{b(2, 150, 152)}, "1:gone 2:150 3?:0 4?:0"},
		{"on 4, and nobody has stored where 2 comes from", []wal.Range{b(4, 210, 212)}, "1:gone 2?:gone 3:gone 4:210"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			known := maps.Clone(histories)
			for f := range strings.FieldsSeq(tt.want) {
				if strings.Contains(f, "?") {
					known[wal.TimelineID(f[0]-'0')] = nil
				}
			}
			var got []string
			for tli, floor := range logs.Floors(tt.kept, known) {
				from := fmt.Sprint(uint64(floor >> 20))
				if floor == wal.Open {
					from = "gone"
				}
				got = append(got, fmt.Sprintf("%d:%s", uint32(tli), from))
			}
			want := strings.Fields(strings.ReplaceAll(tt.want, "?", ""))
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
