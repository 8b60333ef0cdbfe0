package backup_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"rootstream/backup"
	"rootstream/backup/wal"
)

var today = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// aged makes backups out of words: type letter, age in days, then ! proven, ^ pinned, ~ damaged, @N timeline.
func aged(words string) []backup.Backup {
	var all []backup.Backup
	for w := range strings.FieldsSeq(words) {
		b := backup.Backup{ID: w, Status: backup.StatusCompleted, Timeline: 1, System: "7"}
		b.Type = map[byte]backup.Type{'F': backup.Full, 'D': backup.Differential, 'I': backup.Incremental, 'L': backup.Logical}[w[0]]
		var age int
		_, _ = fmt.Sscanf(w[1:], "%d", &age)
		b.CompletedAt = today.Add(-time.Duration(age) * 24 * time.Hour)
		b.StartLSN = wal.LSN(1000-age) << 20
		b.StopLSN = b.StartLSN + 4096
		if strings.Contains(w, "!") {
			b.Proof = &backup.Proof{Kind: backup.ProofRestore, OK: true}
		}
		b.Pinned = strings.Contains(w, "^")
		if strings.Contains(w, "~") {
			b.Status = backup.StatusDamaged
		}
		if strings.Contains(w, "old") {
			b.System = "6"
		}
		all = append(all, b)
	}
	return all
}

func deleted(verdicts []backup.Verdict) string {
	var ids []string
	for _, v := range verdicts {
		if v.Delete {
			ids = append(ids, v.ID)
		}
	}
	return strings.Join(ids, " ")
}

func TestWhatIsKept(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		have   string
		policy backup.Retention
		want   string
	}{
		{"30 days full, 7 differential, 3 incremental", "I1 I2 I4 D6 D8 F29 F31 L29 L31", backup.Retention{}, "I4 D8 F31 L31"},
		{"the newest two whatever their age", "F100 F200 F300", backup.Retention{}, "F300"},
		{"a minimum of one", "F100 F200 F300", backup.Retention{Minimum: 1}, "F200 F300"},
		{"a logical dump is no whole backup", "L1 L2 F100 F200 F300", backup.Retention{}, "F300"},
		{"a damaged one does not count", "F1~ F2~ F100 F200 F300", backup.Retention{}, "F300"},
		{"a damaged one expires like others", "F1 F2 F40~", backup.Retention{}, "F40~"},
		{"one of which no more is known than its age expires like full ones", "F1 F2 ?1~ ?29~ ?31~", backup.Retention{}, "?31~"},
		{"pinned", "F1 F2 F100^ F200", backup.Retention{}, "F200"},
		{"the newest that was proven", "F1 F2 F100! F200!", backup.Retention{}, "F200!"},
		{"by count", "F1 F2 F3 F4 F5", backup.Retention{Full: backup.Keep{Last: 3}, Minimum: 1}, "F4 F5"},
		{"by count, damaged ones not counted", "F1 F2~ F3 F4 F5", backup.Retention{Full: backup.Keep{Last: 3}, Minimum: 1}, "F2~ F5"},
		{"by count or age, whichever keeps more", "F1 F2 F3 F4 F5 F9", backup.Retention{Full: backup.Keep{Last: 5, For: 3 * 24 * time.Hour}, Minimum: 1}, "F9"},
		{"a clock that was wrong deletes nothing new", "F-400 F1 F31 F32", backup.Retention{}, "F31 F32"},
		{"the cluster before an upgrade has no minimum", "F1 F2 F40old F50old", backup.Retention{}, "F40old F50old"},
		{"nothing at all", "", backup.Retention{}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, deleted(backup.Retain(aged(tt.have), tt.policy, today))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRetainNeverEndsWithoutAnIntactBackup(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.StringMatching(`[FDIL](-?[0-9]{1,3})[!^~]?(old)?`), 1, 30).Draw(t, "backups")
		have := aged(strings.Join(words, " "))
		policy := backup.Retention{
			Full: backup.Keep{Last: rapid.IntRange(0, 3).Draw(t, "last")}, Incremental: backup.Keep{For: time.Hour},
			Minimum: rapid.IntRange(0, 3).Draw(t, "minimum"),
		}
		verdicts := backup.Retain(have, policy, today)
		if len(verdicts) != len(have) {
			t.Fatalf("%d verdicts on %d backups", len(verdicts), len(have))
		}
		current := backup.Newest(have)[0].System
		whole := func(b backup.Backup) bool {
			return b.Type != backup.Logical && b.Status == backup.StatusCompleted && b.System == current
		}
		before, after := 0, 0
		for i, b := range backup.Newest(have) {
			if whole(b) {
				before++
				if !verdicts[i].Delete {
					after++
				}
			}
			if b.Pinned && verdicts[i].Delete {
				t.Fatalf("%s is pinned and deleted", b.ID)
			}
		}
		least := policy.Minimum
		if least == 0 {
			least = 2
		}
		if after < min(before, least) {
			t.Fatalf("%d of %d intact backups are left, at least %d must be", after, before, least)
		}
	})
}
