package base_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rootstream/backup/base"
	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
	"rootstream/pgserver"
	"rootstream/tests/harness"
)

// The oracle looks at two copies of the whole folder, made while nothing happens: a page is stored by an incremental
// backup if and only if it differs between them.
func TestIncrementalStoresThePagesThatChangedAndNoOthers(t *testing.T) {
	t.Parallel()
	c := newCluster(t, map[string]string{"bgwriter_lru_maxpages": "0"})
	c.fill()
	c.exec("vacuum (freeze, analyze)", "checkpoint")
	full := c.take(repo.Full)
	before := c.frozen()
	c.exec("update pgbench_accounts set abalance = 1 where aid % 1000 = 7", "create database twin strategy = file_copy template postgres",
		"insert into there select generate_series(1, 10000)", "truncate crumbs", "create table fresh as select generate_series(1, 10000) n", "checkpoint")
	incremental := c.take(repo.Incremental)
	after := c.frozen()

	parents := map[repo.PackID]bool{}
	for _, p := range full.Packs {
		parents[p] = true
	}
	changed, kept, twins := 0, 0, 0
	for f, err := range c.repo.Files(t.Context(), incremental) {
		if err != nil {
			t.Fatal(err)
		}
		rel, isRelation := pgdata.ParseRelation(filepath.Base(f.Path))
		if f.Kind != repo.Regular || !isRelation {
			continue
		}
		was, _ := os.ReadFile(filepath.Join(before, f.Path))
		is, err := os.ReadFile(filepath.Join(after, f.Path))
		if err != nil {
			t.Fatal(err)
		}
		if got := content(t, c.repo, f); !bytes.Equal(got, is) {
			t.Errorf("%s: the backup has other content than the folder (%+v)", f.Path, rel)
		}
		for _, e := range f.Extents {
			for n := int(e.Page); n < int(e.Page+e.Pages) && e.Blob.Raw > 0; n++ {
				one := is[n*page : (n+1)*page]
				same := (n+1)*page <= len(was) && bytes.Equal(one, was[n*page:(n+1)*page])
				switch {
				case parents[e.Blob.Pack] && same:
					kept++
				case parents[e.Blob.Pack] && was == nil:
					twins++ // of another file
				case parents[e.Blob.Pack]:
					t.Errorf("%s, page %d: changed, and taken from the parent", f.Path, n)
				case same && len(is) > 8*page:
					t.Errorf("%s, page %d: unchanged, and stored again", f.Path, n)
				default:
					changed++
				}
			}
		}
	}
	t.Logf("%d pages stored, %d kept, %d known from other files", changed, kept, twins)
	if changed < 100 || kept < 1000 || twins < 200 {
		t.Errorf("%d pages stored, %d kept, %d known from other files: too few to show anything", changed, kept, twins)
	}
}

