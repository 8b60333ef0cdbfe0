package pgdata_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"rootstream/backup/pgdata"
	"rootstream/pgserver"
)

// server starts one with everything in it that a copy must treat in its own way.
func server(t *testing.T) (*pgserver.Server, *pgx.Conn) {
	t.Helper()
	s, err := pgserver.Throwaway(t.Context(), pgserver.ThrowawayConfig{SocketOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if failed := s.Discard(context.WithoutCancel(t.Context())); failed != nil {
			t.Error(failed)
		}
	})
	conn, err := pgx.Connect(t.Context(), s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	space := filepath.Join(filepath.Dir(s.DataDir()), "space")
	if err = s.Account().MkdirAll(space); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"create tablespace space location '" + space + "'",
		"create table here as select generate_series(1, 5000) n",
		"create table there (n int primary key) tablespace space", "insert into there select generate_series(1, 5000)",
		"create unlogged table crumbs (n int primary key)", "insert into crumbs select generate_series(1, 5000)",
		"create unlogged table crumbs_there tablespace space as select generate_series(1, 5000) n",
		"vacuum (freeze, analyze)",
		"create temp table fleeting as select generate_series(1, 5000) n",
		"create temp table fleeting_there tablespace space as select generate_series(1, 5000) n",
		"checkpoint",
	} {
		if _, err = conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	return s, conn
}

func walk(t *testing.T, dir string) []pgdata.Entry {
	t.Helper()
	c, _, err := pgdata.ReadControl(dir)
	if err != nil {
		t.Fatal(err)
	}
	major, err := pgdata.Major(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []pgdata.Entry
	for e, err := range pgdata.Walk(t.Context(), dir, major, c.Catalog) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// pg_basebackup is the oracle: what it copies, a walk names, and nothing else.
func TestWalkNamesWhatPgBasebackupCopies(t *testing.T) {
	t.Parallel()
	s, _ := server(t)
	for _, name := range []string{"pgsql_tmp_left", "backup_label.old", "recovery.signal", "promote", "global/pg_internal.init.77", "base/1/t3_99999"} {
		if err := s.Account().WriteFile(filepath.Join(s.DataDir(), name), "x", false); err != nil {
			t.Fatal(err)
		}
	}
	copied := filepath.Join(filepath.Dir(s.DataDir()), "copy")
	tool := exec.CommandContext(t.Context(), s.Installation().Bin("pg_basebackup"), "--pgdata="+copied, "--checkpoint=fast", "--wal-method=none",
		"--no-manifest", "--no-sync", "--dbname="+s.DSN("postgres"), "--tablespace-mapping="+filepath.Join(filepath.Dir(s.DataDir()), "space")+"="+copied+"-space")
	if out, err := tool.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = os.RemoveAll(copied); _ = os.RemoveAll(copied + "-space") })
	var want []string
	var list func(rel string)
	list = func(rel string) {
		dirs, err := os.ReadDir(filepath.Join(copied, rel))
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range dirs {
			p := filepath.Join(rel, d.Name())
			want = append(want, p)
			if d.IsDir() || strings.HasPrefix(p, "pg_tblspc/") && d.Type()&fs.ModeSymlink != 0 {
				list(p)
			}
		}
	}
	list("")
	ours := func(p string) bool { // what the two mean to do differently
		return slices.Contains([]string{"backup_label", "tablespace_map", "backup_label.old", "recovery.signal", "promote"}, p)
	}
	want = slices.DeleteFunc(want, ours)
	var got []string
	for _, e := range walk(t, s.DataDir()) {
		got = append(got, e.Path)
	}
	if !slices.IsSortedFunc(got, pgdata.ComparePaths) {
		t.Error("not in order")
	}
	if got[len(got)-1] != pgdata.ControlPath {
		t.Errorf("the last is %s", got[len(got)-1])
	}
	slices.SortFunc(want, pgdata.ComparePaths)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pg_basebackup (-) and the walk (+):\n%s", diff)
	}
}

func TestEveryPageOfALiveClusterIsSound(t *testing.T) {
	t.Parallel()
	s, _ := server(t)
	c, _, err := pgdata.ReadControl(s.DataDir())
	if err != nil {
		t.Fatal(err)
	}
	pages := 0
	for _, e := range walk(t, s.DataDir()) {
		if !e.Blocks {
			continue
		}
		f, err := pgdata.Open(s.DataDir(), e.Path)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		for n, page := range slices.Collect(slices.Chunk(raw, 8192)) {
			number := e.Relation.Segment*c.BlocksPerSegment + uint32(n)
			if v := pgdata.CheckPage(page, number); v == pgdata.Torn {
				t.Errorf("%s, page %d: wrong checksum", e.Path, n)
			}
			pages++
		}
	}
	if pages < 1000 {
		t.Errorf("only %d pages", pages)
	}
}

