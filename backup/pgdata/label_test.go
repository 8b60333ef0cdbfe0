package pgdata_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"rootstream/backup/pgdata"
)

const label = `START WAL LOCATION: 0/9000028 (file 000000010000000000000009)
CHECKPOINT LOCATION: 0/9000060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-28 01:21:31 UTC
LABEL: nightly: the big one
START TIMELINE: 1
`

func TestLabelIsRead(t *testing.T) {
	t.Parallel()
	l, err := pgdata.ParseLabel([]byte(label))
	if err != nil {
		t.Fatal(err)
	}
	if l.Start != 0x9000028 || l.Checkpoint != 0x9000060 || l.Timeline != 1 || l.FromStandby || l.Name != "nightly: the big one" ||
		l.Segment != "000000010000000000000009" || l.Time.IsZero() {
		t.Errorf("%+v", l)
	}
}

func TestLabelThatContradictsItselfIsRefused(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"nothing":             "",
		"no start":            strings.Replace(label, "START WAL", "START", 1),
		"no timeline":         strings.Replace(label, "START TIMELINE: 1\n", "", 1),
		"two starts":          label + strings.SplitAfter(label, "\n")[0],
		"other timeline":      strings.Replace(label, "START TIMELINE: 1", "START TIMELINE: 2", 1),
		"no file":             strings.Replace(label, " (file 000000010000000000000009)", "", 1),
		"neither of the two":  strings.Replace(label, "primary", "elsewhere", 1),
		"no position":         strings.Replace(label, "0/9000060", "9000060", 1),
		"more than it can be": label + strings.Repeat("X: y\n", 1<<14),
	} {
		if _, err := pgdata.ParseLabel([]byte(text)); !errors.Is(err, pgdata.ErrLabel) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// escapeMap writes a location as the server does (xlog.c, do_pg_backup_start).
func escapeMap(location string) string {
	return strings.NewReplacer("\\", "\\\\", "\n", "\\\n", "\r", "\\\r").Replace(location)
}

func TestTablespaceMapGivesBackEveryFolder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var want []pgdata.Tablespace
		var text strings.Builder
		for range rapid.IntRange(0, 5).Draw(t, "n") {
			s := pgdata.Tablespace{
				OID:      rapid.Uint32Min(1).Draw(t, "oid"),
				Location: rapid.StringMatching("[a-z /\\\\\n\r\"':]{1,20}").Draw(t, "location"),
			}
			want = append(want, s)
			text.WriteString(strconv.FormatUint(uint64(s.OID), 10) + " " + escapeMap(s.Location) + "\n")
		}
		got, err := pgdata.ParseTablespaceMap([]byte(text.String()))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestBrokenTablespaceMapIsRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"16384 /a", "16384\n", "x /a\n", "0 /a\n", "4294967296 /a\n", "16384 /a\x00b\n", "16384 /a\\", " /a\n"} {
		if got, err := pgdata.ParseTablespaceMap([]byte(text)); !errors.Is(err, pgdata.ErrMap) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

func FuzzParseLabel(f *testing.F) {
	f.Add([]byte(label))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := pgdata.ParseLabel(text)
		if err == nil && (l.Timeline == 0 || l.Segment == "") {
			t.Errorf("accepted %+v", l)
		}
	})
}

func FuzzParseTablespaceMap(f *testing.F) {
	f.Add([]byte("16384 /a\\\\b\n16385 /c\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := pgdata.ParseTablespaceMap(text)
		for _, s := range all {
			if err == nil && (s.OID == 0 || s.Location == "") {
				t.Errorf("accepted %+v", s)
			}
		}
	})
}
