package plan_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"rootstream/backup/archive/ledger"
	"rootstream/backup/restore/plan"
	"rootstream/backup/wal"
)

const mb = 1 << 20 // the size of a segment here

func at(minutes int) time.Time {
	return time.Date(2026, 11, 28, 0, minutes, 0, 0, time.UTC)
}

// backup ends at a megabyte of the log and a minute of the day.
func backup(id string, tli wal.TimelineID, stop wal.LSN, minute int) plan.Backup {
	return plan.Backup{ID: id, Start: stop*mb - mb/2, Stop: stop * mb, Timeline: tli, Completed: at(minute)}
}

func piece(tli wal.TimelineID, from, to wal.LSN, minute int) ledger.Stretch {
	return ledger.Stretch{Range: wal.Range{Timeline: tli, From: from * mb, To: to * mb}, Until: at(minute)}
}

// log is a ledger of timelines, each with its history.
func log(timelines ...ledger.Timeline) ledger.Ledger {
	return ledger.Ledger{SegmentSize: mb, Timelines: timelines}
}

func timeline(h wal.History, have ...ledger.Stretch) ledger.Timeline {
	t := ledger.Timeline{History: h, Known: true}
	t.Add(have...)
	return t
}

// forked is a cluster that was promoted at 50.5 MB, minute 50, and whose first timeline went on to 60 MB.
func forked(t *testing.T) ([]plan.Backup, ledger.Ledger) {
	t.Helper()
	second, err := wal.ParseHistory(2, []byte("1\t0/3280000\tno recovery target specified\n"))
	if err != nil {
		t.Fatal(err)
	}
	return []plan.Backup{backup("a", 1, 10, 10), backup("b", 1, 30, 30), backup("stray", 1, 55, 55), backup("c", 2, 70, 70)},
		log(timeline(wal.NewHistory(1), piece(1, 5, 60, 60)), timeline(second, piece(2, 50, 90, 90)))
}

func TestPlanChoosesTheNewestBackupBeforeTheTarget(t *testing.T) {
	t.Parallel()
	backups, have := forked(t)
	for _, tt := range []struct {
		name     string
		target   plan.Target
		backup   string
		timeline wal.TimelineID
		want     error
	}{
		{"latest", plan.Target{}, "c", 2, nil},
		{"latest of the old timeline", plan.Target{Timeline: 1}, "stray", 1, nil},
		{"immediate stays on the backup's timeline", plan.Target{Kind: plan.Immediate, Backup: "b"}, "b", 1, nil},
		{"current stays on the backup's timeline", plan.Target{Backup: "b", Current: true}, "b", 1, nil},
		{"a backup's end is reached by it", plan.Target{Kind: plan.AtLSN, LSN: 30 * mb}, "b", 2, nil},
		{"one byte before, it is not", plan.Target{Kind: plan.AtLSN, LSN: 30*mb - 1}, "a", 2, nil},
		{"behind the fork", plan.Target{Kind: plan.AtLSN, LSN: 60 * mb}, "b", 2, nil},
		{"behind the fork on the old side", plan.Target{Kind: plan.AtLSN, LSN: 59 * mb, Timeline: 1}, "stray", 1, nil},
		{"before every backup", plan.Target{Kind: plan.AtLSN, LSN: 10*mb - 1}, "", 0, plan.ErrOutside},
		{"in the future", plan.Target{Kind: plan.AtLSN, LSN: 90*mb + 1}, "", 0, plan.ErrOutside},
		{"at the end", plan.Target{Kind: plan.AtLSN, LSN: 90 * mb}, "c", 2, nil},
		{"time", plan.Target{Kind: plan.AtTime, Time: at(69)}, "b", 2, nil},
		{"time of a backup's end", plan.Target{Kind: plan.AtTime, Time: at(70)}, "c", 2, nil},
		{"time before every backup", plan.Target{Kind: plan.AtTime, Time: at(9)}, "", 0, plan.ErrOutside},
		{"time in the future", plan.Target{Kind: plan.AtTime, Time: at(92)}, "", 0, plan.ErrOutside},
		{"a backup that is told", plan.Target{Kind: plan.AtLSN, LSN: 80 * mb, Backup: "a"}, "a", 2, nil},
		{"a backup that is too late", plan.Target{Kind: plan.AtLSN, LSN: 60 * mb, Backup: "c"}, "", 0, plan.ErrOutside},
		{"a backup that is not there", plan.Target{Backup: "d"}, "", 0, plan.ErrNoBackup},
		{"a backup of another branch", plan.Target{Backup: "stray", Timeline: 2}, "", 0, plan.ErrTimeline},
		{"a timeline that is not there", plan.Target{Timeline: 7}, "", 0, plan.ErrTimeline},
		{"a name nobody can place begins where all is found", plan.Target{Kind: plan.AtName, Name: "x"}, "a", 2, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := plan.Choose(tt.target, backups, have)
			if !errors.Is(err, tt.want) || (tt.want == nil && (got.Backup.ID != tt.backup || got.Timeline != tt.timeline)) {
				t.Errorf("backup %q on timeline %d, %v; want %q on %d, %v", got.Backup.ID, got.Timeline, err, tt.backup, tt.timeline, tt.want)
			}
			if errors.Is(tt.want, plan.ErrOutside) && tt.target.Backup == "" && !strings.Contains(err.Error(), "0/A00000) to about") {
				t.Errorf("the window is not said: %v", err)
			}
		})
	}
}

