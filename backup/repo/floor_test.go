package repo_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"rootstream/backup/repo"
	"rootstream/backup/storage"
	"rootstream/backup/wal"
	"rootstream/errs"
	"rootstream/tests/harness"
)

const segSize = 16 << 20

// spanning is a backup without files that recovery begins in one segment and ends before another.
func spanning(id string, from, to wal.LSN) *repo.Manifest {
	return &repo.Manifest{
		ID: id, Type: repo.Full, Cluster: repo.Cluster{SystemID: system, Major: 15, SegmentSize: segSize},
		StartLSN: from*segSize + 0x28, StopLSN: to * segSize, StartTimeline: 1, StopTimeline: 1,
	}
}

// keep commits a backup.
func keep(t *testing.T, r *repo.Repo, m *repo.Manifest) {
	t.Helper()
	s, ctx := begin(t, r, writer())
	if err := s.Commit(ctx, m); err != nil {
		t.Fatal(err)
	}
}

// store puts segments of timeline 1 into the repository.
func store(t *testing.T, r *repo.Repo, of uint64, from, to wal.LSN) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := r.PutWAL(t.Context(), of, wal.SegmentName(1, i*segSize, segSize), []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
}

// stored says which files of a log there are: the numbers of segments of timeline 1, and other names.
func stored(t *testing.T, r *repo.Repo, of uint64) string {
	t.Helper()
	var names []string
	for _, tli := range []wal.TimelineID{1, 2} {
		for info, err := range r.ListWAL(t.Context(), of, tli) {
			if err != nil {
				t.Fatal(err)
			}
			if n, _ := wal.ParseName(info.Name); n.Kind == wal.Segment && tli == 1 {
				start, _ := n.Start(segSize)
				info.Name = fmt.Sprint(start.Segment(segSize))
			}
			names = append(names, info.Name)
		}
		open, err := r.OpenSegments(t.Context(), of, tli)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range open {
			names = append(names, "pieces of "+name)
		}
	}
	return strings.Join(names, " ")
}

