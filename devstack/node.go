package devstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"rootstream/internal/proc"
	"rootstream/internal/wait"
	"rootstream/pgserver"
)

// leaveSignal makes a node end and leave its postmaster running for a successor.
const leaveSignal = syscall.SIGUSR1

// States of PostgreSQL as the node tells them.
const (
	StateStarting = "starting"
	StateReady    = "ready"
	StateStopped  = "stopped"
	StateFailed   = "failed"
	StateLeft     = "left" // running, without a node
)

// NodeStatus is what a node process writes about PostgreSQL.
type NodeStatus struct {
	State      string    `json:"state"`
	Node       proc.ID   `json:"node"`
	Postmaster int       `json:"postmaster,omitempty"`
	Attached   bool      `json:"attached,omitempty"` // the postmaster was running already
	SocketDir  string    `json:"socket_dir,omitempty"`
	Port       int       `json:"port,omitempty"`
	Restarts   int       `json:"restarts"`
	Error      string    `json:"error,omitempty"`
	Since      time.Time `json:"since"`
}

// NodeConfig says which PostgreSQL a node is the parent of.
type NodeConfig struct {
	Server       pgserver.Config
	StatusFile   string // empty means none
	LockFile     string // empty means the data folder's path + ".lock"
	Database     string // made if missing; empty means none
	Owner        string // role that owns Database
	DSNFile      string // gets the URL of Database as Owner; empty means none
	AdminDSNFile string // gets the URL of Database as superuser; empty means none
	LogCap       int64  // bytes PostgreSQL's log may grow to; 0 means 16 MiB
	Logger       *slog.Logger

	layout *Layout // whose folders the node may have to make; nil means they are there
}

type node struct {
	cfg      NodeConfig
	server   *pgserver.Server
	self     proc.ID
	restarts int
	began    bool // it was ready once
	attached bool // the postmaster was running already
}

// RunNode is PostgreSQL's parent until ctx ends: it makes the cluster if there
// never was one, attaches to a live postmaster, restarts one that died, and on a
// wanted stop shuts down fast. Told by SIGUSR1, it ends and leaves the postmaster running.
func RunNode(ctx context.Context, cfg NodeConfig) error {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.LogCap == 0 {
		cfg.LogCap = 16 << 20
	}
	if cfg.LockFile == "" {
		cfg.LockFile = cfg.Server.DataDir + ".lock"
	}
	cfg.Server.Logger = cfg.Logger
	server, err := pgserver.New(cfg.Server)
	if err != nil {
		return err
	}
	self, err := proc.Self()
	if err != nil {
		return err
	}
	if cfg.layout != nil {
		if err = cfg.layout.makeFolders(); err != nil {
			return err
		}
		if err = letPass(ctx, cfg.Logger, cfg.layout.DataDir, server.Account()); err != nil {
			return err
		}
	}
	leave := make(chan os.Signal, 1)
	signal.Notify(leave, leaveSignal)
	defer signal.Stop(leave)
	lock, err := Lock(cfg.LockFile)
	if err != nil {
		return err
	}
	defer lock.Release()
	n := &node{cfg: cfg, server: server, self: self}
	return n.run(ctx, leave)
}

func (n *node) run(ctx context.Context, leave <-chan os.Signal) error {
	work, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-leave:
			cancel(pgserver.ErrLeave)
		case <-work.Done():
		}
	}()
	rotating := make(chan struct{})
	go func() {
		defer close(rotating)
		rotateLogs(work, n.cfg.Logger, n.cfg.LogCap, n.server.LogFile())
	}()
	err := n.loop(work)
	cancel(nil)
	<-watched
	<-rotating
	if errors.Is(context.Cause(work), pgserver.ErrLeave) {
		n.server.Release()
		n.report(StateLeft, false, nil)
		n.cfg.Logger.InfoContext(ctx, "leaving postgres to a successor")
		return nil
	}
	return errors.Join(err, n.stop(ctx, err))
}

