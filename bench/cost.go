package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cost is the CPU time that everybody who takes part in shared state has used.
type cost struct{ here, other, postgres, redis time.Duration }

// spent is a cost with what PostgreSQL has written to its log.
type spent struct {
	cost
	wal int64 // bytes
}

func (s *stack) spent(ctx context.Context, w *watcher) (x spent, err error) {
	if x.cost, err = s.cost(w); err != nil {
		return x, err
	}
	x.wal, err = s.number(ctx, "select (pg_current_wal_insert_lsn() - '0/0')::bigint")
	return x, err
}

func (x spent) per(n float64, before spent) string {
	return fmt.Sprintf("%s; %.0f bytes of log", x.cost.per(n, before.cost), float64(x.wal-before.wal)/max(n, 1))
}

// cost reads what was used until now.
func (s *stack) cost(w *watcher) (c cost, err error) {
	postmaster, _ := s.pg.Process()
	for _, p := range []struct {
		pid int
		to  *time.Duration
	}{{os.Getpid(), &c.here}, {w.cmd.Process.Pid, &c.other}, {postmaster.PID, &c.postgres}, {s.redis.cmd.Process.Pid, &c.redis}} {
		if *p.to, err = familyCPU(p.pid, p.pid == postmaster.PID); err != nil {
			return c, err
		}
	}
	return c, nil
}

// familyCPU is what a process has used, if asked with its children, those that have ended too.
func familyCPU(pid int, children bool) (time.Duration, error) {
	u, err := usageOf(pid)
	if err != nil || !children {
		return u.cpu, err
	}
	list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)) //nolint:gosec // a number
	if err != nil {
		return 0, err
	}
	sum := u.cpu + u.ended
	for child := range strings.FieldsSeq(string(list)) {
		n, err := strconv.Atoi(child)
		if err != nil {
			return 0, err
		}
		one, err := usageOf(n)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it ends just now
		}
		if err != nil {
			return 0, err
		}
		sum += one.cpu
	}
	return sum, nil
}

// share is the CPU time of one call: of this process, the load included, and of PostgreSQL, in µs, by run.
type share struct{ here, postgres []float64 }

// metered is a side whose calls' CPU time is noted.
func (s *stack) metered(of side) (side, *share) {
	spent := &share{}
	return side{ready: of.ready, rate: func(ctx context.Context, d time.Duration) (float64, error) {
		postmaster, _ := s.pg.Process()
		used := func() (here, postgres time.Duration, err error) {
			if here, err = familyCPU(os.Getpid(), false); err == nil {
				postgres, err = familyCPU(postmaster.PID, true)
			}
			return here, postgres, err
		}
		here, postgres, err := used()
		if err != nil {
			return 0, err
		}
		begun := time.Now()
		rate, err := of.rate(ctx, d)
		if err != nil {
			return 0, err
		}
		calls := max(1, rate*time.Since(begun).Seconds())
		hereNow, postgresNow, err := used()
		spent.here = append(spent.here, float64((hereNow-here).Microseconds())/calls)
		spent.postgres = append(spent.postgres, float64((postgresNow-postgres).Microseconds())/calls)
		return rate, err
	}}, spent
}

// per is what each of n updates cost since before.
func (c cost) per(n float64, before cost) string {
	each := func(d, was time.Duration) float64 { return float64((d - was).Microseconds()) / max(n, 1) }
	return fmt.Sprintf("CPU of an update: %.0f µs here, the load included, %.0f in the other process, %.0f in PostgreSQL, %.0f in Redis",
		each(c.here, before.here), each(c.other, before.other), each(c.postgres, before.postgres), each(c.redis, before.redis))
}
