package backups

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"rootstream/app/config"
	"rootstream/backup/archive"
	"rootstream/backup/archive/ledger"
	"rootstream/backup/archive/receive"
	"rootstream/backup/repo"
	"rootstream/errs"
)

// The types of the commands for the write-ahead log.
//
//nolint:revive // each is documented where it is defined
type (
	WALStatus = ledger.Status
	WALEntry  = ledger.Entry
	WALState  = receive.State
)

// ErrWALAbsent says that the repository is proven not to have a file.
var ErrWALAbsent = archive.ErrAbsent

// WALExitAbsent is how a fetch ends then.
const WALExitAbsent = archive.ExitAbsent

// errWhichCluster is a repository from which nobody knows which cluster's log is meant.
var errWhichCluster = errs.New(errs.Invalid, "which_cluster", "it is not clear which cluster's write-ahead log is meant").
	WithHint("name it with --system-id, or run this in its data folder")

const walTimeout = 10 * time.Minute // for one file; PostgreSQL asks again

// PushWAL brings one file into the repository: an archive_command.
func PushWAL(ctx context.Context, cfg config.Config, system uint64, file string) error {
	ctx, cancel := context.WithTimeout(ctx, walTimeout)
	defer cancel()
	r, err := OpenRepo(ctx, cfg, true)
	if err != nil {
		return err
	}
	return archive.Push(ctx, r, system, file)
}

// WALFetch says what is to be fetched.
type WALFetch struct {
	System uint64 // 0: found out
	Name   string
	Dest   string
	Dir    string // for what is fetched ahead; empty: one of our own
}

// FetchWAL brings one file out of the repository: a restore_command.
func FetchWAL(ctx context.Context, cfg config.Config, f WALFetch) error {
	ctx, cancel := context.WithTimeout(ctx, walTimeout)
	defer cancel()
	s, err := walSource(ctx, cfg, f)
	if err != nil {
		return err
	}
	return s.Fetch(ctx, f.Name, f.Dest)
}

// FetchWALAhead fetches up to count segments that follow one.
func FetchWALAhead(ctx context.Context, cfg config.Config, f WALFetch, count int) error {
	ctx, cancel := context.WithTimeout(ctx, walTimeout)
	defer cancel()
	s, err := walSource(ctx, cfg, f)
	if err != nil {
		return err
	}
	return s.Prefetch(ctx, f.Name, count)
}

func walSource(ctx context.Context, cfg config.Config, f WALFetch) (archive.Source, error) {
	r, err := OpenRepo(ctx, cfg, false)
	if err != nil {
		return archive.Source{}, err
	}
	system, err := walSystem(ctx, cfg, r, f.System)
	if err != nil {
		return archive.Source{}, err
	}
	if f.Dir == "" {
		f.Dir = archive.PrefetchDir(r.ID(), system)
	}
	return archive.Source{Repo: r, System: system, Dir: f.Dir}, nil
}

// walSystem finds out which cluster is meant: the one that was named, that of the data folder, or the only one there is.
func walSystem(ctx context.Context, cfg config.Config, r *repo.Repo, system uint64) (uint64, error) {
	if system != 0 {
		return system, nil
	}
	if cfg.Backup.PGData != "" {
		return archive.SystemOf(cfg.Backup.PGData)
	}
	if system, err := archive.SystemOf("."); err == nil { // PostgreSQL runs its commands there
		return system, nil
	}
	all, err := r.Systems(ctx)
	if err == nil && len(all) != 1 {
		err = errWhichCluster
	}
	if err != nil {
		return 0, err
	}
	return all[0], nil
}

// ParseSystemID reads a system identifier, by which PostgreSQL tells clusters apart; none is 0.
func ParseSystemID(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		return 0, errs.NewInvalid("system_id", "must be a number such as 7312345678901234567")
	}
	return n, nil
}

// NewWALReceiver makes the receiver of a configuration. Its loop is Run.
func NewWALReceiver(cfg config.Config, o Options, alarm func(context.Context, error)) (*receive.Receiver, error) {
	c := cfg.Backup
	if _, err := readKeys(c); err != nil {
		return nil, err
	}
	open := func(ctx context.Context) (*repo.Repo, error) { return OpenRepo(ctx, cfg, true) }
	return receiver(cfg, open, alarm, cfg.Log.Logger(o.Stderr))
}

// receiver makes the receiver of a configuration for a repository that open opens.
func receiver(cfg config.Config, open func(context.Context) (*repo.Repo, error), alarm func(context.Context, error), log *slog.Logger) (*receive.Receiver, error) {
	c := cfg.Backup
	spool, err := c.SpoolDir()
	if err != nil {
		return nil, err
	}
	return receive.New(receive.Config{
		DSN: c.Source(cfg.Postgres).Reveal(), Slot: c.Slot, Spool: spool, Remote: c.Acknowledge == "repository",
		Alarm: alarm, Open: open, Logger: log,
	})
}

// WALStatuses tells how the archive of each cluster in the repository stands. The server need not answer: then unknown
// says why.
func WALStatuses(ctx context.Context, cfg config.Config) (all []WALStatus, unknown, err error) {
	r, err := OpenRepo(ctx, cfg, false)
	if err != nil {
		return nil, nil, err
	}
	var server *ledger.Server
	if dsn := cfg.Backup.Source(cfg.Postgres); !dsn.IsZero() {
		s, failed := receive.LookUp(ctx, dsn.Reveal(), cfg.Backup.Slot)
		if failed == nil {
			server = &s
		}
		unknown = failed
	}
	systems, err := r.Systems(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, system := range systems {
		l, err := ledger.Load(ctx, r, system)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, l.Status(server))
	}
	return all, unknown, nil
}

// WALEntries goes through what the repository has of a cluster's write-ahead log, and what is missing.
func WALEntries(ctx context.Context, cfg config.Config, system uint64) ([]WALEntry, error) {
	r, err := OpenRepo(ctx, cfg, false)
	if err != nil {
		return nil, err
	}
	if system, err = walSystem(ctx, cfg, r, system); err != nil {
		return nil, err
	}
	l, err := ledger.Load(ctx, r, system)
	return l.Entries(), err
}

// WALMissing reports whether anything is, or cannot be read.
func WALMissing(entries []WALEntry) bool {
	return slices.ContainsFunc(entries, func(e WALEntry) bool { return e.Status == ledger.Missing || e.Status == ledger.Conflict })
}

// enoughAhead is the share of what may lie ahead below which more is fetched.
const enoughAhead = 2

// WALAheadLow reports whether it is time to fetch more ahead. A folder that cannot be read has nothing.
func WALAheadLow(dir string, count int) bool {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return true
	}
	return err == nil && len(entries)-1 < count/enoughAhead // one is the lock
}

// RewindRunsUs reports whether pg_rewind asked for the file: it goes backwards, so nothing is fetched ahead for it.
func RewindRunsUs() bool {
	pid := os.Getppid()
	for range 3 { // a shell may be in between
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)) //nolint:gosec // pid is a number
		if err != nil {
			return false
		}
		if string(comm) == "pg_rewind\n" {
			return true
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) //nolint:gosec // pid is a number
		if err != nil {
			return false
		}
		if pid = parentOf(string(stat)); pid <= 1 {
			return false
		}
	}
	return false
}

// parentOf reads the parent out of /proc/<pid>/status; 0 if it is not there.
func parentOf(status string) int {
	_, rest, _ := strings.Cut(status, "\nPPid:")
	line, _, _ := strings.Cut(rest, "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return 0
	}
	return pid
}
