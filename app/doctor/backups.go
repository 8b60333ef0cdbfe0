package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"rootstream/app/backups"
	"rootstream/app/config"
	"rootstream/backup"
	"rootstream/backup/archive/ledger"
	"rootstream/backup/archive/receive"
	"rootstream/backup/repo"
	"rootstream/backup/schedule"
	"rootstream/internal/counted"
	"rootstream/secret"
)

const backupPatience = 10 * time.Second

// heldBackups is what the repository holds of the cluster.
type heldBackups struct {
	configured bool
	server     *ledger.Server
	unknown    error           // why nothing is known of the server
	err        error           // nothing below is known
	bucket     bool            // the repository is in one
	writes     error           // why nothing can be written to it
	all        []backup.Backup // of the whole cluster, newest first
	log        ledger.Status
	broken     error // why the newest backup does not reach the end of the log
}

// ask looks into the repository, if there is one, and at the server unless that is down. It makes and writes nothing.
func (h *heldBackups) ask(ctx context.Context, cfg config.Config, down error) {
	if h.configured = cfg.Backup.Repo != ""; !h.configured {
		return
	}
	cfg.Backup.DSN = cfg.Backup.Source(cfg.Postgres)
	if h.unknown = down; down == nil {
		h.lookUp(ctx, cfg.Backup)
	}
	ctx, cancel := context.WithTimeout(ctx, backupPatience)
	defer cancel()
	cfg.Postgres.DSN = secret.Secret{} // no history is written
	b, err := backups.Open(ctx, cfg, backups.Options{Stderr: io.Discard})
	if err != nil {
		h.err = err
		return
	}
	defer b.Close()
	if h.bucket = strings.HasPrefix(cfg.Backup.Repo, "s3://"); h.bucket { // of folders the machine knows
		h.writes = b.Repo().MayWrite(ctx)
	}
	if h.all, h.err = b.List(ctx); h.err == nil {
		h.err = h.askLog(ctx, b.Repo())
	}
}

// lookUp asks the server that is backed up, if one is named.
func (h *heldBackups) lookUp(ctx context.Context, c config.Backup) {
	if c.DSN.IsZero() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, backupPatience)
	defer cancel()
	s, err := receive.LookUp(ctx, c.DSN.Reveal(), c.Slot)
	if h.unknown = err; err == nil {
		h.server = &s
	}
}

// askLog sums up the write-ahead log of the server's cluster, else of the one that was last backed up.
func (h *heldBackups) askLog(ctx context.Context, r *repo.Repo) error {
	var system uint64
	if h.server != nil {
		system = h.server.SystemID
	}
	h.all = slices.DeleteFunc(h.all, func(b backup.Backup) bool { return b.Type == backup.Logical })
	if system == 0 && len(h.all) > 0 {
		var err error
		if system, err = strconv.ParseUint(h.all[0].System, 10, 64); err != nil {
			return fmt.Errorf("read the system identifier: %w", err)
		}
	}
	name := strconv.FormatUint(system, 10)
	h.all = slices.DeleteFunc(h.all, func(b backup.Backup) bool { return b.System != name })
	l, err := ledger.Load(ctx, r, system)
	if err != nil {
		return err
	}
	h.log = l.Status(h.server)
	if b := h.newest(); b != nil {
		h.broken = l.Onward(b.Timeline, b.StartLSN, b.StopLSN)
	}
	return nil
}

// newest is the newest intact backup of the cluster; nil if there is none.
func (h *heldBackups) newest() *backup.Backup {
	i := slices.IndexFunc(h.all, func(b backup.Backup) bool { return b.Status == backup.StatusCompleted })
	if i < 0 {
		return nil
	}
	return &h.all[i]
}

// proven is when a backup was last restored for a test, with success; zero if never.
func (h *heldBackups) proven() (at time.Time) {
	for _, b := range h.all {
		if p := b.Proof; p != nil && p.Kind == backup.ProofRestore && p.OK && p.At.After(at) {
			at = p.At
		}
	}
	return at
}

