package base_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"rootstream/backup/repo"
)

// churn makes the files of a cluster come, go and change until the context ends.
func (c *cluster) churn(ctx context.Context) {
	conn := c.connect()
	for i := 0; ctx.Err() == nil; i++ {
		for _, sql := range []string{
			"create database fleeting strategy = file_copy", "create table if not exists gone as select generate_series(1, 20000) n",
			"truncate gone", "insert into gone select generate_series(1, 5000)", "vacuum full gone", "drop table gone", "drop database fleeting",
			"insert into crumbs select generate_series(1, 1000)", "vacuum full pgbench_branches", "checkpoint",
			"insert into there select generate_series(1, 1000)", "reindex table there",
		} {
			if _, err := conn.Exec(ctx, sql); err != nil && ctx.Err() == nil {
				c.t.Errorf("%s: %v", sql, err)
				return
			}
		}
	}
}

// underLoad runs do while transactions are made and files come and go.
func (c *cluster) underLoad(do func()) {
	ctx, stop := context.WithCancel(c.t.Context())
	var load sync.WaitGroup
	load.Go(func() {
		if err := c.pgbench(ctx, "-n", "-c", "2", "-T", "600"); err != nil && !errors.Is(ctx.Err(), context.Canceled) {
			c.t.Error(err)
		}
	})
	load.Go(func() { c.churn(ctx) })
	do()
	stop()
	load.Wait()
}

func (c *cluster) fill() {
	c.t.Helper()
	space := shared(c.t) + "/space"
	if err := c.server.Account().MkdirAll(space); err != nil {
		c.t.Fatal(err)
	}
	if err := c.pgbench(c.t.Context(), "-i", "-q", "-s", "2"); err != nil {
		c.t.Fatal(err)
	}
	c.exec("create tablespace elsewhere location '"+space+"'", "create table there (n int) tablespace elsewhere",
		"create index on there (n)", "create unlogged table crumbs (n int)", "create table large as select 1 n from generate_series(1, 100000)")
}

func TestBackupsTakenUnderLoadAreWholeDatabases(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	c.fill()
	var taken []repo.Manifest
	c.underLoad(func() {
		for _, kind := range []repo.Type{repo.Full, repo.Incremental, repo.Incremental, repo.Differential} {
			taken = append(taken, c.take(kind))
		}
	})
	for i, m := range taken {
		t.Logf("%s: %d files, %d bytes, %d stored, %d packs", m.ID, m.FileCount, m.Size, m.Stored, len(m.Packs))
		if m.PageErrors != 0 {
			t.Errorf("%s: %d pages are wrong", m.ID, m.PageErrors)
		}
		if i > 0 && (m.Stored >= taken[0].Stored || m.Parent == "") {
			t.Errorf("%s of %q stored %d bytes, the full one %d", m.ID, m.Parent, m.Stored, taken[0].Stored)
		}
	}
	if taken[2].Parent != taken[1].ID || taken[3].Parent != taken[0].ID {
		t.Errorf("parents: incremental %s, differential %s", taken[2].Parent, taken[3].Parent)
	}
	for _, m := range taken[1:] { // each needs the one before, but for the differential one
		requireSound(t, c.recover(m))
	}
}

// A machine that sorts otherwise breaks indexes although every byte of them is right.
func TestVersionsOfCollationsAreOnRecord(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	c.exec("create database sorted template template0 locale_provider icu icu_locale 'de'")
	var want string
	if err := c.connect().QueryRow(t.Context(), "select datcollversion from pg_database where datname = 'sorted'").Scan(&want); err != nil {
		t.Fatal(err)
	}
	if got := c.take(repo.Full).Settings["collation.sorted"]; got == "" || got != want {
		t.Errorf("version %q is on record, the server has %q", got, want)
	}
}
