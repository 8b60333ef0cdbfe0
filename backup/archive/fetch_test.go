package archive_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rootstream/backup/archive"
	"rootstream/backup/archive/ledger"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
)

const someSystem = 7000000000000000001

// segment makes one as PostgreSQL lays it out, with the seed in every page.
func segment(tli wal.TimelineID, number int, seed byte) (name string, data []byte) {
	start := wal.LSN(number) * size
	data = bytes.Repeat([]byte{seed}, size)
	le := binary.LittleEndian
	for at := 0; at < size; at += 8192 {
		page := data[at:]
		clear(page[:40])
		le.PutUint16(page, 0xD110)
		le.PutUint32(page[4:], uint32(tli))
		le.PutUint64(page[8:], uint64(start)+uint64(at))
		if at == 0 {
			le.PutUint16(page[2:], 2)
			le.PutUint64(page[24:], someSystem)
			le.PutUint32(page[32:], size)
			le.PutUint32(page[36:], 8192)
		}
	}
	return wal.SegmentName(tli, start, size), data
}

// shelf fills a repository.
type shelf struct {
	t *testing.T
	r *repo.Repo
}

func (s shelf) file(name string, data []byte) {
	s.t.Helper()
	if err := s.r.PutWAL(s.t.Context(), someSystem, name, data); err != nil {
		s.t.Fatal(err)
	}
}

func (s shelf) segments(tli wal.TimelineID, numbers ...int) {
	s.t.Helper()
	for _, n := range numbers {
		s.file(segment(tli, n, byte(n)))
	}
}

func (s shelf) history(text string) { s.t.Helper(); s.file(wal.HistoryName(2), []byte(text)) }

func (s shelf) piece(number, off, end int) {
	s.t.Helper()
	name, data := segment(1, number, byte(number))
	if err := s.r.PutPiece(s.t.Context(), someSystem, name, int64(off), data[off:end]); err != nil {
		s.t.Fatal(err)
	}
}

func (s shelf) beginning(name string, data []byte) {
	s.t.Helper()
	if err := s.r.PutPiece(s.t.Context(), someSystem, name, 0, data); err != nil {
		s.t.Fatal(err)
	}
}