func TestLogBelowWhatBackupsNeedGoes(t *testing.T) {
	t.Parallel()
	st := newStorage(t)
	r := open(t, st)
	ctx := t.Context()
	store(t, r, system, 0, 7)
	second := wal.SegmentName(1, 2*segSize, segSize)
	for name, body := range map[string]string{"00000002.history": "1\t0/3000000\tx\n", second + ".00000028.backup": "x", second + ".partial": "x"} {
		if err := r.PutWAL(ctx, system, name, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{wal.SegmentName(1, 7*segSize, segSize), wal.SegmentName(2, 3*segSize, segSize)} {
		if err := r.PutPiece(ctx, system, name, 0, []byte{1}); err != nil {
			t.Fatal(err)
		}
	}
	keep(t, r, spanning("a1", 1, 2))
	keep(t, r, spanning("b2", 4, 5))
	m := spanning("c3", 6, 7) // on another timeline, which branched off in segment 3
	m.StartTimeline, m.StopTimeline = 2, 2
	keep(t, r, m)
	if got, want := stored(t, r, system), "0 1 2 "+second+".00000028.backup "+second+".partial 3 4 5 6 pieces of "; !strings.HasPrefix(got, want) {
		t.Fatalf("there is %s", got)
	}

	dry, err := r.Delete(ctx, []string{"a1"}, true)
	if err != nil {
		t.Fatal(err)
	}
	done := remove(t, r, "a1")
	if done.WALFiles != 7 || done.Objects != 7 || done.WALBytes == 0 || dry.WALFiles != 7 || dry.WALBytes != done.WALBytes || dry.Bytes != done.Bytes {
		t.Errorf("deleted %+v, foreseen %+v", done, dry)
	}
	left := "4 5 6 pieces of " + wal.SegmentName(1, 7*segSize, segSize) + " 00000002.history"
	if got := stored(t, r, system); got != left {
		t.Errorf("left: %s; want %s", got, left)
	}
	if again := remove(t, r); again.Objects != 0 || len(intents(t, st)) != 1 {
		t.Errorf("once more: %+v, %d intents", again, len(intents(t, st)))
	}
	requireSound(t, r)
}

// Whoever stores the log of a timeline may not have stored yet where it comes from. An older backup may lead to it all the same.
func TestLogOfATimelineStaysWhileNobodyKnowsWhereItComesFrom(t *testing.T) {
	t.Parallel()
	r := open(t, newStorage(t))
	ctx := t.Context()
	store(t, r, system, 0, 4)
	for i := range wal.LSN(6) {
		if err := r.PutWAL(ctx, system, wal.SegmentName(2, (3+i)*segSize, segSize), []byte{2, byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	keep(t, r, spanning("a1", 0, 1))
	keep(t, r, spanning("b2", 2, 3))
	m := spanning("c3", 7, 8)
	m.StartTimeline, m.StopTimeline = 2, 2
	keep(t, r, m)
	before := stored(t, r, system)
	if remove(t, r, "a1"); stored(t, r, system) != strings.TrimPrefix(before, "0 1 ") {
		t.Errorf("b2 is kept, and may lead to timeline 2: of %s there is left %s", before, stored(t, r, system))
	}
	if err := r.PutWAL(ctx, system, wal.HistoryName(2), []byte("1\t0/800000\tin segment 0, before b2\n")); err != nil {
		t.Fatal(err)
	}
	remove(t, r)
	if got := strings.Fields(stored(t, r, system)); len(got) != 5 || got[2] != wal.HistoryName(2) || got[3] != wal.SegmentName(2, 7*segSize, segSize) {
		t.Errorf("it is known now that none but c3 leads to it: there is %v", got)
	}
}

func intents(t *testing.T, st storage.Storage) (names []string) {
	t.Helper()
	for o, err := range st.List(t.Context(), "intents/") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, o.Name)
	}
	return names
}

// A backup of a standby begins where the standby made its last restartpoint, which may be long before its run, and before any other
// backup that is kept. It is taken at any moment of a deletion that has read a catalog without it.
func TestWhateverADeletionIsDoingNoBackupLosesItsLog(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]moment{
		"of a run that began before":                    {began: true, spared: true},
		"of a run that begins meanwhile":                {},
		"after others ended it, and the log came again": {late: true},
		"of a run that began before those who ended it": {began: true, late: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stride, committed, refused := 3, 0, 0
			if soak(t) {
				stride = 1
			}
			for calls := 1 + int(harness.Seed(t)%uint64(stride)); ; calls += stride {
				err, more := m.at(t, calls)
				switch {
				case err == nil:
					committed++
				case !m.spared && errors.Is(err, repo.ErrLogGone) && errs.KindOf(err) == errs.Unavailable && errs.Of(err).Hint != "":
					refused++
				default:
					t.Errorf("call %d: the backup: %v", calls, err)
				}
				if !more {
					break
				}
			}
			if committed == 0 || refused == 0 && !m.spared {
				t.Errorf("%d backups were committed, %d refused", committed, refused)
			}
		})
	}
}

type moment struct {
	began  bool // the run, before the deletion
	spared bool // is always what it needs
	late   bool // the deletion is taken for dead, and wakes
}

// at takes the backup while a deletion is stopped before one of its calls, and reports whether it came that far.
func (m moment) at(t *testing.T, calls int) (outcome error, more bool) {
	t.Helper()
	st := newStorage(t)
	r := open(t, st)
	store(t, r, system, 0, 7)
	keep(t, r, spanning("a1", 0, 1))
	keep(t, r, spanning("b2", 5, 6))
	var s *repo.Session
	var run context.Context
	if m.began {
		s, run = begin(t, r, writer())
	}
	f, result := deleteBeside(t, st, calls)
	select {
	case <-f.frozen:
		more = true
	case err := <-result:
		result <- err
	}
	if m.late {
		r = open(t, ahead{st})
		if m.began { // a run that is not taken for dead
			_ = s.Abort(run)
			s, run = begin(t, r, writer())
		}
		if _, err := r.Delete(t.Context(), nil, false); err != nil {
			t.Errorf("call %d: another deletion: %v", calls, err)
		}
		store(t, r, system, 0, 7)
	}
	if !m.began {
		s, run = begin(t, r, writer())
	}
	outcome = s.MayBegin(spanning("c3", 3, 6))
	if outcome == nil {
		outcome = s.Commit(run, spanning("c3", 3, 6))
	}
	_ = s.Abort(run)
	close(f.thaw)
	if err := <-result; err != nil && !errors.Is(err, repo.ErrLeaseLost) {
		t.Errorf("call %d: the deletion: %v", calls, err)
	}
	if got := stored(t, r, system); outcome == nil && !strings.HasSuffix(got, "3 4 5 6") {
		t.Errorf("call %d: a backup that needs 3 to 5 is committed; there is %s", calls, got)
	}
	if _, err := r.Manifest(t.Context(), "c3"); (err == nil) != (outcome == nil) {
		t.Errorf("call %d: the backup said %v; looked for: %v", calls, outcome, err)
	}
	finish(t, st, outcome == nil)
	return outcome, more
}

// finish deletes what is left to, after which only what one backup needs may be there.
func finish(t *testing.T, st storage.Storage, taken bool) {
	t.Helper()
	r := open(t, ahead{st})
	entries, err := r.Catalog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, e := range entries {
		if e.ID != "b2" {
			ids = append(ids, e.ID)
		}
	}
	if taken != slices.Contains(ids, "c3") {
		t.Errorf("the catalog has %v", ids)
	}
	remove(t, r, ids...)
	if got := stored(t, r, system); got != "5 6" || len(intents(t, st)) != 1 {
		t.Errorf("in the end there is %s, and %d intents", got, len(intents(t, st)))
	}
}

func TestADeletionOfLogWaitsForARunThatBeganBeforeAndNotForADeadOne(t *testing.T) {
	t.Parallel()
	st := newStorage(t)
	r := open(t, st)
	store(t, r, system, 0, 4)
	keep(t, r, spanning("a1", 2, 3))
	s, ctx := begin(t, r, writer())
	for range 2 {
		if report := remove(t, r); len(report.Waiting) != 1 || report.WALFiles != 0 || stored(t, r, system) != "0 1 2 3" {
			t.Errorf("%+v, left: %s", report, stored(t, r, system))
		}
	}
	late := open(t, ahead{st}) // the run has said nothing for long
	if report := remove(t, late); len(report.Waiting) != 0 || report.WALFiles != 2 || stored(t, r, system) != "2 3" {
		t.Errorf("%+v, left: %s", report, stored(t, r, system))
	}
	if err := s.Commit(ctx, spanning("b2", 1, 3)); !errors.Is(err, repo.ErrLeaseLost) {
		t.Errorf("the dead run: %v", err)
	}
}

// Backups overlap: whenever a deletion looks, there is a run that began before it.
func TestABusyRepositoryLosesOldLogAllTheSame(t *testing.T) {
	t.Parallel()
	st := newStorage(t)
	r := open(t, st)
	s, ctx := begin(t, r, repo.RunInfo{Kind: "backup"})
	var older []string
	for i := range wal.LSN(5) {
		store(t, r, system, 2*i, 2*i+2)
		next, nextCtx := begin(t, r, repo.RunInfo{Kind: "backup"})
		id := fmt.Sprintf("b%d", uint64(i))
		if err := s.Commit(ctx, spanning(id, 2*i, 2*i+1)); err != nil {
			t.Fatal(err)
		}
		if report := remove(t, r, older...); i > 0 && len(report.Waiting) != 1 {
			t.Fatalf("no run was there: %+v", report)
		}
		if got := stored(t, r, system); i > 0 && !strings.HasPrefix(got, fmt.Sprintf("%d ", uint64(2*i-2))) || len(intents(t, st)) > 4 {
			t.Errorf("%s is the only backup; there is log %s, and %d intents", id, got, len(intents(t, st)))
		}
		s, ctx, older = next, nextCtx, []string{id}
	}
}

func TestLogOfWhichNobodyKnowsWhatIsNeededStays(t *testing.T) {
	t.Parallel()
	const other = system + 1
	dump := spanning("d4", 3, 4)
	dump.Type, dump.Cluster = repo.Logical, repo.Cluster{SystemID: other, Major: 15}
	resized := spanning("c3", 3, 4)
	resized.Cluster.SystemID, resized.Cluster.SegmentSize = other, 2*segSize
	foreign := spanning("e5", 2, 3)
	foreign.Cluster.SystemID = other
	for _, tt := range []struct {
		name    string
		backups []*repo.Manifest
		left    string
	}{
		{"of a cluster without backups", nil, "0 1 2 3"},
		{"of one with dumps", []*repo.Manifest{dump}, "0 1 2 3"},
		{"of one whose segments changed their size", []*repo.Manifest{resized, foreign}, "0 1 2 3"},
		{"but not of one with a backup", []*repo.Manifest{dump, foreign}, "2 3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := config()
			cfg.NewCluster = true
			r, err := repo.Open(t.Context(), newStorage(t), []repo.Key{fileKey("a")}, cfg)
			if err != nil {
				t.Fatal(err)
			}
			store(t, r, system, 0, 4)
			store(t, r, other, 0, 4)
			keep(t, r, spanning("a1", 1, 2))
			for _, m := range tt.backups {
				s, ctx := begin(t, r, repo.RunInfo{Kind: "backup", Lease: "writer", System: other})
				if err := s.Commit(ctx, m); err != nil {
					t.Fatal(err)
				}
			}
			remove(t, r)
			if got := stored(t, r, other); got != tt.left || stored(t, r, system) != "1 2 3" {
				t.Errorf("left: %s; of the other cluster %s, want %s", stored(t, r, system), got, tt.left)
			}
			s, ctx := begin(t, r, repo.RunInfo{Kind: "backup", Lease: "writer", System: other})
			late := spanning("f6", 1, 3)
			late.Cluster.SystemID = other
			if err := s.Commit(ctx, late); errors.Is(err, repo.ErrLogGone) != (tt.left == "2 3") {
				t.Errorf("a backup from 1 on: %v", err)
			}
		})
	}
}
