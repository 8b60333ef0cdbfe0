// Package devstack runs the whole stack on one machine from one data folder.
//
// [Plan] says where everything lives, [Run] supervises three children: the
// node process (PostgreSQL's parent), redis-server and serve; it restarts what
// crashes, stops in order and clears what a killed predecessor left, known by
// recorded number and start time. [RunNode] is the body of the node process: a
// live postmaster is attached to, never killed for tidiness. [Checks] looks at
// the machine for the doctor.
//
// It owns the data folder (lock, ports, secrets, logs) and, while Run blocks,
// one goroutine per child and one that rotates logs; RunNode has its loop
// alone. How a postmaster is started lives in pgserver; what node and serve do
// is passed in as commands.
package devstack

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"rootstream/errs"
)

// Reasons not to start, and to stop.
var (
	ErrLocked      = errs.New(errs.Conflict, "data_folder_locked", "another process runs on this data folder")
	ErrAccess      = errs.New(errs.Forbidden, "data_folder_access", "the data folder cannot be used")
	ErrNoRedis     = errs.New(errs.Precondition, "redis_not_installed", "no suitable Redis is installed")
	ErrDiskFull    = errs.New(errs.Precondition, "disk_full", "the disk of the data folder has too little space left")
	ErrPortTaken   = errs.New(errs.Conflict, "port_taken", "the address is already in use")
	ErrBadListen   = errs.New(errs.Invalid, "listen_address", "the address cannot be listened on")
	ErrChildFailed = errs.New(errs.Unavailable, "child_failed", "a part did not start")
	ErrClusterGone = errs.New(errs.Precondition, "cluster_gone", "the database cluster that ran here is gone")
	ErrNotReady    = errs.New(errs.Unavailable, "not_ready", "a part did not become ready in time")
)

// Config says what to run and where. DataDir is required; Run also needs Node and Serve.
type Config struct {
	DataDir     string
	Listen      string // address of serve; empty means 127.0.0.1:8080, port 0 picks a free one
	TLS         bool   // serve speaks TLS
	PostgresBin string // folder of PostgreSQL's programs; empty means find them
	RedisServer string // path of redis-server; empty means find it
	RunAs       string // user of PostgreSQL when this is root; empty means postgres

	Node  func(Layout) Command // the command of the node process
	Serve func(Layout) Command // the command of the serve process

	ReadyTimeout time.Duration // longest wait for the first readiness; 0 means 2m
	MinFree      uint64        // bytes the disk must have free; 0 means 512 MiB
	LogCap       int64         // bytes a log may grow to before it is rotated; 0 means 16 MiB
	Logger       *slog.Logger  // nil means slog.Default
}

// Command is a program with its arguments and its whole environment.
type Command struct {
	Path string
	Args []string
	Env  []string
}

func (cfg Config) withDefaults() (Config, error) {
	if cfg.DataDir == "" {
		return cfg, errs.NewInvalid("data", "is required")
	}
	dir, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return cfg, ErrAccess.WithCause(err)
	}
	// One folder has one name, or two spellings of it would have two locks' worth of children.
	if real, unresolved := filepath.EvalSymlinks(dir); unresolved == nil {
		dir = real
	}
	cfg.DataDir = dir
	cfg.Listen = cmp.Or(cfg.Listen, "127.0.0.1:8080")
	if _, _, err := net.SplitHostPort(cfg.Listen); err != nil {
		return cfg, errs.NewInvalid("listen", "must be host:port")
	}
	cfg.ReadyTimeout = cmp.Or(cfg.ReadyTimeout, 2*time.Minute)
	cfg.MinFree = cmp.Or(cfg.MinFree, 512<<20)
	cfg.LogCap = cmp.Or(cfg.LogCap, 16<<20)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return cfg, nil
}

// Run starts the stack, calls ready once /readyz answers, and supervises until
// ctx ends; then it stops everything in order and returns nil. Before the
// first readiness any failure ends it; afterwards children that crash are restarted.
func Run(ctx context.Context, cfg Config, ready func(Layout)) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	layout, err := Plan(cfg) //nolint:contextcheck // looking at versions is bounded by itself
	if err != nil {
		return err
	}
	if layout.RedisServer, err = findRedis(layout.redisFlag); err != nil { //nolint:contextcheck // as above
		return err
	}
	if err = layout.makeFolders(); err != nil {
		return err
	}
	lock, err := Lock(layout.LockFile)
	if err != nil {
		return err
	}
	defer lock.Release()
	removeTemporary(layout.DataDir, layout.RunDir, layout.SecretsDir)
	clearLeftovers(ctx, cfg.Logger, layout)
	if err = prepare(ctx, cfg, &layout); err != nil {
		return err
	}
	return newStack(cfg, layout).run(ctx, ready)
}
