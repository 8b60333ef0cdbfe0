package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"rootstream/backup/archive"
	"rootstream/backup/restore"
	"rootstream/backup/restore/plan"
	"rootstream/backup/restore/proof"
	"rootstream/backup/wal"
	"rootstream/internal/proc"
)

// Window is a stretch of time to every moment of which the cluster can be restored.
type Window = plan.Window

// RestoreSpec is a target of a restore as people write it.
type RestoreSpec = plan.Spec

// RestoreProgress is how far a restore is.
type RestoreProgress = restore.Progress

// Restored is what a restore made.
type Restored = restore.Result

// Modes of a restore.
const (
	Fresh   = restore.Fresh   // the target must be empty
	Delta   = restore.Delta   // what is the same stays, all else is overwritten or removed
	InPlace = restore.InPlace // what is there is kept aside
)

// RestoreOptions says what is restored, where to and how far.
type RestoreOptions struct {
	Spec        RestoreSpec
	To          string            // the data folder to make
	Mode        restore.Mode      // zero means Fresh
	Tablespaces map[string]string // old folder → new folder
	Owner       string            // user; empty means the owner of To's parent
	Settings    map[string]string // of PostgreSQL, for the restored cluster; they go to its postgresql.auto.conf
	System      uint64            // whose backups; 0 means the only cluster of the repository
	Start       bool              // start the server and wait for the target
	Workers     int               // 0 means 4
	Progress    func(RestoreProgress)
}

// Recovery brings backups back.
type Recovery struct {
	m *Manager
	// Fetch is the command that brings a file of the write-ahead log: a program and its arguments, the
	// name of the file and its place follow. PostgreSQL runs it as its own user.
	Fetch []string
}

// Recovery returns what restores the manager's backups; fetch is [Recovery.Fetch].
func (m *Manager) Recovery(fetch ...string) Recovery { return Recovery{m, fetch} }

// Restore restores as the options say. A target outside of the window is refused, and the window said.
func (r Recovery) Restore(ctx context.Context, o RestoreOptions) (Restored, error) {
	if o.Spec.Backup == Latest {
		o.Spec.Backup = ""
	}
	target, err := o.Spec.Parse()
	if err != nil {
		return Restored{}, err
	}
	system, err := r.system(ctx, o.System, target.Backup)
	if err != nil {
		return Restored{}, err
	}
	cfg := restore.Config{
		Dir: o.To, Target: target, System: system, Mode: o.Mode, Tablespaces: o.Tablespaces, Owner: o.Owner,
		Settings: o.Settings, Start: o.Start, Workers: o.Workers, Progress: o.Progress, Logger: r.m.cfg.Logger,
	}
	run := func(ctx context.Context, command string) (res Restored, err error) {
		cfg.RestoreCommand = command
		return restore.Run(ctx, cfg, r.m.repo)
	}
	if o.Start && target.Action != plan.Pause {
		owner, err := restore.OwnerOf(cfg)
		if err != nil {
			return Restored{}, err
		}
		return relayed(ctx, r, reach{system, owner, filepath.Dir(o.To)}, run)
	}
	return run(ctx, r.command(system))
}

// Rollback puts back what a restore in place kept aside.
func (Recovery) Rollback(dir string) error { return restore.Rollback(dir) }

// Confirm removes what a restore in place kept aside.
func (Recovery) Confirm(dir string) error { return restore.Confirm(dir) }

// TestRestoreOptions says what is tried.
type TestRestoreOptions struct {
	ID       string // backup; empty or latest means the newest, with all write-ahead log there is
	Dir      string // parent of the temporary folder; empty means the system's
	Planted  bool   // leave a mark in the living server, and look for it in the restored one
	Workers  int    // 0 means 4
	Progress func(RestoreProgress)
}

