// Package proof shows that backups can be restored: it restores one into a temporary folder, starts a server that nobody
// can reach and that reaches nobody, and looks at all of its data.
//
// The door is [Run]. What it found is recorded with the backup; everything
// else is removed. It runs nothing that users of the database wrote. It starts
// no goroutine; it restores with package restore.
package proof

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"rootstream/backup/repo"
	"rootstream/backup/restore"
	"rootstream/backup/restore/plan"
	"rootstream/backup/restore/recovery"
	"rootstream/errs"
	"rootstream/internal/proc"
	"rootstream/pgserver"
)

// Config says what is tried. RestoreCommand is required.
type Config struct {
	Target         plan.Target            // zero means the latest
	System         uint64                 // as restore.Config has it
	DSN            string                 // of the living server: a restore point, and a row where the schema is ours, are planted and looked for; may be empty
	Dir            string                 // parent of the temporary folder; empty means the system's
	RestoreCommand string                 // as restore.Config has it
	Installation   pgserver.Installation  // zero means the one found for the version
	Superuser      string                 // of the cluster; empty means postgres
	Libraries      []string               // of shared_preload_libraries that the test server may load
	Arrival        time.Duration          // what the planted log may take to reach the repository; 0 means 2 min
	Workers        int                    // as restore.Config has it
	Progress       func(restore.Progress) // as restore.Config has it
	Logger         *slog.Logger           // nil means slog.Default
}

// Kind of the proofs that Run writes.
const Kind = "test-restore"

const tempPrefix = "rootstream-proof-"

// trial is one test of a restore.
type trial struct {
	cfg   Config
	repo  *repo.Repo
	base  string
	facts map[string]string
	plant planted
}

// Run tries a restore. The result is recorded with the backup. An error means that
// it could not be tried; that a backup is not restorable is a proof that is not OK.
func Run(ctx context.Context, cfg Config, r *repo.Repo) (proof repo.Proof, err error) {
	cfg.Superuser = cmp.Or(cfg.Superuser, "postgres")
	cfg.Arrival = cmp.Or(cfg.Arrival, 2*time.Minute)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	t := &trial{cfg: cfg, repo: r, facts: map[string]string{}}
	began := time.Now()
	if err = t.begin(); err != nil {
		return repo.Proof{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(t.base)) }()
	id, failed := t.run(ctx)
	if failed != nil && (id == "" || ctx.Err() != nil || !damning(failed)) {
		return repo.Proof{}, failed
	}
	at, err := r.Now(ctx)
	if err != nil {
		return repo.Proof{}, err
	}
	proof = repo.Proof{Kind: Kind, At: at, OK: failed == nil, Took: time.Since(began), Detail: "restored, started and read", Facts: t.facts}
	if failed != nil {
		proof.Detail = failed.Error()
	}
	return proof, r.PutProof(ctx, id, proof)
}

// damning reports whether a failure is the backup's. What the machine, the storage or the caller lacks proves nothing.
func damning(err error) bool {
	for _, ours := range []error{restore.ErrSpace, restore.ErrTarget, restore.ErrOwner, restore.ErrVersion, restore.ErrNotEmpty, pgserver.ErrAccess, pgserver.ErrNotInstalled} {
		if errors.Is(err, ours) {
			return false
		}
	}
	switch errs.KindOf(err) {
	case errs.Unavailable, errs.RateLimited, errs.Forbidden, errs.Unauthenticated, errs.Malformed, errs.Invalid:
		return false
	case errs.Internal, errs.NotFound, errs.Conflict, errs.Precondition, errs.Gone:
	}
	return true
}

// begin makes the temporary folder, and removes those whose makers were killed.
func (t *trial) begin() error {
	parent := cmp.Or(t.cfg.Dir, os.TempDir())
	parent, err := filepath.Abs(parent)
	if err != nil {
		return restore.ErrTarget.WithCause(err)
	}
	sweep(parent)
	self, err := proc.Self()
	if err != nil {
		return restore.ErrTarget.WithCause(err)
	}
	if t.base, err = os.MkdirTemp(parent, fmt.Sprintf("%s%d-%d-*", tempPrefix, self.PID, self.Start)); err != nil {
		return restore.ErrTarget.WithCause(err)
	}
	account, err := restore.OwnerOf(restore.Config{Dir: t.base})
	if err == nil {
		err = account.Own(t.base)
	}
	if err != nil {
		return errors.Join(restore.ErrTarget.WithCause(err), os.RemoveAll(t.base))
	}
	return nil
}

// sweep removes what killed tests left.
func sweep(parent string) {
	left, _ := filepath.Glob(filepath.Join(parent, tempPrefix+"*"))
	for _, dir := range left {
		pid, start, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), tempPrefix), "-")
		start, _, _ = strings.Cut(start, "-")
		var maker proc.ID
		maker.PID, _ = strconv.Atoi(pid)
		maker.Start, _ = strconv.ParseUint(start, 10, 64)
		if maker.PID > 0 && !maker.Alive() && pgserver.InUse(filepath.Join(dir, "data")) == nil {
			_ = os.RemoveAll(dir) // somebody else's stays
		}
	}
}

