package base_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"rootstream/backup/base"
	"rootstream/backup/repo"
)

func TestDumpsAreKeptAndComeBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	c.exec(`create database "odd/na me's"`, "create role somebody")
	dsn := c.server.DSN(`odd/na me's`)
	conn := connect(t, dsn)
	for _, sql := range []string{
		"create table kept as select n, md5(n::text) text from generate_series(1, 40000) n", "create index on kept (text)",
		"create view seen as select count(*) from kept", "select lo_from_bytea(0, 'large')",
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	_ = conn.Close(t.Context())
	cfg := c.config(repo.Logical)
	cfg.PGData = ""
	m, err := base.Take(t.Context(), cfg, c.repo, nil)
	if err != nil {
		t.Fatal(err)
	}
	for f, err := range c.repo.Files(t.Context(), m) {
		if err != nil {
			t.Fatal(err)
		}
		if f.Kind == repo.Regular {
			content(t, c.repo, f)
		}
	}
	var globals bytes.Buffer
	if err = base.Export(t.Context(), c.repo, m, "globals.sql", &globals); err != nil || !strings.Contains(globals.String(), "CREATE ROLE somebody") {
		t.Errorf("globals: %v", err)
	}
	c.exec("create database back")
	if err = base.Load(t.Context(), c.repo, m, `odd/na me's`, c.server.DSN("back")); err != nil {
		t.Fatal(err)
	}
	var rows, large int
	var sum string
	if err = connect(t, c.server.DSN("back")).QueryRow(t.Context(), `select (select count from seen), (select count(*) from pg_largeobject_metadata),
		(select md5(string_agg(text, ',' order by n)) from kept)`).Scan(&rows, &large, &sum); err != nil {
		t.Fatal(err)
	}
	var want string
	if err = connect(t, dsn).QueryRow(t.Context(), "select md5(string_agg(text, ',' order by n)) from kept").Scan(&want); err != nil {
		t.Fatal(err)
	}
	if rows != 40000 || large != 1 || sum != want {
		t.Errorf("%d rows, %d large objects, %s instead of %s", rows, large, sum, want)
	}
	if err = base.Load(t.Context(), c.repo, m, `odd/na me's`, c.server.DSN("back")); !errors.Is(err, base.ErrTool) {
		t.Errorf("over what is there: %v", err)
	}
	if err = base.Load(t.Context(), c.repo, m, "nothing", c.server.DSN("back")); err == nil {
		t.Error("a database that is not in the backup was restored")
	}
	if err = base.Export(t.Context(), c.repo, m, "nothing", io.Discard); !errors.Is(err, repo.ErrNoBackup) {
		t.Errorf("no such file: %v", err)
	}
}

func TestFailedDumpLeavesNoBackup(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	c.exec("create table locked as select 1 n")
	blocker := connect(t, c.server.DSN("postgres"))
	for _, sql := range []string{"begin", "lock locked"} {
		if _, err := blocker.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cfg := c.config(repo.Logical)
	cfg.Progress = func(p base.Progress) {
		if p.Phase == base.Copying {
			cancel()
		}
	}
	if _, err := base.Take(ctx, cfg, c.repo, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	c.requireNothingListed()
}