func TestTheWindowEndsWhereLogIsMissing(t *testing.T) {
	t.Parallel()
	backups := []plan.Backup{backup("a", 1, 10, 10), backup("b", 1, 20, 20), backup("c", 1, 40, 40), backup("lost", 1, 60, 60)}
	have := log(timeline(wal.NewHistory(1), piece(1, 9, 30, 30), piece(1, 39, 50, 50), piece(1, 70, 80, 80)))
	want := []plan.Window{
		{Timeline: 1, From: 10 * mb, To: 30 * mb, Since: at(10), Until: at(30)},
		{Timeline: 1, From: 40 * mb, To: 50 * mb, Since: at(40), Until: at(50)},
	}
	if diff := cmp.Diff(want, plan.Windows(backups, have)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := plan.Choose(plan.Target{}, backups, have); !errors.Is(err, ledger.ErrGap) {
		t.Errorf("the latest was promised across a hole: %v", err)
	}
	_, err := plan.Choose(plan.Target{Kind: plan.AtLSN, LSN: 35 * mb}, backups, have)
	if !errors.Is(err, plan.ErrOutside) {
		t.Errorf("a target in a hole: %v", err)
	}
	got, err := plan.Choose(plan.Target{Kind: plan.AtLSN, LSN: 25 * mb}, backups, have)
	if err != nil || got.Backup.ID != "b" {
		t.Errorf("%s, %v; want b", got.Backup.ID, err)
	}
}

func TestAStrayTimelineIsNotFollowed(t *testing.T) {
	t.Parallel()
	backups, have := forked(t)
	stray, err := wal.ParseHistory(3, []byte("1\t0/1400000\tsomebody tried a restore\n"))
	if err != nil {
		t.Fatal(err)
	}
	have.Timelines = append(have.Timelines, timeline(stray, piece(3, 20, 22, 95)))
	got, err := plan.Choose(plan.Target{}, backups, have)
	if err != nil || got.Timeline != 2 || got.Backup.ID != "c" {
		t.Errorf("%s on timeline %d, %v; the newest backup is not on timeline 3", got.Backup.ID, got.Timeline, err)
	}
	got, err = plan.Choose(plan.Target{Timeline: 3}, backups, have)
	if err != nil || got.Timeline != 3 || got.Backup.ID != "a" {
		t.Errorf("%s on timeline %d, %v; want a on 3", got.Backup.ID, got.Timeline, err)
	}
}

func TestPlanNeverPromisesWhatIsNotThere(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var backups []plan.Backup
		var pieces []ledger.Stretch
		end := wal.LSN(0)
		for range rapid.IntRange(1, 4).Draw(t, "pieces") {
			from := end + wal.LSN(rapid.IntRange(0, 3).Draw(t, "hole"))
			end = from + wal.LSN(rapid.IntRange(1, 10).Draw(t, "length"))
			pieces = append(pieces, piece(1, from, end, int(end)))
		}
		for i := range rapid.IntRange(0, 5).Draw(t, "backups") {
			stop := wal.LSN(rapid.IntRange(1, 40).Draw(t, "stop"))
			backups = append(backups, backup(fmt.Sprint(i), 1, stop, int(stop)))
		}
		have := log(timeline(wal.NewHistory(1), pieces...))
		lsn := wal.LSN(rapid.IntRange(1, 50).Draw(t, "target"))
		got, err := plan.Choose(plan.Target{Kind: plan.AtLSN, LSN: lsn * mb}, backups, have)
		reachable := false
		for _, b := range backups {
			reachable = reachable || b.Stop <= lsn*mb && covered(pieces, b.Start, lsn*mb)
		}
		if (err == nil) != reachable {
			t.Fatalf("%v with %v: planned %v, %v", backups, pieces, got, err)
		}
		if err != nil {
			return
		}
		for _, b := range backups {
			if b.Stop <= lsn*mb && b.Stop > got.Backup.Stop {
				t.Fatalf("%v was chosen, %v is newer", got.Backup, b)
			}
		}
		inside := false
		for _, w := range plan.Windows(backups, have) {
			inside = inside || w.From <= lsn*mb && lsn*mb <= w.To
		}
		if !inside {
			t.Fatalf("planned, but in no window")
		}
	})
}

// covered says it byte by megabyte.
func covered(pieces []ledger.Stretch, from, to wal.LSN) bool {
	for ; from < to; from = (from + mb) &^ (mb - 1) {
		found := false
		for _, p := range pieces {
			found = found || p.From <= from && from < p.To
		}
		if !found {
			return false
		}
	}
	return true
}