// lost reports whether the server has thrown log away that the repository does not have.
func (h *heldBackups) lost() bool { return h.log.Server != nil && h.log.Server.Slot.Lost() }

func (h *heldBackups) status(now time.Time) PartStatus {
	const name = "backups"
	if h.err != nil {
		return down(name, h.err)
	}
	b, proven := h.newest(), h.proven()
	facts := map[string]any{"backups": len(h.all), "archived_lsn": h.log.Archived, "gaps": h.log.Gaps, "behind_bytes": h.log.Behind}
	detail := "none yet"
	if b != nil {
		facts["newest"], facts["newest_at"] = b.ID, b.CompletedAt
		detail = fmt.Sprintf("%d, the newest %s old, never test-restored", len(h.all), age(now, b.CompletedAt))
		if !proven.IsZero() {
			facts["proven_at"] = proven
			detail = fmt.Sprintf("%d, the newest %s old, test-restored %s ago", len(h.all), age(now, b.CompletedAt), age(now, proven))
		}
	}
	if h.log.Archived != 0 {
		facts["archived_at"] = h.log.Newest
		detail += fmt.Sprintf("; log up to %s, %s", h.log.Archived, counted.Of(h.log.Gaps, "gap"))
	}
	s := PartStatus{name, stateUp, detail, facts}
	switch {
	case h.lost():
		s.State, s.Detail = stateDown, "the server threw log away that the repository does not have; "+detail
	case h.broken != nil:
		s.State, s.Detail = stateDown, flat(h.broken)+"; "+detail
	}
	return s
}

// age writes how long ago something was.
func age(now, then time.Time) string {
	const day, days = 24 * time.Hour, 48 * time.Hour
	switch d := max(0, now.Sub(then)); {
	case d >= days:
		return fmt.Sprintf("%d days", d/day)
	case d >= time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	default:
		return fmt.Sprintf("%d min", d/time.Minute)
	}
}

const (
	backupNotice = 8 * 24 * time.Hour // without a schedule: how old the newest backup, and proof, may be
	backupGrace  = time.Hour          // for the first backup, from when the key was made
)

func (x examination) backupFindings() []Finding {
	const repository = "backup_repository"
	h := &x.backups
	switch {
	case errors.Is(h.err, repo.ErrNoRepository) && x.newKey():
		return []Finding{fine(repository, "none yet: the first backup makes it")}
	case errors.Is(h.err, repo.ErrNoRepository) && x.dir != "":
		return []Finding{{
			Name: repository, Detail: flat(h.err),
			Remedy: "see " + x.dir + "/logs/node.log; if rootstream up runs with --config, name that file here too",
		}}
	case errors.Is(h.err, repo.ErrWrongKey):
		return []Finding{failed(repository, h.err, "let backup.key_file name a copy of the key that the repository was made with, or of one added since")}
	case h.err != nil:
		return []Finding{failed(repository, h.err, "rootstream backup list")}
	}
	findings := []Finding{fine(repository, "%s, %s", x.cfg.Backup.Repo, counted.Of(len(h.all), "backup"))}
	if h.bucket {
		findings = append(findings, h.bucketWrites())
	}
	return append(findings, x.newestBackup(), x.backupProof(), x.backupLog())
}

func (h *heldBackups) bucketWrites() Finding {
	const name = "backup_repository_writes"
	if h.writes != nil {
		return failed(name, h.writes, "let these credentials write (PutObject) to the bucket; to restore, reading is enough")
	}
	return fine(name, "the bucket lets us write")
}

// newKey reports that backups were only just set up.
func (x examination) newKey() bool {
	for _, file := range []string{x.cfg.Backup.KeyFile, x.cfg.Backup.PassphraseFile} {
		if info, err := os.Stat(file); err == nil {
			return x.now.Sub(info.ModTime()) < backupGrace
		}
	}
	return false
}