func TestWhatIsFetched(t *testing.T) {
	t.Parallel()
	name1, data1 := segment(1, 5, 5)
	name2, _ := segment(2, 5, 5)
	piece := append(slices.Clone(data1[:100000]), make([]byte, size-100000)...)
	const history = "1\t0/550000\tno recovery target specified\n" // within segment 5
	for _, tt := range []struct {
		what  string
		have  func(shelf)
		name  string
		want  []byte
		error error
	}{
		{"a whole segment", func(s shelf) { s.segments(1, 4, 5, 6) }, name1, data1, nil},
		{"nothing of an empty repository", func(shelf) {}, name1, nil, archive.ErrUnknown},
		{"what follows the last segment", func(s shelf) { s.segments(1, 3, 4) }, name1, nil, archive.ErrAbsent},
		{"pieces of the last segment", func(s shelf) {
			s.segments(1, 4)
			s.piece(5, 0, 60000)
			s.piece(5, 60000, 100000)
			s.piece(5, 200000, 300000) // behind a hole
		}, name1, piece, nil},
		{"a segment that became whole", func(s shelf) {
			s.piece(5, 0, 60000)
			s.segments(1, 5)
		}, name1, data1, nil},
		{"a segment that is missing in the middle", func(s shelf) { s.segments(1, 4, 6) }, name1, nil, ledger.ErrGap},
		{"a segment before pieces of a later one", func(s shelf) {
			s.segments(1, 4)
			s.piece(7, 0, 100)
		}, name1, nil, ledger.ErrGap},
		{"pieces where the log goes on", func(s shelf) {
			s.piece(5, 0, 60000)
			s.segments(1, 6)
		}, name1, nil, ledger.ErrGap},
		{"pieces of all of it where the log goes on", func(s shelf) {
			s.piece(5, 0, 60000)
			s.piece(5, 50000, size)
			s.segments(1, 6)
		}, name1, data1, nil},
		{"what was before the first segment", func(s shelf) { s.segments(1, 6, 7) }, name1, nil, archive.ErrAbsent},
		{"the segment in which the timeline began", func(s shelf) {
			s.segments(2, 6, 7)
			s.history(history)
		}, name2, nil, ledger.ErrGap},
		{"a segment of before the timeline began", func(s shelf) {
			s.segments(2, 6, 7)
			s.history("1\t0/650000\tno recovery target specified\n")
		}, name2, nil, archive.ErrAbsent},
		{"what a promoted server had of its last segment", func(s shelf) {
			s.segments(1, 4)
			s.file(name1+".partial", piece)
		}, name1, piece, nil},
		{"a history", func(s shelf) { s.history(history) }, "00000002.history", []byte(history), nil},
		{"a history that is not there", func(s shelf) { s.segments(1, 5) }, "00000003.history", nil, archive.ErrAbsent},
		{"a segment of another cluster", func(s shelf) {
			data := slices.Clone(data1)
			data[24]++
			s.file(name1, data)
		}, name1, nil, wal.ErrForeign},
		{"a segment that is not whole", func(s shelf) {
			s.file(name1, data1[:size-8192])
		}, name1, nil, wal.ErrDamaged},
		{"pieces of another segment", func(s shelf) {
			s.beginning(wal.SegmentName(1, 9*size, size), data1[:5000])
		}, wal.SegmentName(1, 9*size, size), nil, wal.ErrForeign},
		{"no name of a file", func(shelf) {}, "RECOVERYXLOG", nil, wal.ErrName},
	} {
		t.Run(tt.what, func(t *testing.T) {
			t.Parallel()
			r, _ := newRepo(t)
			tt.have(shelf{t, r})
			dest := filepath.Join(t.TempDir(), "RECOVERYXLOG")
			err := archive.Source{Repo: r, System: someSystem}.Fetch(t.Context(), tt.name, dest)
			if !errors.Is(err, tt.error) || (tt.error == nil) != (err == nil) {
				t.Fatalf("%v, not %v", err, tt.error)
			}
			if tt.error != nil && !errors.Is(tt.error, archive.ErrAbsent) && errors.Is(err, archive.ErrAbsent) {
				t.Errorf("%v ends a recovery", err)
			}
			have, _ := os.ReadFile(dest)
			if !bytes.Equal(have, tt.want) {
				t.Errorf("delivered are %d bytes, not %d", len(have), len(tt.want))
			}
			if left, _ := os.ReadDir(filepath.Dir(dest)); len(left) > 1 {
				t.Errorf("left are %v", left)
			}
		})
	}
}