// TestRestore restores a backup into a temporary folder, starts an isolated
// server on it and looks at all of its data. The result is kept with the backup;
// the error is that it could not be tried.
func (r Recovery) TestRestore(ctx context.Context, o TestRestoreOptions) (Proof, error) {
	id, err := r.m.resolve(ctx, cmp.Or(o.ID, Latest))
	if err != nil {
		return Proof{}, err
	}
	system, err := r.system(ctx, 0, id)
	if err != nil {
		return Proof{}, err
	}
	cfg := proof.Config{System: system, Dir: o.Dir, Workers: o.Workers, Progress: o.Progress, Logger: r.m.cfg.Logger}
	if o.ID != "" && o.ID != Latest {
		cfg.Target = plan.Target{Kind: plan.Immediate, Backup: id}
	}
	if o.Planted {
		cfg.DSN = r.m.cfg.DSN.Reveal()
	}
	parent := cmp.Or(o.Dir, os.TempDir())
	owner, err := restore.OwnerOf(restore.Config{Dir: filepath.Join(parent, "data")})
	if err != nil {
		return Proof{}, err
	}
	p, err := relayed(ctx, r, reach{system, owner, parent}, func(ctx context.Context, command string) (Proof, error) {
		cfg.RestoreCommand = command
		proof, failed := proof.Run(ctx, cfg, r.m.repo)
		return proofOf(proof), failed
	})
	if err == nil {
		r.m.refresh(ctx)
	}
	return p, err
}

// command is the restore_command that fetches from the repository.
func (r Recovery) command(system uint64) string {
	return archive.RestoreCommand(append(slices.Clone(r.Fetch), "--system-id", strconv.FormatUint(system, 10))...)
}

// reach is whose write-ahead log is fetched, and for whom.
type reach struct {
	system uint64
	owner  proc.Account
	dir    string // near the server's data
}

// relayed runs fn with a restore_command. Where the server runs as somebody
// else, that leaves the fetching to us while fn runs: that user can read neither
// the key nor, perhaps, the repository or this program.
func relayed[T any](ctx context.Context, r Recovery, to reach, fn func(ctx context.Context, command string) (T, error)) (T, error) {
	if !to.owner.Foreign() {
		return fn(ctx, r.command(to.system))
	}
	relay, err := newRelay(archive.Source{Repo: r.m.repo, System: to.system}, to.owner, to.dir, r.m.log)
	if err != nil {
		var none T
		return none, err
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		relay.run(running)
	}()
	defer func() {
		stop()
		<-done
		relay.close()
	}()
	return fn(ctx, relay.command())
}

// system finds out whose backup is meant.
func (r Recovery) system(ctx context.Context, system uint64, id string) (uint64, error) {
	if system != 0 {
		return system, nil
	}
	entries, err := r.m.repo.Catalog(ctx)
	if err != nil {
		return 0, err
	}
	if id == "" {
		if id, err = resolve(entries, Latest); err != nil {
			return 0, err
		}
	}
	for _, e := range entries {
		if e.ID == id {
			return e.Cluster.SystemID, nil
		}
	}
	return 0, ErrNoBackup.WithCause(errors.New(id)).WithHint(listHint)
}

// Windows returns what can be restored of the cluster that the newest backup is
// of, on the way to its newest timeline, oldest first.
func (m *Manager) Windows(ctx context.Context) ([]Window, error) {
	all, err := m.List(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, Backup.physical)
	if i < 0 {
		return []Window{}, nil
	}
	system, err := strconv.ParseUint(all[i].System, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("read the system identifier: %w", err)
	}
	backups, l, err := plan.Load(ctx, m.repo, system)
	if err != nil {
		return nil, err
	}
	windows := plan.Windows(backups, l)
	if windows == nil {
		windows = []Window{}
	}
	return windows, nil
}

// Gap is write-ahead log that is missing between what can be restored.
type Gap struct {
	Timeline wal.TimelineID `json:"timeline"`
	From     wal.LSN        `json:"from_lsn"`
	To       wal.LSN        `json:"to_lsn"`
	Since    time.Time      `json:"from_time"`
	Until    time.Time      `json:"to_time"`
}

// GapsOf names what lies between windows.
func GapsOf(windows []Window) []Gap {
	gaps := []Gap{}
	for i := 1; i < len(windows); i++ {
		a, b := windows[i-1], windows[i]
		gaps = append(gaps, Gap{b.Timeline, a.To, b.From, a.Until, b.Since})
	}
	return gaps
}