// owed returns since when there must have been a success of one of the kinds.
func (x examination) owed(kinds ...schedule.Kind) time.Time {
	if len(x.cfg.Backup.Schedule) > 0 || x.dir != "" { // the stack goes by the usual schedule
		if jobs, err := x.cfg.Backup.Jobs(); err == nil { // its faults are told elsewhere
			if at := schedule.Owed(jobs, x.now, kinds...); !at.IsZero() {
				return at
			}
		}
	}
	return x.now.Add(-backupNotice)
}

func (x examination) newestBackup() Finding {
	const name = "backup_newest"
	owed := x.owed(schedule.Full, schedule.Differential, schedule.Incremental)
	remedy := "rootstream backup create; if a schedule is to take them: rootstream backup schedule list"
	b := x.backups.newest()
	switch {
	case b == nil && x.newKey():
		return fine(name, "none yet: they were set up within the hour")
	case b == nil:
		return Finding{Name: name, Detail: "there is no intact backup of this cluster", Remedy: remedy}
	case b.CompletedAt.Before(owed):
		return Finding{
			Name: name, Detail: fmt.Sprintf("%s is %s old; one was due at %s", b.ID, age(x.now, b.CompletedAt), owed.UTC().Format(time.RFC3339)), Remedy: remedy,
		}
	}
	return fine(name, "%s, %s old", b.ID, age(x.now, b.CompletedAt))
}

func (x examination) backupProof() Finding {
	const name = "backup_proof"
	owed, proven := x.owed(schedule.TestRestore), x.backups.proven()
	old := slices.ContainsFunc(x.backups.all, func(b backup.Backup) bool { return b.CompletedAt.Before(owed) })
	switch remedy := "rootstream backup test-restore"; {
	case proven.IsZero() && old:
		return Finding{Name: name, Detail: "no backup was ever restored for a test", Remedy: remedy}
	case proven.IsZero():
		return fine(name, "none yet")
	case proven.Before(owed) && old:
		return Finding{Name: name, Detail: fmt.Sprintf("the last test restore was %s ago", age(x.now, proven)), Remedy: remedy}
	}
	return fine(name, "a backup was restored for a test %s ago", age(x.now, proven))
}

func (x examination) backupLog() Finding {
	const name = "backup_log"
	l := x.backups.log
	switch {
	case x.backups.broken != nil:
		return Finding{
			Name: name, Detail: "after the newest backup, " + flat(x.backups.broken),
			Remedy: "rootstream backup create --type full, which begins anew behind the gap; rootstream wal gaps shows it",
		}
	case l.Archived == 0:
		return fine(name, "no write-ahead log yet")
	case l.Gaps > 0:
		return fine(name, "up to %s, without a gap since the newest backup; %s: rootstream wal gaps", l.Archived, counted.Of(l.Gaps, "older gap"))
	}
	return fine(name, "up to %s, without a gap", l.Archived)
}

func (x examination) backupSlot() Finding {
	const name = "backup_slot"
	h := &x.backups
	switch {
	case x.database.err != nil:
		return fine(name, "nothing is known of it while the server is down")
	case h.unknown != nil:
		return failed(name, h.unknown, "let backup.dsn name the server and a role that may read pg_control_system()")
	case h.log.Server == nil || h.log.Server.Slot.Name == "":
		return fine(name, "there is no slot %s: nobody streams the log", x.cfg.Backup.Slot)
	case h.lost():
		return Finding{
			Name: name, Detail: "the server threw log away that slot " + x.cfg.Backup.Slot + " was to keep (max_slot_wal_keep_size)",
			Remedy: "rootstream backup create --type full, then see why the receiver fell behind: rootstream wal status",
		}
	}
	return fine(name, "%s keeps %d MiB", h.log.Server.Slot.Name, h.log.Server.Slot.Retained>>20)
}