func TestOtherContentUnderTheSameNameIsNeverDelivered(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t)
	shelf{t, r}.segments(1, 5)
	name, other := segment(1, 5, 99)
	second, dir2 := newRepo(t)
	if err := second.PutWAL(t.Context(), someSystem, name, other); err != nil {
		t.Fatal(err)
	}
	// Whoever copies one repository into another brings both contents under one name.
	paths, err := filepath.Glob(filepath.Join(dir2, "clusters", "*", "wal", "00000001", name+"-*"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("%v, %v", paths, err)
	}
	raw, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	mine, err := filepath.Glob(filepath.Join(dir, "clusters", "*", "wal", "00000001", name+"-*"))
	if err != nil || len(mine) != 1 {
		t.Fatalf("%v, %v", mine, err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(mine[0]), filepath.Base(paths[0])), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	dest := filepath.Join(t.TempDir(), "x")
	if err := (archive.Source{Repo: r, System: someSystem}).Fetch(t.Context(), name, dest); !errors.Is(err, repo.ErrWALConflict) {
		t.Errorf("%v", err)
	}
}

func TestSegmentsAreFetchedAheadAndCheckedAgain(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	shelf{t, r}.segments(1, 5, 6, 7, 8, 9, 10)
	shelf{t, r}.piece(11, 0, 100)
	s := archive.Source{Repo: r, System: someSystem, Dir: filepath.Join(t.TempDir(), "ahead")}
	name := func(n int) string { name, _ := segment(1, n, 0); return name }
	if err := s.Prefetch(t.Context(), name(5), 3); err != nil {
		t.Fatal(err)
	}
	want := []string{name(6), name(7), name(8), "lock"}
	if have := names(t, s.Dir); !slices.Equal(have, want) {
		t.Errorf("there are %v, not %v", have, want)
	}
	for _, n := range []int{6, 7} {
		path := filepath.Join(s.Dir, name(n))
		if n == 7 {
			damaged, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			damaged[8192+10] ^= 1
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		dest := filepath.Join(t.TempDir(), "x")
		if err := s.Fetch(t.Context(), name(n), dest); err != nil {
			t.Fatal(err)
		}
		_, data := segment(1, n, byte(n))
		if have, _ := os.ReadFile(dest); !bytes.Equal(have, data) {
			t.Errorf("segment %d is not what was archived", n)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("segment %d is still there: %v", n, err)
		}
	}
	if err := s.Prefetch(t.Context(), name(9), 3); err != nil {
		t.Fatal(err)
	}
	if have := names(t, s.Dir); !slices.Equal(have, []string{name(10), "lock"}) { // pieces may still grow
		t.Errorf("there are %v", have)
	}
	if err := os.Chmod(s.Dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := s.Prefetch(t.Context(), name(5), 3); err == nil {
		t.Error("a folder that everybody may write to is used")
	}
	_, forged := segment(1, 9, 99) // sound in itself, and never archived
	if err := os.WriteFile(filepath.Join(s.Dir, name(9)), forged, 0o644); err != nil {
		t.Fatal(err)
	}
	dest := filepath.Join(t.TempDir(), "x")
	if err := s.Fetch(t.Context(), name(9), dest); err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile(dest)
	if _, data := segment(1, 9, 9); err != nil || !bytes.Equal(have, data) {
		t.Error("another user's segment is delivered for recovery")
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestTheCommandsAreQuotedForTheShellAndForPostgreSQL(t *testing.T) {
	t.Parallel()
	const want = `'/opt/it'\''s 100%%/rootstream' 'wal' 'fetch' "%f" "%p"; case $? in 0) exit 0;; 42) exit 1;; *) exit 255;; esac`
	if have := archive.RestoreCommand("/opt/it's 100%/rootstream", "wal", "fetch"); have != want {
		t.Errorf("%s", have)
	}
	if have := archive.PushCommand("rootstream", "wal", "push"); have != `'rootstream' 'wal' 'push' "%p"` {
		t.Errorf("%s", have)
	}
}

// TestOnlyProvenAbsenceEndsARecovery lets PostgreSQL recover with a restore_command that fails in every way it can.
// When it takes a failure for the end of the log it promotes, and everything behind is lost.
func TestOnlyProvenAbsenceEndsARecovery(t *testing.T) {
	t.Parallel()
	_, empty := newRepo(t)
	known, other := newRepo(t)
	shelf{t, known}.segments(1, 1)
	r, broken := newRepo(t)
	shelf{t, r}.segments(1, 1)
	breakRepo(t, broken)
	program := self(t)
	fetch := func(s child) []string {
		return append(append([]string{"env"}, environ(t, "fetch", s)...), program)
	}
	for _, tt := range []struct {
		what     string
		argv     []string
		promotes bool
	}{
		{"proven absent", fetch(child{Repo: other, System: someSystem}), true},
		{"another cluster's repository", fetch(child{Repo: other, System: someSystem + 1}), false},
		{"an empty repository", fetch(child{Repo: empty, System: someSystem}), false},
		{"the repository is out of reach", fetch(child{Repo: broken, System: someSystem}), false},
		{"there is no repository", fetch(child{Repo: filepath.Join(empty, "repo.json"), System: someSystem}), false},
		{"it panics", append(append([]string{"env"}, environ(t, "panic", child{System: someSystem})...), program), false},
		{"exit code 1", []string{"false"}, false},
		{"it is killed", []string{"sh", "-c", "kill -9 $$", "x"}, false},
		{"there is no such program", []string{"/nowhere/rootstream", "wal", "fetch"}, false},
		{"a bad setting", append(append([]string{"env"}, runAs+"=fetch", settings+"=nonsense"), program), false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, map[string]string{"restore_command": archive.RestoreCommand(tt.argv...)})
			for _, dir := range []string{empty, other, broken} {
				c.handOver(dir)
			}
			c.write(1)
			c.stop()
			if err := c.Account().WriteFile(filepath.Join(c.DataDir(), "recovery.signal"), "", false); err != nil {
				t.Fatal(err)
			}
			err := c.Start(t.Context())
			history, _ := filepath.Glob(filepath.Join(c.DataDir(), "pg_wal", "*.history"))
			if tt.promotes {
				if err != nil {
					t.Fatal(err)
				}
				c.eventually("it is promoted", func() bool { return c.query("select pg_is_in_recovery()::text") == "false" })
				return
			}
			if err == nil || len(history) > 0 {
				t.Errorf("it went on: %v, %v", err, history)
			}
			log, _ := os.ReadFile(c.LogFile())
			if !strings.Contains(string(log), "could not restore file") {
				t.Errorf("it did not stop for the restore_command: %v", err)
			}
			if tt.what == "it panics" && !strings.Contains(string(log), "panic: runtime error") {
				t.Errorf("it did not panic: %s", log)
			}
		})
	}
}

// TestARecoveryGoesOnWhenTheRepositoryIsBack loses the repository half-way: segments have been fetched, more are there.
func TestARecoveryGoesOnWhenTheRepositoryIsBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, map[string]string{"hot_standby": "on"})
	_, dir := newRepo(t)
	rc := start(t, config(child{Repo: dir, Spool: folder(t), DSN: c.dsn()}))
	rc.streaming()
	c.run(c.Installation().Bin("pg_basebackup"), "-D", c.DataDir()+".base", "-X", "none", "-c", "fast", "-d", c.dsn())
	c.query("create table ledger (id bigint primary key)")
	for range 8 {
		c.query("insert into ledger select coalesce(max(id), 0) + 1 from ledger")
		c.write(1)
		c.switchSegment()
	}
	rc.uploaded(c.lsn().SegmentStart(size))
	system := c.system()
	rc.stop()
	c.stop()
	c.run("/bin/rm", "-r", c.DataDir())

	// Every fetch waits for a permission, of which there are five before the repository is gone.
	permits := folder(t)
	c.handOver(permits)
	argv := append(append([]string{"env"}, environ(t, "fetch", child{Repo: dir, System: system})...), self(t))
	script := `while ! mv "$0/go" "$0/gone" 2>/dev/null; do sleep 0.01; done; exec "$@"`
	c.setUp(t, dir, append([]string{"sh", "-c", script, permits}, argv...))
	permit := func() {
		t.Helper()
		path := filepath.Join(permits, "go")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the next is asked for", func() bool { _, err := os.Lstat(path); return err != nil })
	}
	started := make(chan error, 1)
	go func() { started <- c.Start(t.Context()) }()
	for range 5 {
		permit()
	}
	mend := breakRepo(t, dir)
	if err := os.WriteFile(filepath.Join(permits, "go"), nil, 0o600); err != nil { // unless the fifth has found it gone
		t.Fatal(err)
	}
	if err := <-started; err == nil {
		<-c.Done() // it took queries before it asked for what it did not get
	}
	if c.promoted() {
		t.Fatal("it took the loss of the repository for the end of the log")
	}
	mend()
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
				_ = os.WriteFile(filepath.Join(permits, "go"), nil, 0o600)
			}
		}
	})
	defer group.Wait()
	defer close(stop)
	c.start()
	c.eventually("it is promoted", func() bool { return c.query("select pg_is_in_recovery()::text") == "false" })
	if n := c.query("select count(*)::text from ledger"); n != "8" {
		t.Errorf("%s rows of 8", n)
	}
}

// promoted reports whether the server has begun a timeline.
func (c *cluster) promoted() bool {
	c.t.Helper()
	found, _ := filepath.Glob(filepath.Join(c.DataDir(), "pg_wal", "*.history"))
	return len(found) > 0
}
