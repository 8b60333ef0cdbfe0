package base_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"rootstream/backup/base"
	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
)

func TestParentIsTheLastThatFits(t *testing.T) {
	t.Parallel()
	entry := func(id string, kind repo.Type, system uint64, timeline wal.TimelineID, stop wal.LSN) repo.Entry {
		var e repo.Entry
		e.ID, e.Type, e.Cluster.SystemID, e.StopTimeline, e.StopLSN = id, kind, system, timeline, stop
		return e
	}
	damaged := entry("damaged", repo.Full, 1, 9, 900)
	damaged.Err = errors.New("damaged")
	catalog := []repo.Entry{
		entry("f1", repo.Full, 1, 1, 100), entry("i1", repo.Incremental, 1, 1, 300), entry("f2", repo.Full, 1, 1, 200),
		entry("other", repo.Full, 2, 5, 800), entry("dump", repo.Logical, 1, 1, 700), damaged,
	}
	newer := append(catalog, entry("i2", repo.Incremental, 1, 2, 150)) // a later timeline, though an earlier position
	for _, tt := range []struct {
		name    string
		kind    repo.Type
		reuse   bool
		catalog []repo.Entry
		want    string
	}{
		{"a full one has none", repo.Full, false, catalog, ""},
		{"a full one that reuses has the last", repo.Full, true, catalog, "i1"},
		{"incremental: the last of any type", repo.Incremental, false, catalog, "i1"},
		{"incremental: the later timeline", repo.Incremental, false, newer, "i2"},
		{"differential: the last full one", repo.Differential, false, newer, "f2"},
		{"nothing there", repo.Incremental, false, nil, ""},
		{"only other clusters", repo.Incremental, false, catalog[3:4], ""},
	} {
		if got, found := base.ParentOf(tt.kind, tt.reuse, tt.catalog, 1); got != tt.want || found != (tt.want != "") {
			t.Errorf("%s: %q, %v", tt.name, got, found)
		}
	}
}

func TestTimesAreTrustedOnlyWhereNothingPlaysTricks(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	parent := repo.Manifest{Source: "here", StopTimeline: 3, Completed: now.Add(-time.Hour)}
	parent.Cluster.DataChecksums = true
	for _, tt := range []struct {
		name      string
		source    string
		timeline  wal.TimelineID
		checksums bool
		now       time.Time
		trusted   bool
	}{
		{"all as it was", "here", 3, true, now, true},
		{"another folder", "there", 3, true, now, false},
		{"another timeline", "here", 4, true, now, false},
		{"checksums switched", "here", 3, false, now, false},
		{"a clock set back", "here", 3, true, now.Add(-2 * time.Hour), false},
	} {
		if why := base.Distrust(parent, tt.source, tt.timeline, tt.checksums, tt.now); (why == "") != tt.trusted {
			t.Errorf("%s: %q", tt.name, why)
		}
	}
	const before = 1000
	file := func(mod, size int64) *repo.File { return &repo.File{Kind: repo.Regular, ModTime: mod, Size: size} }
	for _, tt := range []struct {
		name      string
		mod, size int64
		parent    *repo.File
		odd, same bool
	}{
		{"as it was", before, 5, file(before, 5), false, true},
		{"new", before, 5, nil, false, false},
		{"changed", before + 1, 5, file(before, 5), false, false},
		{"grew", before + 1, 6, file(before, 5), false, false},
		{"earlier than it was", before - 1, 5, file(before, 5), true, false},
		{"other size, same time", before, 6, file(before, 5), true, false},
		{"in the future", now.UnixNano() + 1, 5, file(before, 5), true, false},
		{"no time known", 0, 5, file(0, 5), false, false},
		{"the parent's time not known", before, 5, file(0, 5), false, false},
		{"was a link", before, 0, &repo.File{Kind: repo.Symlink, ModTime: before}, false, false},
	} {
		e := pgdata.Entry{Path: "base/1/1", ModTime: tt.mod, Size: tt.size}
		if odd := base.Anomaly(e, tt.parent, now); (odd != "") != tt.odd {
			t.Errorf("%s: odd %q", tt.name, odd)
		}
		if same := base.Unchanged(e, tt.parent); same != tt.same {
			t.Errorf("%s: unchanged %v", tt.name, same)
		}
	}
}

// A large folder takes a while to look at; what its server writes meanwhile is not from the future.
func TestWhatIsWrittenDuringTheLookIsNoTrick(t *testing.T) {
	t.Parallel()
	why, err := base.Odd(func(yield func(base.Listed) bool) {
		l := listed("base/1/1001", page, nil)
		for began := time.Now(); l.Entry.ModTime <= began.UnixNano(); {
			l = listed("base/1/1001", page, nil)
		}
		yield(l)
	})
	if err != nil || why != "" {
		t.Errorf("%q, %v", why, err)
	}
	ahead := listed("base/1/1001", page, nil)
	ahead.Entry.ModTime += int64(time.Hour)
	if why, err = base.Odd(slices.Values([]base.Listed{ahead})); err != nil || why == "" {
		t.Errorf("%q, %v: a clock was set back", why, err)
	}
}
