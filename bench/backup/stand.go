package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/internal/proc"
	"rootstream/pgserver"
)

// stand is the server that is backed up, and what both tools need.
type stand struct {
	o      options
	dir    string
	self   string // this program, where the server's user can run it
	server *pgserver.Server
	user   proc.Account
	conf   string // the peer's
	pace   pace
}

func newStand(ctx context.Context, o options) (*stand, error) {
	dir, err := os.MkdirTemp(o.dir, "bench-backup-*")
	if err != nil {
		return nil, err
	}
	s := &stand{o: o, dir: dir, self: filepath.Join(dir, "bench"), conf: filepath.Join(dir, "pgbackrest.conf")}
	if err = s.prepare(ctx); err != nil {
		return nil, errors.Join(err, s.close(ctx))
	}
	return s, nil
}

func (s *stand) prepare(ctx context.Context) error {
	if err := os.Chmod(s.dir, 0o755); err != nil { //nolint:gosec // the server's user has to enter it
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(self) //nolint:gosec // ourselves
	if err != nil {
		return err
	}
	if err = os.WriteFile(s.self, raw, 0o755); err != nil { //nolint:gosec // the server's user has to run it
		return err
	}
	s.server, err = pgserver.Throwaway(ctx, pgserver.ThrowawayConfig{SocketOnly: true, Dir: s.dir, Params: map[string]string{
		"archive_mode": "on", "archive_command": "true", "wal_level": "replica", "full_page_writes": "on",
		"shared_buffers": "256MB", "max_wal_size": "8GB", "checkpoint_timeout": "30min", "autovacuum": "off",
	}})
	if err != nil {
		return err
	}
	s.user = s.server.Account()
	for _, name := range []string{"ours", "theirs", "log"} {
		if err = s.user.MkdirAll(filepath.Join(s.dir, name)); err != nil {
			return err
		}
	}
	return s.pgbench(ctx, "-i", "-q", "-s", strconv.Itoa(s.o.scale))
}

func (s *stand) close(ctx context.Context) error {
	var err error
	if s.server != nil {
		err = s.server.Discard(context.WithoutCancel(ctx))
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

func (s *stand) env() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "PGHOST=" + s.server.SocketDir(), "PGPORT=" + strconv.Itoa(s.server.Port()),
		"PGUSER=" + s.server.Superuser(), "PGDATABASE=postgres", "HOME=" + s.dir,
		"BENCH_PROFILE=" + os.Getenv("BENCH_PROFILE"),
	}
}

func (s *stand) pgbench(ctx context.Context, args ...string) error {
	_, err := s.run(ctx, s.server.Installation().Bin("pgbench"), args...)
	return err
}

func (s *stand) sql(ctx context.Context, statements ...string) error {
	conn, err := pgx.Connect(ctx, s.server.DSN("postgres"))
	if err != nil {
		return err
	}
	for _, sql := range statements {
		if _, err = conn.Exec(ctx, sql); err != nil {
			err = fmt.Errorf("%s: %w", sql, err)
			break
		}
	}
	return errors.Join(err, conn.Close(ctx))
}

// cost is what a command took.
type cost struct {
	wall, cpu time.Duration
	rss       int64 // bytes, of the largest process
}

func (s *stand) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // a benchmark of our own
	cmd.Dir, cmd.Env = s.dir, s.env()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.user.Credential(), Pdeathsig: syscall.SIGKILL}
	return cmd
}

// run runs a command as the server's user.
func (s *stand) run(ctx context.Context, name string, args ...string) (cost, error) {
	cmd := s.command(ctx, name, args...)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	c := cost{wall: time.Since(began)}
	if cmd.ProcessState != nil {
		c.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			c.rss = usage.Maxrss << 10
		}
	}
	if err != nil {
		return c, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	if os.Getenv("BENCH_VERBOSE") != "" {
		_, _ = os.Stderr.Write(out)
	}
	return c, nil
}

// archiveBy has the server archive with a command, and nothing left over from before.
func (s *stand) archiveBy(ctx context.Context, command string) error {
	if err := s.sql(ctx, "alter system set archive_command = '"+strings.ReplaceAll(command, "'", "''")+"'", "select pg_reload_conf()"); err != nil {
		return err
	}
	return s.sql(ctx, "checkpoint")
}

// data is how many bytes a backup has to take.
func (s *stand) data() int64 {
	return size(s.server.DataDir()) - size(filepath.Join(s.server.DataDir(), "pg_wal"))
}

// size returns the bytes in a folder.
func size(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, failed := d.Info(); failed == nil {
				sum += info.Size()
			}
		}
		return nil
	})
	return sum
}
