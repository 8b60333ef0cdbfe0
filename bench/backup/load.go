package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/internal/wait"
)

const (
	processes = 2        // of either tool
	gentle    = 48 << 20 // bytes per second that our backup under load reads
	alone     = 15 * time.Second
	clients   = 8
)

// load is what pgbench achieves without and with a backup beside it, in transactions per second.
type load struct {
	tool            string
	without, beside float64
	took            time.Duration
	least           float64 // of with to without; 0: there is no target
}

func (l load) ratio() float64 { return l.beside / l.without }

// underLoad measures pgbench beside a backup that is throttled: ours by its rate, theirs, which has none, by having one process.
func (s *stand) underLoad(ctx context.Context) (string, error) {
	c := classes()[1]
	if err := s.configure(ctx, c); err != nil {
		return "", err
	}
	running, stop := context.WithCancel(ctx)
	cmd := s.command(running, s.server.Installation().Bin("pgbench"), "-n", "-M", "prepared", "-c", strconv.Itoa(clients), "-T", "3600")
	if err := cmd.Start(); err != nil {
		stop()
		return "", err
	}
	defer func() {
		stop()
		_ = cmd.Wait() // it was ended
	}()
	ours := func() (sample, error) {
		return s.take(ctx, c, s.here("-type", "full", "-workers", "1", "-rate", strconv.Itoa(gentle))...)
	}
	theirs := func() (sample, error) { return s.peer(ctx, c, "full", "--process-max=1") }
	a, err := s.beside(ctx, "ours", s.archiveOurs(c), ours)
	if err != nil {
		return "", err
	}
	a.least = .8
	b, err := s.beside(ctx, "theirs", s.archiveTheirs(), theirs)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(heading+"Scale %d, beside pgbench\n\n%s, PostgreSQL %s, %d processors, pgBackRest %s.\n\n%v\n%v", s.o.scale,
		today(), s.server.Installation().Version, runtime.NumCPU(), s.peerVersion(ctx), a, b), nil
}

// beside measures pgbench first alone, right after a checkpoint as in a backup, then beside one.
func (s *stand) beside(ctx context.Context, tool, archive string, backup func() (sample, error)) (load, error) {
	l := load{tool: tool}
	err := s.archiveBy(ctx, archive)
	if err != nil {
		return l, err
	}
	if l.without, _, err = s.rate(ctx, func() error {
		return errors.Join(s.sql(ctx, "checkpoint"), wait.For(ctx, alone))
	}); err != nil {
		return l, err
	}
	l.beside, l.took, err = s.rate(ctx, func() error {
		_, failed := backup()
		return failed
	})
	return l, err
}

// rate counts transactions while something is done.
func (s *stand) rate(ctx context.Context, do func() error) (perSecond float64, took time.Duration, err error) {
	before, err := s.transactions(ctx)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err = do(); err != nil {
		return 0, 0, err
	}
	took = time.Since(began)
	after, err := s.transactions(ctx)
	return float64(after-before) / took.Seconds(), took, err
}

// transactions are how many pgbench has made: each adds a row of history.
func (s *stand) transactions(ctx context.Context) (n int64, err error) {
	conn, err := pgx.Connect(ctx, s.server.DSN("postgres"))
	if err != nil {
		return 0, err
	}
	err = conn.QueryRow(ctx, "select count(*) from pgbench_history").Scan(&n)
	return n, errors.Join(err, conn.Close(ctx))
}
