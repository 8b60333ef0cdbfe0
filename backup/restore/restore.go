// Package restore brings a backup back to life.
//
// [Run] puts the files in place: into an empty folder, over what is there
// ([Delta]) or beside the old folder, which is kept aside ([InPlace],
// [Rollback], [Confirm]). pg_control is removed first and comes back last, so
// that no server starts on half of a cluster; a restore that was killed goes on
// where it was when it is run again. Every byte is checked against the backup
// before it counts. [Prepare] and [Job.Fill] are its two halves.
//
// Package plan chooses the backup, package recovery says how far PostgreSQL
// recovers, package proof tries it all and looks at the result. It owns no table
// and no goroutine that outlives a call. Objects are read through package repo,
// servers are run by package pgserver.
package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/backup/restore/plan"
	"rootstream/backup/restore/recovery"
	"rootstream/backup/wal"
	"rootstream/errs"
	"rootstream/internal/proc"
	"rootstream/pgserver"
)

// Why a restore does not begin, or does not end well.
var (
	ErrTarget   = errs.New(errs.Precondition, "restore_target", "the target folder cannot be used")
	ErrNotEmpty = errs.New(errs.Conflict, "restore_not_empty", "the target folder is not empty")
	ErrForeign  = errs.New(errs.Conflict, "restore_foreign", "the target folder belongs to another cluster")
	ErrSpace    = errs.New(errs.Precondition, "restore_space", "there is too little space on the disk")
	ErrOwner    = errs.New(errs.Forbidden, "restore_owner", "files cannot be given to that user")
	ErrVersion  = errs.New(errs.Precondition, "restore_version", "the PostgreSQL found is of another version than the backup")
)

// Mode is what becomes of the target folder's content.
type Mode uint8

// The modes of a restore.
const (
	Fresh   Mode = iota // it must be empty
	Delta               // what is the same stays, all else is overwritten or removed
	InPlace             // it is kept aside until Rollback or Confirm
)

// Config says what is restored, and to where. Dir and RestoreCommand are required.
type Config struct {
	Dir            string                // the data folder to make
	Target         plan.Target           // zero means the latest
	System         uint64                // whose backups; 0 means the only cluster of the repository
	Mode           Mode                  // zero means Fresh
	Tablespaces    map[string]string     // old folder → new folder
	SpacesUnder    string                // a folder that all tablespaces go to, whatever their names; may be empty
	Owner          string                // user; empty means the owner of Dir's parent, or PostgreSQL's user where that is root
	RestoreCommand string                // shell text as archive.RestoreCommand makes it
	Configuration  map[string][]byte     // files that replace the backup's own, such as postgresql.conf
	Settings       map[string]string     // go to postgresql.auto.conf
	Start          bool                  // start the server and wait for the target
	Installation   pgserver.Installation // to start it with; zero means the one found for the version
	LogFile        string                // of the started server; empty means Dir + ".log"
	Workers        int                   // 0 means 4
	NoSync         bool                  // do not wait for the disk (tests, proofs)
	Progress       func(Progress)        // called now and then, never at the same time; may be nil
	Logger         *slog.Logger          // nil means slog.Default

	linked bool // Dir was given by way of a link
}

// Progress is how far a restore is.
type Progress struct {
	Phase string `json:"phase"` // check, files, sync, recovery
	Done  int64  `json:"done"`  // bytes
	Total int64  `json:"total"`
}

// Result is what a restore made.
type Result struct {
	Backup   string         `json:"backup"`
	System   uint64         `json:"system_id,string"`
	Dir      string         `json:"dir"`
	Owner    string         `json:"owner"` // user that the folder belongs to, and who starts the server
	Target   string         `json:"target"`
	Timeline wal.TimelineID `json:"timeline"`
	Kept     string         `json:"kept,omitempty"` // the old folder
	Files    int64          `json:"files"`
	Bytes    int64          `json:"bytes"`
	Fetched  int64          `json:"fetched_bytes"` // of them, those that were not there already
	BadPages int64          `json:"bad_pages"`     // whose checksum was wrong when the backup was taken, and is again
	Resumed  bool           `json:"resumed"`
	Took     time.Duration  `json:"took_ns"`
	Started  bool           `json:"started"`
	Recovery time.Duration  `json:"recovery_ns,omitempty"` // from the start of the server to its target
}

func (cfg *Config) check() error {
	var faults errs.Fields
	if !filepath.IsAbs(cfg.Dir) || filepath.Dir(cfg.Dir) == cfg.Dir {
		faults.Add("to", "must be the absolute path of a folder")
	}
	if cfg.RestoreCommand == "" {
		faults.Add("restore_command", "is required")
	}
	for old, place := range cfg.Tablespaces {
		if !filepath.IsAbs(old) || !filepath.IsAbs(place) {
			faults.Add("tablespace_map", "maps one absolute path to another: "+old+"="+place)
		}
	}
	recovery.CheckSettings(cfg.Settings, &faults)
	cfg.Dir = filepath.Clean(cfg.Dir)
	cfg.Workers = cmp.Or(cfg.Workers, 4)
	cfg.Target.Kind = cmp.Or(cfg.Target.Kind, plan.Latest)
	cfg.Target.Action = cmp.Or(cfg.Target.Action, plan.Promote)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Progress == nil {
		cfg.Progress = func(Progress) {}
	}
	return faults.Err()
}