// loop keeps PostgreSQL running until ctx ends. Before it ran once, a failure ends the node: its parent explains it.
func (n *node) loop(ctx context.Context) error {
	backoff := backoffMin
	for {
		began := time.Now()
		attached, err := n.up(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // a wanted stop is why it failed
		}
		if err != nil && !n.began {
			n.report(StateFailed, false, err)
			return err
		}
		if err == nil {
			n.began = true
			n.report(StateReady, attached, nil)
			id, _ := n.server.Process()
			n.cfg.Logger.InfoContext(ctx, "postgres is ready", "pid", id.PID, "attached", attached)
			select {
			case <-ctx.Done():
				return nil
			case <-n.server.Done():
				err = n.server.Err()
			}
		}
		n.restarts++
		n.report(StateStarting, false, err)
		n.cfg.Logger.ErrorContext(ctx, "postgres ended, restarting it", "err", err, "restarts", n.restarts)
		if time.Since(began) > steadyAfter {
			backoff = backoffMin
			continue // the first restart is immediate
		}
		if wait.For(ctx, backoff) != nil {
			return nil //nolint:nilerr // a wanted stop
		}
		backoff = min(2*backoff, backoffMax)
	}
}

// up brings the server to where it takes connections and its database exists.
func (n *node) up(ctx context.Context) (attached bool, err error) {
	done, err := n.server.Initialized()
	if err != nil {
		return false, err
	}
	if !done {
		if err = n.lost(); err != nil {
			return false, err
		}
		n.report(StateStarting, false, nil)
		n.cfg.Logger.InfoContext(ctx, "making a new database cluster", "folder", n.server.DataDir())
		if err = n.server.Init(ctx); err != nil {
			return false, err
		}
	}
	err = n.server.Attach(ctx)
	attached = err == nil
	n.attached = attached
	if errors.Is(err, pgserver.ErrNotRunning) {
		n.report(StateStarting, false, nil)
		n.server.EndOrphans(ctx)
		err = n.server.Start(ctx)
	}
	if err != nil {
		return false, err
	}
	return attached, n.ensureDatabase(ctx)
}

// lost tells a cluster that is gone from one that never was: an empty one in its place would look as if all were well.
func (n *node) lost() error {
	if !n.began {
		if n.cfg.DSNFile == "" {
			return nil
		}
		if _, err := os.Stat(n.cfg.DSNFile); errors.Is(err, os.ErrNotExist) {
			return nil
		} else if err != nil {
			return fmt.Errorf("look whether a cluster ran here: %w", err)
		}
	}
	dir := n.server.DataDir()
	hint := "stop the stack, then: rootstream backup restore latest --to " + dir + " --start --yes"
	if n.cfg.DSNFile != "" {
		hint += "; or begin with an empty one: rm " + n.cfg.DSNFile
	}
	return ErrClusterGone.WithCause(errors.New(dir + " holds no data any more")).WithHint(hint)
}

func (n *node) ensureDatabase(ctx context.Context) error {
	if n.cfg.Database == "" {
		return nil
	}
	if err := n.server.EnsureDatabase(ctx, n.cfg.Database, n.cfg.Owner); err != nil {
		return fmt.Errorf("prepare database %s: %w", n.cfg.Database, err)
	}
	for path, user := range map[string]string{n.cfg.DSNFile: n.cfg.Owner, n.cfg.AdminDSNFile: n.server.Superuser()} {
		if path == "" {
			continue
		}
		url, err := n.server.URL(user, n.cfg.Database)
		if err != nil {
			return err
		}
		if err = replace(path, url+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// stop shuts down fast: clients are disconnected, a checkpoint is written. A
// node that failed before it ever ran stops nothing it did not start.
func (n *node) stop(ctx context.Context, failed error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if _, ok := n.server.Process(); !ok {
		return nil
	}
	if failed != nil && n.attached {
		n.server.Release()
		return nil
	}
	if err := n.server.Stop(ctx, pgserver.Fast); err != nil {
		return err
	}
	if failed == nil {
		n.report(StateStopped, false, nil)
	}
	return nil
}

// report writes the status file. What it says is for people and for readiness; nothing is decided on it alone.
func (n *node) report(state string, attached bool, err error) {
	if n.cfg.StatusFile == "" {
		return
	}
	st := NodeStatus{State: state, Node: n.self, Attached: attached, Restarts: n.restarts, Since: time.Now().UTC()}
	if err != nil {
		st.Error = err.Error()
	}
	if id, ok := n.server.Process(); ok && state == StateReady {
		st.Postmaster, st.SocketDir, st.Port = id.PID, n.server.SocketDir(), n.server.Port()
	}
	raw, fault := json.Marshal(st)
	if fault == nil {
		fault = replace(n.cfg.StatusFile, string(raw)+"\n")
	}
	if fault != nil {
		n.cfg.Logger.Warn("the status could not be written", "err", fault)
	}
}
