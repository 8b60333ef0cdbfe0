package archive_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rootstream/backup/archive"
	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
)

func TestAServerArchivesThroughPush(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t)
	argv := append(append([]string{"env"}, environ(t, "push", child{Repo: dir})...), self(t))
	c := newCluster(t, map[string]string{
		"archive_mode": "on", "archive_command": archive.PushCommand(argv...), "restore_command": "false",
	})
	c.handOver(dir)
	from := c.lsn().SegmentStart(size)
	c.write(2)
	c.query("select pg_backup_start('x', true)::text") // ended by the end of the session, but its mark is archived below
	c.hangUp()
	c.switchSegment()
	end := c.lsn().SegmentStart(size)
	c.eventually("all is archived", func() bool {
		return contiguous(t, r, c.system(), wal.Range{Timeline: 1, From: from, To: end}) == nil
	})
	c.compare(r, c.system(), wal.Range{Timeline: 1, From: from, To: end})
	c.stop()
	c.recoverAndPromote()
	c.switchSegment()
	c.eventually("the history and what there was of the last segment are archived", func() bool {
		var partial bool
		for info, err := range r.ListWAL(t.Context(), c.system(), 1) {
			if err != nil {
				t.Fatal(err)
			}
			partial = partial || strings.HasSuffix(info.Name, ".partial")
		}
		_, err := r.FindWAL(t.Context(), c.system(), wal.HistoryName(2))
		return partial && err == nil
	})
	if failed := c.query("select failed_count::text from pg_stat_archiver"); failed != "0" {
		t.Errorf("%s failures", failed)
	}
}

func TestWhatIsPushed(t *testing.T) {
	t.Parallel()
	name, data := segment(1, 5, 5)
	mark := []byte("START WAL LOCATION: 0/500028 (file 000000010000000000000005)\n")
	change := func(at int) []byte { d := slices.Clone(data); d[at] ^= 1; return d }
	for _, tt := range []struct {
		what, name string
		data       []byte
		system     uint64
		want       error
	}{
		{"a segment", name, data, 0, nil},
		{"a segment of the cluster named", name, data, someSystem, nil},
		{"of another cluster than named", name, data, 5, wal.ErrForeign},
		{"under another name", wal.SegmentName(1, 6*size, size), data, 0, wal.ErrForeign},
		{"cut off", name, data[:size-1], 0, wal.ErrDamaged},
		{"with a torn page", name, change(8192 + 9), 0, wal.ErrDamaged},
		{"empty", name, nil, 0, archive.ErrFile},
		{"what there is of a last segment", name + ".partial", change(8192 + 9), 0, nil},
		{"the same of another segment", wal.SegmentName(1, 6*size, size) + ".partial", data, 0, wal.ErrForeign},
		{"a history", "00000002.history", []byte("1\t0/550000\tx\n"), someSystem, nil},
		{"a history that is none", "00000002.history", []byte("nonsense\n"), someSystem, wal.ErrHistory},
		{"a history of nobody knows what", "00000002.history", []byte("1\t0/550000\tx\n"), 0, pgdata.ErrFolder},
		{"a mark of a backup", name + ".00000028.backup", mark, someSystem, nil},
		{"a mark without end", name + ".00000028.backup", make([]byte, 2<<20), someSystem, archive.ErrFile},
		{"something else", "pg_control", data, someSystem, archive.ErrFile},
	} {
		t.Run(tt.what, func(t *testing.T) {
			t.Parallel()
			r, _ := newRepo(t)
			path := filepath.Join(t.TempDir(), tt.name)
			if err := os.WriteFile(path, tt.data, 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 { // PostgreSQL archives again what it does not remember to have archived
				if err := archive.Push(t.Context(), r, tt.system, path); !errors.Is(err, tt.want) || (tt.want == nil) != (err == nil) {
					t.Fatalf("%v, not %v", err, tt.want)
				}
			}
			have, err := r.GetWAL(t.Context(), someSystem, tt.name)
			if stored := err == nil && slices.Equal(have, tt.data); stored != (tt.want == nil) {
				t.Errorf("it is stored: %v, %v", stored, err)
			}
		})
	}
}

func TestOtherContentThanWasPushedIsRefused(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	shelf{t, r}.segments(1, 5)
	name, other := segment(1, 5, 6)
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, other, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := archive.Push(t.Context(), r, 0, path); !errors.Is(err, repo.ErrWALConflict) {
		t.Error(err)
	}
	if err := archive.Push(t.Context(), r, 0, filepath.Dir(path)); !errors.Is(err, archive.ErrFile) {
		t.Errorf("a folder: %v", err)
	}
	if err := archive.Push(t.Context(), r, 0, path+"9"); !errors.Is(err, archive.ErrFile) {
		t.Errorf("a name that is none: %v", err)
	}
}

// PostgreSQL has a history archived when its timeline begins, and never again.
func TestASegmentBringsTheHistoriesThatTheRepositoryLacks(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	dir := t.TempDir()
	name, data := segment(3, 7, 7)
	second, third := []byte("1\t0/550000\tx\n"), []byte("1\t0/550000\tx\n\n2\t0/650000\ty\n")
	for file, content := range map[string][]byte{name: data, "00000002.history": second, "00000003.history": third} {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := archive.Push(t.Context(), r, 0, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for file, want := range map[string][]byte{name: data, "00000002.history": second, "00000003.history": third} {
		if have, err := r.GetWAL(t.Context(), someSystem, file); err != nil || !slices.Equal(have, want) {
			t.Errorf("%s: %d bytes, %v", file, len(have), err)
		}
	}
}

func TestASegmentIsArchivedWithoutAHistoryThatIsGone(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	name, data := segment(2, 7, 7)
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := archive.Push(t.Context(), r, 0, path); err != nil {
		t.Fatal(err)
	}
	if _, err := r.GetWAL(t.Context(), someSystem, name); err != nil {
		t.Error(err)
	}
}