// Job is one restore.
type Job struct {
	Config   Config // as it was asked for, complete
	Choice   plan.Choice
	Manifest repo.Manifest // of the backup that was chosen
	Account  proc.Account  // whom the files will belong to

	repo      *repo.Repo
	tree      *tree
	survey    survey
	resume    bool
	reuse     bool // what is there may be what we want
	kept      string
	mu        sync.Mutex // for fetched and progress while many work
	fetched   int64
	indirect  atomic.Bool  // the filesystem cannot be written past its cache
	handles   atomic.Int32 // open files
	writeback *writeback   // asks the disk to begin
	progress  Progress
}

// Run restores, and starts the server if that is wanted. When it was killed, the same call goes on.
func Run(ctx context.Context, cfg Config, r *repo.Repo) (Result, error) {
	began := time.Now()
	j, err := Prepare(ctx, cfg, r)
	if err == nil && cfg.Mode == Fresh && !j.resume {
		err = j.beside(ctx)
	}
	if err != nil {
		return Result{}, err
	}
	cfg = j.Config
	if err = j.Fill(ctx); errors.Is(err, syscall.ENOSPC) {
		err = ErrSpace.WithCause(err).WithHint("make room, then run the same command again: it goes on")
	}
	if err != nil {
		return Result{}, fmt.Errorf("restore %s to %s: %w", j.Manifest.ID, cfg.Dir, err)
	}
	if j.Manifest.PageErrors > 0 {
		cfg.Logger.WarnContext(ctx, "the backup was taken of damaged pages, and so is what was restored", "backup", j.Manifest.ID, "pages", j.Manifest.PageErrors)
	}
	res := Result{
		Backup: j.Manifest.ID, System: j.Manifest.Cluster.SystemID, Dir: cfg.Dir, Owner: j.Account.Name, Target: cfg.Target.String(), Timeline: j.Choice.Timeline,
		Kept: j.kept, Files: j.survey.files, Bytes: j.Bytes(), Fetched: j.fetched, Resumed: j.resume, Took: time.Since(began),
		BadPages: j.Manifest.PageErrors,
	}
	if !cfg.Start {
		return res, nil
	}
	from := time.Now()
	res.Started, err = j.start(ctx)
	if err == nil {
		res.Recovery = time.Since(from)
	}
	return res, err
}

// Prepare decides everything and touches nothing. A job comes with an error once a backup is chosen.
func Prepare(ctx context.Context, cfg Config, r *repo.Repo) (*Job, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if real, err := filepath.EvalSymlinks(cfg.Dir); err == nil {
		cfg.Dir, cfg.linked = real, real != cfg.Dir
	}
	choice, err := plan.Make(ctx, r, cfg.System, cfg.Target)
	if err != nil {
		return nil, err
	}
	j := &Job{Config: cfg, repo: r, Choice: choice}
	if j.Manifest, err = r.Manifest(ctx, choice.Backup.ID); err != nil {
		return j, fmt.Errorf("read backup %s: %w", choice.Backup.ID, err)
	}
	if j.Account, err = OwnerOf(cfg); err != nil {
		return j, err
	}
	if cfg.Start {
		if err = j.findServer(); err != nil { //nolint:contextcheck // a look at files, bounded by itself
			return j, err
		}
	}
	if j.survey, err = j.look(ctx); err != nil {
		return j, fmt.Errorf("read backup %s: %w", choice.Backup.ID, err)
	}
	return j, j.preflight()
}

// Fill puts the cluster in place, pg_control last.
func (j *Job) Fill(ctx context.Context) (err error) {
	if err = j.makeRoom(); err != nil {
		return err
	}
	spaces, err := j.spaces()
	if err != nil {
		return err
	}
	if j.tree, err = openTree(j.Config.Dir, j.Account, spaces, j.survey.group); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.tree.close()) }()
	// From here on the folder is ours to go on with, and no server starts on it.
	if err = j.claim(); err != nil {
		return err
	}
	if err = j.tree.remove(pgdata.ControlPath); err != nil {
		return err
	}
	if j.reuse {
		if err = j.removeLeftovers(ctx); err != nil {
			return err
		}
	}
	control, err := j.fill(ctx)
	if err != nil {
		return err
	}
	if err = j.configure(); err != nil {
		return err
	}
	return j.complete(control)
}

// complete waits for the disk, then lets pg_control appear.
func (j *Job) complete(control []byte) error {
	j.Report("sync", 0)
	blind, err := pgdata.WithoutCheckpoint(control)
	if err != nil {
		return err
	}
	if !j.Config.NoSync {
		if err = j.tree.sync(); err != nil {
			return err
		}
	}
	if err = j.tree.put(pgdata.ControlPath, blind); err != nil {
		return err
	}
	return j.tree.remove(statePath)
}

// Bytes is how much the cluster's files hold.
func (j *Job) Bytes() int64 { return j.survey.total() }

// Report tells how far the restore is.
func (j *Job) Report(phase string, done int64) {
	if phase != j.progress.Phase {
		j.progress = Progress{Phase: phase, Total: j.survey.total()}
	}
	j.progress.Done += done
	j.Config.Progress(j.progress)
}
