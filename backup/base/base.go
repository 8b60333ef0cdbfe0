// Package base takes base backups of a running PostgreSQL into a repository.
//
// The door is [Take]. It tells the server that a backup begins, proves that the
// data folder is that server's and that its write-ahead log reaches the
// repository, copies the folder in parallel, ends the backup in the same session
// and commits only when the log that the copy needs is in the repository without
// a hole. A backup with a parent stores only pages that the parent does not have,
// and reads only files that may have changed. What is in a data folder is known
// to pgdata, how it is kept to repo, the log to archive.
//
// It runs a few goroutines while it copies; Take waits for all of them.
package base

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"time"

	"rootstream/backup/repo"
	"rootstream/backup/wal"
	"rootstream/errs"
)

// What can keep a backup from being taken.
var (
	ErrServer    = errs.New(errs.Unavailable, "backup_server", "the server to back up does not do its part")
	ErrPooler    = errs.New(errs.Invalid, "backup_pooler", "the connection goes through a pooler, which may give the backup's session to others")
	ErrVersion   = errs.New(errs.Invalid, "backup_version", "this version of PostgreSQL is not known")
	ErrFolder    = errs.New(errs.Conflict, "backup_folder", "the data folder is not the one that the server runs on")
	ErrTimeline  = errs.New(errs.Conflict, "backup_timeline", "the server changed its timeline during the backup")
	ErrArchiving = errs.New(errs.Unavailable, "backup_archiving", "the write-ahead log does not reach the repository")
	ErrTool      = errs.New(errs.Unavailable, "backup_tool", "a program of PostgreSQL failed")
)

// Config says what to back up, and how.
type Config struct {
	DSN         string            // the server, directly: not through a pooler
	PGData      string            // its data folder; empty: it sends its files over the replication protocol
	PrimaryDSN  string            // where to switch segments when DSN is a standby; empty means to wait until they fill
	Type        repo.Type         // empty means full; one that needs a parent becomes a full one when there is none
	Reuse       bool              // a full one does not store again what the newest backup has; it reads everything all the same
	Workers     int               // that read, compress and seal; 0 means one per processor, at most 16
	Compression repo.Compression  // zero means zstd
	Rate        int64             // bytes per second that are read; 0 means no limit
	Spread      bool              // let the first checkpoint take its time instead of hurrying it
	Timeout     time.Duration     // for the log to reach the repository, and for a server that sends files to be silent; 0 means 60 s
	Label       string            // for backup_label; empty means the id
	Annotations map[string]string // kept with the backup
	Tool        string            // the program and version that the manifest names
	Progress    func(Progress)    // called about twice a second, by one goroutine at a time
	Logger      *slog.Logger      // nil means slog.Default
}

// Progress is how far a backup is.
type Progress struct {
	Phase  Phase
	Files  int64 // done
	Bytes  int64 // read, or known to be unchanged
	Total  int64 // bytes there are
	Stored int64 // bytes in the repository, by this run
}

// Phase is what a backup is doing.
type Phase string

// The phases, in order.
const (
	Starting  Phase = "starting"  // a checkpoint, and whether the log is archived
	Copying   Phase = "copying"   // files
	Archiving Phase = "archiving" // waits for the end of the log it needs
	Done      Phase = "done"
)

const maxWorkers = 64

func (c Config) withDefaults() Config {
	const most = 16
	c.Type = cmp.Or(c.Type, repo.Full)
	c.Workers = cmp.Or(c.Workers, min(runtime.GOMAXPROCS(0), most))
	c.Timeout = cmp.Or(c.Timeout, time.Minute)
	c.Logger = cmp.Or(c.Logger, slog.Default()).With("component", "backup")
	if c.Progress == nil {
		c.Progress = func(Progress) {}
	}
	return c
}

func (c Config) validate() error {
	var faults errs.Fields
	if c.DSN == "" {
		faults.Add("dsn", "must name the server to back up")
	}
	switch c.Type {
	case "", repo.Full, repo.Differential, repo.Incremental, repo.Logical:
	default:
		faults.Add("type", "must be full, differential, incremental or logical")
	}
	if c.Workers < 0 || c.Workers > maxWorkers {
		faults.Add("workers", "must be 0 to 64")
	}
	if c.Rate < 0 {
		faults.Add("rate", "must not be negative")
	}
	const longest = 1000 // the server takes 1024 bytes
	if len(c.Label) > longest {
		faults.Add("label", "must have at most 1000 bytes")
	}
	return faults.Err()
}

// WaitWAL returns once the repository has the range, in segments of that size, without a hole.
type WaitWAL func(ctx context.Context, size uint32, r wal.Range) error

// Take takes a backup and returns the manifest that was committed. Pages with a wrong checksum do not stop it: the
// manifest counts them and its files name them.
func Take(ctx context.Context, cfg Config, r *repo.Repo, waitWAL WaitWAL) (repo.Manifest, error) {
	if err := cfg.validate(); err != nil {
		return repo.Manifest{}, err
	}
	t := &taking{cfg: cfg.withDefaults(), r: r, waitWAL: waitWAL}
	t.progress.callback = t.cfg.Progress
	if err := t.run(ctx); err != nil {
		return repo.Manifest{}, err
	}
	return t.m, nil
}

// cause returns why a run was ended, if err only says that it was.
func cause(run context.Context, err error) error {
	if why := context.Cause(run); why != nil && errors.Is(err, context.Canceled) {
		return why
	}
	return err
}
