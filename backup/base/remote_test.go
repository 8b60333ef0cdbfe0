package base_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"rootstream/backup/base"
	"rootstream/backup/base/wire"
	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/errs"
	"rootstream/pgserver"
	"rootstream/tests/faultproxy"
)

// remotely says that the server is to send its files.
func remotely(cfg base.Config) base.Config {
	cfg.PGData = ""
	return cfg
}

func (c *cluster) takeRemotely(kind repo.Type) repo.Manifest {
	c.t.Helper()
	m, err := base.Take(c.t.Context(), remotely(c.config(kind)), c.repo, c.archived)
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

func TestBackupsThatTheServerSendsAreWholeDatabases(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	c.fill()
	var taken []repo.Manifest
	c.underLoad(func() {
		for _, kind := range []repo.Type{repo.Full, repo.Incremental, repo.Differential} {
			taken = append(taken, c.takeRemotely(kind))
		}
	})
	for i, m := range taken {
		t.Logf("%s: %d files, %d bytes, %d stored, %d packs", m.ID, m.FileCount, m.Size, m.Stored, len(m.Packs))
		if m.PageErrors != 0 {
			t.Errorf("%s: %d pages are wrong", m.ID, m.PageErrors)
		}
		if i > 0 && (m.Stored >= taken[0].Stored || m.Parent != taken[0].ID) {
			t.Errorf("%s of %q stored %d bytes, the full one %d", m.ID, m.Parent, m.Stored, taken[0].Stored)
		}
	}
	for _, m := range taken[1:] { // each needs the full one
		requireSound(t, c.recover(m))
	}
}

// away is a cluster on another machine, as far as one can be had here: it is reached through a proxy, as a role that may
// take backups and nothing else.
func away(t *testing.T) (*cluster, *faultproxy.Proxy, base.Config) {
	t.Helper()
	c := newCluster(t, map[string]string{overTCP: ""})
	c.exec("create role keeper login password 'secret'", "grant pg_read_all_settings to keeper", "grant execute on function pg_switch_wal() to keeper")
	proxy := faultproxy.New(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(c.server.Port())))
	host, port, err := net.SplitHostPort(proxy.Addr())
	if err != nil {
		t.Fatal(err)
	}
	cfg := remotely(c.config(repo.Full))
	cfg.DSN = fmt.Sprintf("host=%s port=%s user=keeper password=secret dbname=postgres sslmode=disable", host, port)
	return c, proxy, cfg
}

func TestARoleThatMayReplicateIsEnough(t *testing.T) {
	t.Parallel()
	c, _, cfg := away(t)
	_, err := base.Take(t.Context(), cfg, c.repo, c.archived)
	if !errors.Is(err, wire.ErrRole) || errs.KindOf(err) != errs.Forbidden {
		t.Errorf("a role that may not replicate: %v", err)
	}
	c.exec("alter role keeper replication")
	cfg.Label = "it's a label"
	m, err := base.Take(t.Context(), cfg, c.repo, c.archived)
	if err != nil {
		t.Fatal(err)
	}
	label, err := pgdata.ParseLabel(m.Label)
	if err != nil || label.Name != cfg.Label || label.Start != m.StartLSN || m.StopLSN <= m.StartLSN || m.Completed.Before(m.Started) {
		t.Errorf("label %q of %+v, %v", m.Label, m, err)
	}
}

// midway runs do once some of the files have come.
func (c *cluster) midway(cfg base.Config, do func()) error {
	cfg.Rate, cfg.Timeout = 8<<20, 5*time.Second
	var once sync.Once
	cfg.Progress = func(p base.Progress) {
		if p.Phase == base.Copying && p.Bytes > 1<<20 {
			once.Do(do)
		}
	}
	_, err := base.Take(c.t.Context(), cfg, c.repo, c.archived)
	return err
}

func TestAServerThatIsLostWhileItSendsLeavesNoBackup(t *testing.T) {
	t.Parallel()
	c, proxy, cfg := away(t)
	c.exec("alter role keeper replication")
	for _, way := range []struct {
		name string
		lose func()
		want error
	}{
		{"the line is cut", proxy.Cut, wire.ErrStream},
		{"the line is dead", func() { proxy.BlackHole(faultproxy.ToClient) }, wire.ErrStream},
		{"somebody ends its session", func() {
			c.exec("select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'walsender'")
		}, wire.ErrStream},
		{"it crashes", func() {
			if err := c.server.Stop(context.WithoutCancel(t.Context()), pgserver.Immediate); err != nil {
				t.Error(err)
			}
		}, wire.ErrStream},
	} {
		if err := c.midway(cfg, way.lose); !errors.Is(err, way.want) || errs.KindOf(err) != errs.Unavailable {
			t.Errorf("%s: %v", way.name, err)
		}
		c.requireNothingListed()
		proxy.Heal()
	}
	if err := c.server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	given := cfg
	given.Rate, given.Progress = 8<<20, func(p base.Progress) {
		if p.Bytes > 1<<20 {
			cancel()
		}
	}
	if _, err := base.Take(ctx, given, c.repo, c.archived); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	c.requireNothingListed()
	if _, err := base.Take(t.Context(), cfg, c.repo, c.archived); err != nil {
		t.Error(err)
	}
}

func TestDamageThatIsSentIsNamedAndTheBackupTaken(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	path := c.damaged(map[int64][]byte{
		3*page + 4000: []byte("damage"),
		5 * page:      bytes.Repeat([]byte{0x7f}, 8), // this one says that it was written in a far future, which the server believes
	})
	m := c.takeRemotely(repo.Full)
	if m.PageErrors != 2 || !m.Checksums {
		t.Errorf("%d wrong pages", m.PageErrors)
	}
	for f, err := range c.repo.Files(t.Context(), m) {
		if err != nil {
			t.Fatal(err)
		}
		if want := []uint32{3, 5}; f.Path == path && !slices.Equal(f.BadPages, want) || f.Path != path && len(f.BadPages) > 0 {
			t.Errorf("%s: wrong pages %d", f.Path, f.BadPages)
		}
	}
	if again := c.takeRemotely(repo.Incremental); again.PageErrors != 2 {
		t.Errorf("the next one counts %d wrong pages", again.PageErrors)
	}
}

func TestAStandbySendsItsFiles(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	if err := c.pgbench(t.Context(), "-i", "-q", "-s", "1"); err != nil {
		t.Fatal(err)
	}
	s := c.standby()
	cfg := remotely(c.config(repo.Full))
	cfg.DSN, cfg.PrimaryDSN = s.DSN("postgres"), c.server.DSN("postgres")
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
}
