package restore_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"rootstream/backup/repo"
	"rootstream/backup/restore"
	"rootstream/backup/restore/plan"
	"rootstream/backup/wal"
	"rootstream/backup/wal/record"
	"rootstream/pgserver"
	"rootstream/tests/harness"
)

// entry is a commit that the server acknowledged.
type entry struct {
	ID       int
	XID      uint64
	LSN      wal.LSN // of the log right after it
	At       time.Time
	Point    string // the restore point right after it, if any
	Timeline wal.TimelineID
}

// write commits n entries one after the other, beside other work, and returns what was acknowledged.
func (w *world) write(s *pgserver.Server, tli wal.TimelineID, from, n int) []entry {
	w.t.Helper()
	conn := w.connect(s)
	var wg sync.WaitGroup
	wg.Go(func() { w.work(s, n*2) })
	defer wg.Wait()
	var ledger []entry
	for id := from; id < from+n; id++ {
		e := entry{ID: id, Timeline: tli}
		xid := ask(w.t, conn, "insert into ledger values ($1) returning pg_current_xact_id()::text", id)
		e.LSN = position(w.t, conn)
		var err error
		e.XID, err = strconv.ParseUint(xid, 10, 64)
		must(w.t, err)
		must(w.t, conn.QueryRow(w.t.Context(), "select pg_xact_commit_timestamp($1::text::xid)", xid).Scan(&e.At))
		if id%3 == 0 {
			e.Point = fmt.Sprintf("after %d", id)
			run(w.t, conn, "select pg_create_restore_point($1)", e.Point)
		}
		ledger = append(ledger, e)
	}
	return ledger
}

func TestRecoveryEndsExactlyAtItsTargetOnEveryTimeline(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.openBank(w.server)
	conn := w.connect(w.server)
	run(t, conn, "create table ledger (id int primary key)")
	w.backup(repo.Full)
	begin := position(t, conn)
	first := w.write(w.server, 1, 1, 40)
	w.backup(repo.Incremental)
	first = append(first, w.write(w.server, 1, 41, 40)...)
	w.archived(w.server)

	// The cluster goes back to an earlier moment and lives on from there.
	branch := first[59]
	cfg := w.config("second")
	cfg.Target = plan.Target{Kind: plan.AtLSN, LSN: branch.LSN}
	cfg.Settings["archive_mode"] = "on"
	_, second := w.restore(cfg)
	if tli := ask(t, w.connect(second), "select timeline_id::text from pg_control_checkpoint()"); tli != "2" {
		t.Fatalf("it lives on on timeline %s", tli)
	}
	must(t, w.server.Stop(t.Context(), pgserver.Fast))
	w.server = second
	later := w.write(second, 2, 1001, 30)
	w.backup(repo.Full)
	later = append(later, w.write(second, 2, 1031, 30)...)
	w.archived(second)

	ledgers := map[wal.TimelineID][]entry{1: first, 2: append(append([]entry{}, first[:60]...), later...)}
	commits := map[wal.TimelineID][]record.Record{1: w.commits(1, begin), 2: w.commits(2, begin)}
	rng := rand.New(rand.NewPCG(harness.Seed(t), 4))
	n := 10
	if harness.Soak(t, 0) > 0 {
		n = 100
	}
	kinds := []plan.Kind{plan.AtTime, plan.AtLSN, plan.AtXID, plan.AtName}
	for i := range n {
		tli := wal.TimelineID(1 + i%2)
		ledger := ledgers[tli]
		target, want := aim(rng, kinds[i/2%len(kinds)], ledger, commits[tli])
		target.Timeline = tli
		t.Run(fmt.Sprintf("%d %s on timeline %d", i, target, tli), func(t *testing.T) {
			t.Parallel()
			w.of(t).recoversTo(fmt.Sprint("target", i), target, want)
		})
	}
	w.refuses(first, later)
}