// run restores and checks. The id is that of the backup that was tried, as soon as one is chosen.
func (t *trial) run(ctx context.Context) (string, error) {
	target := t.cfg.Target
	if t.cfg.DSN != "" && cmp.Or(target.Kind, plan.Latest) == plan.Latest {
		var err error
		if t.plant, err = plantIn(ctx, t.cfg.DSN); err != nil {
			t.facts["living_server"] = "nothing was planted: " + err.Error()
		}
	}
	if t.plant.point != "" {
		target.Kind, target.Name = plan.AtName, t.plant.point
		t.facts["restore_point"] = t.plant.point
	}
	began := time.Now()
	j, err := t.prepare(ctx, target)
	if err != nil {
		return t.blamed(ctx, j), err
	}
	id := j.Manifest.ID
	t.facts["backup"], t.facts["timeline"] = id, strconv.FormatUint(uint64(j.Choice.Timeline), 10)
	if j, err = t.confine(ctx, j); err != nil {
		return id, err
	}
	t.facts["target"] = j.Config.Target.String()
	if err = j.Fill(ctx); err != nil {
		return id, fmt.Errorf("restore %s: %w", id, err)
	}
	t.facts["restore_seconds"] = seconds(began)
	t.facts["bytes"] = strconv.FormatInt(j.Bytes(), 10)
	return id, t.live(ctx, j, began)
}

// blamed returns the backup that a failure is recorded with: the one that was chosen, else the newest.
func (t *trial) blamed(ctx context.Context, j *restore.Job) string {
	if j != nil {
		return j.Choice.Backup.ID
	}
	backups, _, err := plan.Load(ctx, t.repo, t.cfg.System)
	if err != nil || len(backups) == 0 {
		return ""
	}
	return plan.Newest(backups).ID
}

func seconds(since time.Time) string {
	return strconv.FormatFloat(time.Since(since).Seconds(), 'f', 3, 64)
}

// prepare plans the restore. What was planted may still be on its way to the repository.
func (t *trial) prepare(ctx context.Context, target plan.Target) (*restore.Job, error) {
	cfg := restore.Config{
		Dir: filepath.Join(t.base, "data"), Target: target, System: t.cfg.System, RestoreCommand: t.cfg.RestoreCommand,
		Installation: t.cfg.Installation, Start: true, NoSync: true, Workers: t.cfg.Workers, Progress: t.cfg.Progress, Logger: t.cfg.Logger,
		SpacesUnder: filepath.Join(t.base, "tablespaces"), Configuration: quiet(),
	}
	if t.plant.point == "" {
		return restore.Prepare(ctx, cfg, t.repo)
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Arrival)
	defer cancel()
	return awaitArrival(ctx, func() (*restore.Job, error) { return restore.Prepare(ctx, cfg, t.repo) })
}

// confine ends the recovery before it would make a tablespace at a place outside.
func (t *trial) confine(ctx context.Context, j *restore.Job) (*restore.Job, error) {
	rec, found, err := j.Elsewhere(ctx)
	if err != nil || !found {
		return j, err
	}
	why := fmt.Sprintf("at %v a tablespace was made at %s, which a test must not touch", rec.Start, rec.Name)
	if rec.Start < j.Choice.Backup.Stop {
		return nil, restore.ErrTarget.WithCause(errors.New("while the backup was taken, " + why)).WithHint("take another backup")
	}
	t.facts["ended_before"] = why
	t.plant = planted{}
	return t.prepare(ctx, plan.Target{Kind: plan.AtLSN, LSN: rec.Start, Exclusive: true, Timeline: j.Choice.Timeline, Backup: j.Choice.Backup.ID})
}

// quiet are the files that take the place of the cluster's own configuration: nothing of it is to act twice.
func quiet() map[string][]byte {
	return map[string][]byte{
		recovery.MainConf: []byte("# A test of a restore.\n"), recovery.AutoConf: nil, "pg_ident.conf": nil,
		"pg_hba.conf": []byte("local all all trust\n"), // the folder of the socket is closed to others
	}
}

// isolation keeps the test from the world: no network, no log that leaves, no jobs, no subscriptions.
func (t *trial) isolation(j *restore.Job) map[string]string {
	params := map[string]string{
		"archive_mode": "off", "archive_command": "", "primary_conninfo": "", "primary_slot_name": "", "hot_standby": "on",
		"max_logical_replication_workers": "0", "autovacuum": "off", "shared_preload_libraries": strings.Join(t.cfg.Libraries, ","),
		"synchronous_standby_names": "", "logging_collector": "off", "ssl": "off", "fsync": "off", "full_page_writes": "off",
		"synchronous_commit": "off", "shared_buffers": "64MB", "jit": "off", "statement_timeout": "0", "log_timezone": "UTC",
	}
	const eventTriggersCanBeOff = 17
	if j.Manifest.Cluster.Major >= eventTriggersCanBeOff {
		params["event_triggers"] = "off"
	}
	return params
}

// live starts the server, looks at it, stops it, and looks at its files.
func (t *trial) live(ctx context.Context, j *restore.Job, began time.Time) (err error) {
	server, err := pgserver.New(pgserver.Config{
		Installation: j.Config.Installation, DataDir: j.Config.Dir, RunAs: j.Account.Name, SocketDir: filepath.Join(t.base, "s"),
		LogFile: filepath.Join(t.base, "log"), PassFile: filepath.Join(t.base, "pgpass"), Superuser: t.cfg.Superuser,
		Params: t.isolation(j), NoSync: true, DieWithParent: true, Logger: t.cfg.Logger,
	})
	if err != nil {
		return err
	}
	j.Report("recovery", 0)
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		err = errors.Join(err, server.Stop(stop, pgserver.Immediate))
	}()
	if _, err = recovery.Run(ctx, server, plan.Promote); err != nil {
		return err
	}
	t.facts["rto_seconds"] = seconds(began)
	j.Report("check", 0)
	if err = t.examine(ctx, server); err != nil {
		return err
	}
	if err = server.Stop(ctx, pgserver.Fast); err != nil {
		return err
	}
	return t.readPages(ctx, j)
}
