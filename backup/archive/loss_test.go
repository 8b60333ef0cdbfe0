package archive_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/backup/archive"
	"rootstream/internal/wait"
)

// TestWhatIsLeftWhenTheMachineIsGone kills the server under load, deletes its data folder, and recovers a base backup
// from the repository. What was acknowledged has to be there: all of it, or all but the last second.
func TestWhatIsLeftWhenTheMachineIsGone(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		what         string
		remote, sync bool
		survives     bool // the receiver runs on another machine
		lost         time.Duration
	}{
		{"asynchronous, the spool is gone too", false, false, false, time.Second},
		{"synchronous, acknowledged by the repository", true, true, false, 0},
		{"synchronous, acknowledged by a spool elsewhere", false, true, true, 0},
	} {
		t.Run(tt.what, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, map[string]string{"hot_standby": "on"})
			_, dir := newRepo(t)
			program := child{Repo: dir, Spool: folder(t), DSN: c.dsn(), Remote: tt.remote}
			p := command(t, "receive", program)
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = p.Process.Kill() }()
			c.eventually("it streams", func() bool {
				return c.query("select count(*)::text from pg_stat_replication where application_name = 'rootstream'") == "1"
			})
			if tt.sync {
				c.query("alter system set synchronous_standby_names = 'rootstream'")
				c.query("select pg_reload_conf()::text")
				c.eventually("commits wait for it", func() bool {
					return c.query("select coalesce(max(sync_state), '') from pg_stat_replication") == "sync"
				})
			}
			c.run(c.Installation().Bin("pg_basebackup"), "-D", c.DataDir()+".base", "-X", "none", "-c", "fast", "-d", c.dsn())
			system := c.system()
			longest := rounds(t)
			l := c.load(2)
			eventually(t, "there is load", func() bool { return l.count() > 200 })
			<-time.After(time.Second)
			if !tt.survives {
				_ = p.Process.Signal(syscall.SIGKILL)
			}
			died := time.Now()
			c.kill()
			acks := l.stop()
			limit := tt.lost
			if limit > 0 { // a second is four rounds, which take longer where the machine is busy
				limit = max(limit, 4*longest())
			}
			c.run("/bin/rm", "-r", c.DataDir())
			if tt.survives { // told to stop, it uploads what it has
				_ = p.Process.Signal(syscall.SIGTERM)
			}
			_ = p.Wait()
			c.restore(t, dir, system)
			have := c.ledger()
			var missing int
			var oldest time.Duration
			for _, a := range acks {
				if !have[a.id] {
					missing++
					oldest = max(oldest, died.Sub(a.at))
				}
			}
			t.Logf("%d commits, %d lost, the oldest of them %v old; the limit is %v", len(acks), missing, oldest, limit)
			if missing > 0 && (tt.lost == 0 || oldest > limit) {
				t.Errorf("%d of %d acknowledged commits are lost, the oldest was %v old", missing, len(acks), oldest)
			}
		})
	}
}

// rounds uploads as a receiver does, four times a second if the machine allows it, until longest is asked for.
func rounds(t *testing.T) (longest func() time.Duration) {
	t.Helper()
	r, _ := newRepo(t)
	ctx, end := context.WithCancel(t.Context())
	slowest := make(chan time.Duration, 1)
	go func() {
		var most time.Duration
		for n, begun := 1, time.Now(); wait.For(ctx, 250*time.Millisecond) == nil; n++ {
			name, data := segment(1, n, byte(n))
			if err := r.PutPiece(ctx, someSystem, name, 0, data[:64<<10]); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			most, begun = max(most, time.Since(begun)), time.Now()
		}
		slowest <- most
	}()
	longest = sync.OnceValue(func() time.Duration { end(); return <-slowest })
	t.Cleanup(func() { longest() })
	return longest
}

// restore starts the base backup on what the repository has.
func (c *cluster) restore(t *testing.T, dir string, system uint64) {
	t.Helper()
	c.setUp(t, dir, append(append([]string{"env"}, environ(t, "fetch", child{Repo: dir, System: system})...), self(t)))
	c.start()
	c.eventually("it is promoted", func() bool { return c.query("select pg_is_in_recovery()::text") == "false" })
}

// setUp puts the base backup in place, to be recovered with what argv fetches.
func (c *cluster) setUp(t *testing.T, dir string, argv []string) {
	t.Helper()
	c.handOver(dir)
	c.run("/bin/mv", c.DataDir()+".base", c.DataDir())
	if err := os.RemoveAll(filepath.Join(c.DataDir(), "postgresql.auto.conf")); err != nil {
		t.Fatal(err)
	}
	if err := c.Account().WriteFile(filepath.Join(c.DataDir(), "recovery.signal"), "", false); err != nil {
		t.Fatal(err)
	}
	c.Server = c.server("data", map[string]string{"restore_command": archive.RestoreCommand(argv...), "hot_standby": "on"})
}

// ledger returns the ids that the database has.
func (c *cluster) ledger() map[int64]bool {
	c.t.Helper()
	conn, err := pgx.Connect(c.t.Context(), c.dsn())
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = conn.Close(c.t.Context()) }()
	rows, err := conn.Query(c.t.Context(), "select id from ledger")
	if err != nil {
		c.t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		c.t.Fatal(fmt.Errorf("read the ledger: %w", err))
	}
	have := map[int64]bool{}
	for _, id := range ids {
		have[id] = true
	}
	return have
}