// frozen returns a copy of the folder.
func (c *cluster) frozen() string {
	c.t.Helper()
	dir := filepath.Join(c.t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-aL", c.server.DataDir(), dir).CombinedOutput(); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
	return dir
}

// damaged makes a table, writes into its file what belongs nowhere, by offset, and returns the file's path.
func (c *cluster) damaged(writes map[int64][]byte) (path string) {
	c.t.Helper()
	c.exec("create table victim as select generate_series(1, 20000) n", "checkpoint")
	if err := c.connect().QueryRow(c.t.Context(), "select pg_relation_filepath('victim')").Scan(&path); err != nil {
		c.t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(c.server.DataDir(), path), os.O_WRONLY, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	for at, bytes := range writes {
		if _, err = f.WriteAt(bytes, at); err != nil {
			c.t.Fatal(err)
		}
	}
	if err = f.Close(); err != nil {
		c.t.Fatal(err)
	}
	return path
}

func TestDamageOnDiskIsNamedAndTheBackupTaken(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	path := c.damaged(map[int64][]byte{3*page + 4000: []byte("damage")})
	m := c.take(repo.Full)
	if m.PageErrors != 1 || !m.Checksums {
		t.Errorf("%d wrong pages", m.PageErrors)
	}
	for f, err := range c.repo.Files(t.Context(), m) {
		if err != nil {
			t.Fatal(err)
		}
		if (f.Path == path) != (len(f.BadPages) > 0) || len(f.BadPages) > 0 && f.BadPages[0] != 3 {
			t.Errorf("%s: wrong pages %d", f.Path, f.BadPages)
		}
	}
	if again := c.take(repo.Incremental); again.PageErrors != 1 {
		t.Errorf("the next one counts %d wrong pages", again.PageErrors)
	}
}

// standby starts one that follows the cluster's server.
func (c *cluster) standby() *pgserver.Server {
	t := c.t
	t.Helper()
	home := shared(t)
	dir := filepath.Join(home, "data")
	copied := exec.CommandContext(t.Context(), c.server.Installation().Bin("pg_basebackup"), "-D", dir, "-R", "-c", "fast", "-X", "stream", "--no-sync", "-d", c.server.DSN("postgres"))
	if out, err := copied.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("chown", "-R", "--reference="+c.server.DataDir(), home).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s, err := pgserver.New(pgserver.Config{
		Installation: c.server.Installation(), DataDir: dir, SocketDir: filepath.Join(home, "s"), LogFile: filepath.Join(home, "log"), PassFile: filepath.Join(home, "pass"),
		Params: map[string]string{"fsync": "off", "max_connections": "300", "archive_mode": "on", "full_page_writes": "on"}, TrustLocal: true, NoSync: true, DieWithParent: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err = s.Start(t.Context()); err != nil {
		log, _ := os.ReadFile(s.LogFile())
		t.Fatalf("%v\n%s", err, log)
	}
	t.Cleanup(func() { _ = s.Stop(context.WithoutCancel(t.Context()), pgserver.Immediate) })
	return s
}

func TestStandbyIsBackedUpUnlessItIsPromotedMeanwhile(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	if err := c.pgbench(t.Context(), "-i", "-q", "-s", "1"); err != nil {
		t.Fatal(err)
	}
	s := c.standby()
	cfg := c.config(repo.Full)
	cfg.DSN, cfg.PGData, cfg.PrimaryDSN = s.DSN("postgres"), s.DataDir(), c.server.DSN("postgres")
	var m repo.Manifest
	var err error
	c.underPgbench(func() { m, err = base.Take(t.Context(), cfg, c.repo, c.archived) })
	if err != nil {
		t.Fatal(err)
	}
	if !m.FromStandby {
		t.Error("it is not marked as a standby's")
	}
	requireSound(t, c.recover(m))

	cfg.Rate = 8 << 20
	promoted := make(chan error, 1)
	cfg.Progress = func(p base.Progress) {
		if p.Phase == base.Copying && len(promoted) == 0 {
			_, failed := connect(t, s.DSN("postgres")).Exec(t.Context(), "select pg_promote()")
			promoted <- failed
			cfg.Progress = nil
		}
	}
	_, err = base.Take(t.Context(), cfg, c.repo, c.archived)
	if failed := <-promoted; failed != nil {
		t.Fatal(failed)
	}
	if !errors.Is(err, base.ErrServer) && !errors.Is(err, base.ErrTimeline) {
		t.Errorf("promoted meanwhile: %v", err)
	}
	if all, _ := c.repo.Catalog(t.Context()); len(all) != 1 {
		t.Errorf("%d backups are listed", len(all))
	}
}

// underPgbench runs do while transactions are made.
func (c *cluster) underPgbench(do func()) {
	ctx, stop := context.WithCancel(c.t.Context())
	done := make(chan error, 1)
	go func() { done <- c.pgbench(ctx, "-n", "-c", "2", "-T", "600") }()
	do()
	stop()
	if err := <-done; err != nil {
		c.t.Error(err)
	}
}

func TestRateIsALimit(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	cfg := c.config(repo.Full)
	cfg.Rate = 16 << 20
	began := time.Now()
	m, err := base.Take(t.Context(), cfg, c.repo, c.archived)
	if err != nil {
		t.Fatal(err)
	}
	if least := time.Duration(float64(m.Size-(1<<20)) / float64(cfg.Rate) * float64(time.Second)); time.Since(began) < least {
		t.Errorf("%d bytes in %v: that is faster than %d a second", m.Size, time.Since(began), cfg.Rate)
	}
}

// The log before the oldest backup is deleted; a standby that has not replayed that backup's checkpoint cannot have one.
func TestAStandbyThatIsTooFarBehindIsNotBackedUpOnLogThatIsDeleted(t *testing.T) {
	t.Parallel()
	c := newCluster(t, map[string]string{overTCP: "", "wal_keep_size": "1GB"})
	if err := c.pgbench(t.Context(), "-i", "-q", "-s", "1"); err != nil {
		t.Fatal(err)
	}
	s := c.standby()
	replay := connect(t, s.DSN("postgres"))
	exec := func(sql string) {
		t.Helper()
		if _, err := replay.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec("select pg_wal_replay_pause()")
	c.exec("create table t ()", "select pg_switch_wal()", "create table u ()", "select pg_switch_wal()")
	kept := c.take(repo.Full)
	c.push(kept.Cluster.SystemID)
	if done, err := c.repo.Delete(t.Context(), nil, false); err != nil || done.WALFiles == 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	here := c.config(repo.Full)
	here.DSN, here.PGData, here.PrimaryDSN = s.DSN("postgres"), s.DataDir(), c.server.DSN("postgres")
	for name, cfg := range map[string]base.Config{"here": here, "over the network": remotely(here)} {
		if _, err := base.Take(t.Context(), cfg, c.repo, c.archived); !errors.Is(err, repo.ErrLogGone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	exec("select pg_wal_replay_resume()")
	harness.Eventually(t, harness.Patience, "the standby's replay", func() error {
		var at string
		var there bool
		err := replay.QueryRow(t.Context(), "select at::text, at >= $1::text::pg_lsn from pg_last_wal_replay_lsn() at", kept.StopLSN.String()).Scan(&at, &there)
		if err == nil && !there {
			err = fmt.Errorf("it is at %s", at)
		}
		return err
	})
	m, err := base.Take(t.Context(), here, c.repo, c.archived)
	if err != nil {
		t.Fatal(err)
	}
	c.exec("create table v ()", "select pg_switch_wal()") // recovery reads on behind the backup until it meets something
	size := m.Cluster.SegmentSize
	if err := c.archived(t.Context(), size, wal.Range{Timeline: 1, From: m.StartLSN, To: m.StopLSN + wal.LSN(size)}); err != nil {
		t.Fatal(err)
	}
	requireSound(t, c.recover(m))
}

// push puts what is archived into the repository.
func (c *cluster) push(system uint64) {
	c.t.Helper()
	archived, err := os.ReadDir(c.archive)
	for _, f := range archived {
		var data []byte
		if data, err = os.ReadFile(filepath.Join(c.archive, f.Name())); err == nil && !strings.HasPrefix(f.Name(), ".") {
			err = c.repo.PutWAL(c.t.Context(), system, f.Name(), data)
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		c.t.Fatal(err)
	}
}