func TestServersOwnLabelAndControlAgree(t *testing.T) {
	t.Parallel()
	s, conn := server(t)
	if _, err := conn.Exec(t.Context(), "select pg_backup_start('a name', true)"); err != nil {
		t.Fatal(err)
	}
	c, _, err := pgdata.ReadControl(s.DataDir())
	if err != nil {
		t.Fatal(err)
	}
	var text, spaces []byte
	if err = conn.QueryRow(t.Context(), "select labelfile, spcmapfile from pg_backup_stop(false)").Scan(&text, &spaces); err != nil {
		t.Fatal(err)
	}
	l, err := pgdata.ParseLabel(text)
	if err != nil {
		t.Fatal(err)
	}
	if l.Start != c.Redo || l.Checkpoint != c.Checkpoint || l.Timeline != c.Timeline || l.Name != "a name" {
		t.Errorf("label %+v, control %+v", l, c)
	}
	m, err := pgdata.ParseTablespaceMap(spaces)
	if err != nil || len(m) != 1 || filepath.Base(m[0].Location) != "space" {
		t.Errorf("%+v, %v", m, err)
	}
	out, err := exec.CommandContext(t.Context(), s.Installation().Bin("pg_controldata"), s.DataDir()).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{strconv.FormatUint(c.SystemID, 10), c.Checkpoint.String(), c.Redo.String()} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("pg_controldata does not say %s:\n%s", want, out)
		}
	}
}

func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"global", "base/1", "pg_tblspc", "pg_wal/archive_status", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, pgdata.ControlPath), fixture(t, "15"))
	write(t, filepath.Join(dir, "PG_VERSION"), []byte("15\n"))
	return dir
}

func write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func find(t *testing.T, dir, path string) (pgdata.Entry, bool) {
	t.Helper()
	all := walk(t, dir)
	i := slices.IndexFunc(all, func(e pgdata.Entry) bool { return e.Path == path })
	if i < 0 {
		return pgdata.Entry{}, false
	}
	return all[i], true
}

func TestFileChangedJustNowHasNoTimeToTrust(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	file := filepath.Join(dir, "base/1/16384")
	write(t, file, []byte("x"))
	now := time.Now()
	for _, tt := range []struct {
		changed time.Time
		known   bool
	}{
		{now.Add(-time.Hour), true},
		{now.Add(-time.Minute).Truncate(time.Second), true},
		{now.Add(-time.Second), false}, // a clock of whole seconds may show this time again, and a write may still be under way
		{now.Add(50 * time.Millisecond), false},
		{now.Add(time.Hour), true}, // whoever compares sees that it is in the future
	} {
		if err := os.Chtimes(file, tt.changed, tt.changed); err != nil {
			t.Fatal(err)
		}
		e, _ := find(t, dir, "base/1/16384")
		if want := tt.changed.UnixNano(); tt.known && e.ModTime != want || !tt.known && e.ModTime != 0 {
			t.Errorf("changed at %v: %d", tt.changed, e.ModTime)
		}
	}
}

func TestLinksAreFollowedWhereTheOwnerMayGo(t *testing.T) {
	t.Parallel()
	dir, out := folder(t), t.TempDir()
	write(t, filepath.Join(out, "own.conf"), []byte("x"))
	for name, target := range map[string]string{
		"own.conf": filepath.Join(out, "own.conf"), "log/dangling": "/nowhere/at/all", "base/2": filepath.Join(dir, "base/1"),
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "base/1/16384"), []byte("x"))
	for path, want := range map[string]pgdata.Kind{
		"own.conf": pgdata.Regular, "log/dangling": pgdata.Symlink, "base/2": pgdata.Dir, "base/2/16384": pgdata.Regular,
	} {
		if e, found := find(t, dir, path); !found || e.Kind != want {
			t.Errorf("%s: %+v, %v", path, e, found)
		}
	}
}

func TestFileOfAnotherUserIsNotReadForTheDatabasesOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return // only root can read what is not its own
	}
	dir, out := folder(t), t.TempDir()
	secret := filepath.Join(out, "secret")
	write(t, secret, []byte("x"))
	if err := os.Symlink(secret, filepath.Join(dir, "server.key")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if e, found := find(t, dir, "server.key"); !found || e.Kind != pgdata.Symlink || e.Target != secret {
		t.Errorf("%+v, %v", e, found)
	}
	if _, err := pgdata.Open(dir, "server.key"); !errors.Is(err, pgdata.ErrForeign) {
		t.Errorf("open: %v", err)
	}
}

func TestLinkInACircleIsAnError(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	if err := os.Symlink(dir, filepath.Join(dir, "again")); err != nil {
		t.Fatal(err)
	}
	for _, err := range pgdata.Walk(t.Context(), dir, 15, 202209061) {
		if err != nil {
			if !errors.Is(err, pgdata.ErrFolder) {
				t.Error(err)
			}
			return
		}
	}
	t.Error("it was walked through")
}

func TestPipeDoesNotHoldUpWhoOpensIt(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, found := find(t, dir, "pipe"); found {
		t.Error("a pipe is part of the copy")
	}
	if _, err := pgdata.Open(dir, "pipe"); !errors.Is(err, pgdata.ErrForeign) {
		t.Errorf("open: %v", err)
	}
}

func TestMissingTablespaceIsAnErrorAndAMissingFolderToo(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	if err := os.Symlink("/nowhere/at/all", filepath.Join(dir, "pg_tblspc/16384")); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{dir, "/nowhere/at/all"} {
		var failed error
		for _, err := range pgdata.Walk(t.Context(), root, 15, 202209061) {
			failed = err
		}
		if !errors.Is(failed, pgdata.ErrFolder) {
			t.Errorf("%s: %v", root, failed)
		}
	}
	if _, err := pgdata.Major(filepath.Join(dir, "global")); !errors.Is(err, pgdata.ErrFolder) {
		t.Error(err)
	}
	if _, _, err := pgdata.ReadControl(filepath.Join(dir, "base")); !errors.Is(err, pgdata.ErrFolder) {
		t.Error(err)
	}
}
