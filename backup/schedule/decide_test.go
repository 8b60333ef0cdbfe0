package schedule_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"rootstream/backup/schedule"
)

func job(tb testing.TB, k schedule.Kind, cron string) schedule.Job {
	tb.Helper()
	return schedule.Job{Kind: k, Cron: mustCron(tb, cron, "")}
}

// told writes what is due, or what people are told, in one line.
func told[T any](all []T) string {
	var words []string
	for _, v := range all {
		switch x := any(v).(type) {
		case schedule.Due:
			words = append(words, fmt.Sprintf("%s@%s", x.Job.Kind, x.Planned.Format("02T15:04")))
		case schedule.Alert:
			words = append(words, fmt.Sprintf("%s %s@%s", x.Kind, x.Problem, x.Planned.Format("02T15:04")))
		}
	}
	return strings.Join(words, ", ")
}

func TestWhatIsDue(t *testing.T) {
	t.Parallel()
	full, incr, prune := job(t, schedule.Full, "0 3 * * SUN"), job(t, schedule.Incremental, "0 3 * * *"), job(t, schedule.Prune, "0 5 * * *")
	jobs := []schedule.Job{prune, incr, full}
	since := at(t, "2026-11-20T12:00:00Z")
	for _, tt := range []struct {
		name   string
		now    string
		empty  bool
		record schedule.Record // of incremental; others were just first seen
		want   string
	}{
		{name: "nothing planned yet", now: "2026-11-20T12:00:01Z"},
		{name: "its time has come", now: "2026-11-21T03:00:00Z", want: "incremental@21T03:00"},
		{name: "the stronger first", now: "2026-11-22T03:00:00Z", want: "full@22T03:00, incremental@22T03:00, prune@21T05:00"},
		{name: "missed often, made up for once", now: "2026-11-28T12:00:00Z", want: "full@22T03:00, incremental@28T03:00, prune@28T05:00"},
		{name: "no backup at all", now: "2026-11-20T12:00:01Z", empty: true, want: "full@20T12:00"},
		{name: "a failure is not tried again at once", now: "2026-11-21T03:09:00Z", record: schedule.Record{Since: since, Planned: at(t, "2026-11-21T03:00:00Z"), Ended: at(t, "2026-11-21T03:00:10Z"), Failures: 1, Error: "x"}},
		{name: "a failure is tried again", now: "2026-11-21T03:11:00Z", record: schedule.Record{Since: since, Planned: at(t, "2026-11-21T03:00:00Z"), Ended: at(t, "2026-11-21T03:00:10Z"), Failures: 1, Error: "x"}, want: "incremental@21T03:00"},
		{name: "but not for ever", now: "2026-11-21T23:00:00Z", record: schedule.Record{Since: since, Planned: at(t, "2026-11-21T03:00:00Z"), Ended: at(t, "2026-11-21T03:00:10Z"), Failures: 4, Error: "x"}, want: "prune@21T05:00"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := schedule.Ledger{Jobs: map[string]schedule.Record{full.Name(): {Since: since}, incr.Name(): {Since: since}, prune.Name(): {Since: since}}}
			if !tt.record.Since.IsZero() {
				l.Jobs[incr.Name()] = tt.record
			}
			if diff := cmp.Diff(tt.want, told(schedule.Decide(jobs, l, at(t, tt.now), tt.empty))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWhatPeopleAreTold(t *testing.T) {
	t.Parallel()
	incr := job(t, schedule.Incremental, "0 3 * * *")
	since, slot := at(t, "2026-11-20T12:00:00Z"), at(t, "2026-11-21T03:00:00Z")
	for _, tt := range []struct {
		name   string
		now    string
		record schedule.Record
		want   string
	}{
		{"nobody ran it, still in time", "2026-11-21T08:59:00Z", schedule.Record{Since: since}, ""},
		{"nobody ran it", "2026-11-21T09:01:00Z", schedule.Record{Since: since}, "incremental overdue@21T03:00"},
		{"nobody ran it, and that was told", "2026-11-21T10:00:00Z", schedule.Record{Since: since, Told: schedule.Told{Problem: schedule.Overdue, Planned: slot}}, ""},
		{"nobody ran it the next day either", "2026-11-22T10:00:00Z", schedule.Record{Since: since, Told: schedule.Told{Problem: schedule.Overdue, Planned: slot}}, "incremental overdue@22T03:00"},
		{"it failed", "2026-11-21T03:01:00Z", schedule.Record{Since: since, Planned: slot, Failures: 1, Error: "disk full"}, "incremental failed@21T03:00"},
		{"it failed, and that was told", "2026-11-21T03:20:00Z", schedule.Record{Since: since, Planned: slot, Failures: 2, Error: "disk full", Told: schedule.Told{Problem: schedule.Failed, Planned: slot}}, ""},
		{"it goes on failing until it is overdue", "2026-11-21T09:20:00Z", schedule.Record{Since: since, Planned: slot, Failures: 4, Error: "disk full", Told: schedule.Told{Problem: schedule.Failed, Planned: slot}}, "incremental overdue@21T03:00"},
		{"it works again", "2026-11-21T09:20:00Z", schedule.Record{Since: since, Planned: slot, Covered: slot, Told: schedule.Told{Problem: schedule.Failed, Planned: slot}}, "incremental recovered@21T03:00"},
		{"all is well", "2026-11-21T09:20:00Z", schedule.Record{Since: since, Planned: slot, Covered: slot}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := schedule.Ledger{Jobs: map[string]schedule.Record{incr.Name(): tt.record}}
			if diff := cmp.Diff(tt.want, told(schedule.Problems([]schedule.Job{incr}, l, at(t, tt.now)))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestJitterStaysWithinItsBoundAndIsTheSameEverywhere(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		cron, err := schedule.ParseCron("0 * * * *", "")
		if err != nil {
			t.Fatal(err)
		}
		j := schedule.Job{Kind: schedule.Full, Cron: cron, Jitter: 20 * time.Minute}
		slot := time.Date(2026, 1, 1, rapid.IntRange(1, 5000).Draw(t, "hour"), 0, 0, 0, time.UTC)
		l := schedule.Ledger{Jobs: map[string]schedule.Record{j.Name(): {Since: slot.Add(-time.Minute)}}}
		due := func(after time.Duration) bool {
			return len(schedule.Decide([]schedule.Job{j}, l, slot.Add(after), false)) > 0
		}
		if due(-time.Second) || !due(j.Jitter) {
			t.Fatalf("before its time: %t, after the longest jitter: %t", due(-time.Second), due(j.Jitter))
		}
		begun := false
		for after := time.Duration(0); after <= j.Jitter; after += 10 * time.Second {
			if begun && !due(after) {
				t.Fatal("due, and then not any more")
			}
			begun = begun || due(after)
		}
	})
}

func TestFaultyJobsAreAllNamed(t *testing.T) {
	t.Parallel()
	ok := job(t, schedule.Full, "0 3 * * *")
	err := schedule.Check([]schedule.Job{ok, ok, {Kind: "weekly", Cron: ok.Cron}, {Kind: schedule.Prune, Cron: ok.Cron}, {Kind: schedule.Verify, Cron: ok.Cron, Jitter: 24 * time.Hour}})
	for _, want := range []string{"schedule[1] is there twice", "schedule[2].kind", "schedule[4].jitter"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

func TestOwedIsTheNewestTimeWhosePatienceIsOver(t *testing.T) {
	t.Parallel()
	jobs := []schedule.Job{job(t, schedule.Full, "0 3 * * SUN"), job(t, schedule.Incremental, "0 3 * * *"), job(t, schedule.TestRestore, "0 4 * * SUN")}
	kinds := []schedule.Kind{schedule.Full, schedule.Incremental}
	for now, want := range map[string]string{"2026-11-27T08:59:00Z": "2026-11-26T03:00:00Z", "2026-11-27T09:00:00Z": "2026-11-27T03:00:00Z"} {
		if got := schedule.Owed(jobs, at(t, now), kinds...); !got.Equal(at(t, want)) {
			t.Errorf("at %s a backup is owed since %s, want %s", now, got, want)
		}
	}
	if got := schedule.Owed(jobs, at(t, "2026-11-27T09:00:00Z"), schedule.TestRestore); !got.Equal(at(t, "2026-11-22T04:00:00Z")) {
		t.Errorf("a proof is owed since %s", got)
	}
	if got := schedule.Owed(jobs, at(t, "2026-11-27T09:00:00Z"), schedule.Verify); !got.IsZero() {
		t.Errorf("what no job does is owed since %s", got)
	}
}