// commits are those on the way to a timeline, as the log has them.
func (w *world) commits(tli wal.TimelineID, from wal.LSN) []record.Record {
	w.t.Helper()
	path := wal.NewHistory(1)
	if tli == 2 {
		text, err := w.repo.GetWAL(w.t.Context(), w.system, wal.HistoryName(2))
		must(w.t, err)
		path, err = wal.ParseHistory(2, text)
		must(w.t, err)
	}
	var all []record.Record
	for rec, err := range record.Scan(from, wal.DefaultSegmentSize, func(start wal.LSN) ([]byte, error) {
		for _, name := range path.Candidates(start, wal.DefaultSegmentSize) {
			data, err := w.repo.GetWAL(w.t.Context(), w.system, name)
			if !errors.Is(err, repo.ErrWALAbsent) {
				return data, err
			}
		}
		return nil, record.ErrEnd
	}) {
		must(w.t, err)
		if rec.Kind == record.Commit {
			all = append(all, rec)
		}
	}
	return all
}

// aim chooses a target at random and says what has to be there.
func aim(rng *rand.Rand, kind plan.Kind, ledger []entry, commits []record.Record) (plan.Target, []int) {
	i := 1 + rng.IntN(len(ledger)-2)
	if kind == plan.AtName {
		for ledger[i].Point == "" {
			i = (i + 1) % len(ledger)
		}
	}
	e := ledger[i]
	t := plan.Target{Kind: kind, Exclusive: kind != plan.AtName && rng.IntN(2) == 0, Action: plan.Promote}
	last := i
	switch kind {
	case plan.AtTime:
		t.Time = e.At
		// Commits of several sessions are in the log in another order than in time; it ends before the first that is too late.
		for _, c := range commits {
			if c.Time.After(t.Time) || t.Exclusive && c.Time.Equal(t.Time) {
				last = countBefore(ledger, commits, c.Start) - 1
				break
			}
		}
	case plan.AtLSN:
		t.LSN = e.LSN
	case plan.AtXID:
		if t.XID = e.XID; t.Exclusive {
			last--
		}
	case plan.AtName:
		t.Name = e.Point
	case plan.Latest, plan.Immediate:
	}
	want := []int{}
	for _, e := range ledger[:last+1] {
		want = append(want, e.ID)
	}
	return t, want
}

// countBefore counts the entries whose commits are in the log before a position.
func countBefore(ledger []entry, commits []record.Record, at wal.LSN) (n int) {
	ours := map[uint32]bool{}
	for _, e := range ledger {
		ours[uint32(e.XID)] = true
	}
	for _, c := range commits {
		if c.Start < at && ours[c.XID] {
			n++
		}
	}
	return n
}

func (w *world) recoversTo(name string, target plan.Target, want []int) {
	w.t.Helper()
	cfg := w.config(name)
	cfg.Target = target
	defer func() { must(w.t, os.RemoveAll(cfg.Dir)) }()
	_, s := w.restore(cfg)
	conn := w.connect(s)
	rows, err := conn.Query(w.t.Context(), "select id from ledger order by id")
	must(w.t, err)
	got, err := pgx.CollectRows(rows, pgx.RowTo[int])
	must(w.t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("(-acknowledged before the target +restored):\n%s", diff)
	}
	checkBank(w.t, conn)
	must(w.t, s.Stop(w.t.Context(), pgserver.Immediate))
}

// refuses tries what is outside of the window: nothing must be touched.
func (w *world) refuses(first, later []entry) {
	end := later[len(later)-1]
	for name, target := range map[string]plan.Target{
		"time before the first backup":    {Kind: plan.AtTime, Time: first[0].At.Add(-time.Hour)},
		"time in the future":              {Kind: plan.AtTime, Time: end.At.Add(time.Hour)},
		"position in the future":          {Kind: plan.AtLSN, LSN: end.LSN + 1<<40},
		"position before":                 {Kind: plan.AtLSN, LSN: 1 << 20},
		"a transaction of another branch": {Kind: plan.AtXID, XID: first[79].XID + 1_000_000},
		"a point on another branch":       {Kind: plan.AtName, Name: first[77].Point, Timeline: 2},
		"a point that is not there":       {Kind: plan.AtName, Name: "nowhere"},
	} {
		cfg := w.config("refused")
		cfg.Target = target
		_, err := restore.Run(w.t.Context(), cfg, w.repo)
		if !errors.Is(err, plan.ErrOutside) {
			w.t.Errorf("%s: %v, want a refusal", name, err)
		}
		if _, err := os.Lstat(cfg.Dir); !errors.Is(err, os.ErrNotExist) {
			w.t.Errorf("%s: something was made: %v", name, err)
		}
	}
}
