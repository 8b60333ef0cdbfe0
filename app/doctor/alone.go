package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"rootstream/app/config"
	"rootstream/backup/archive"
	"rootstream/devstack"
)

// examineBackups looks at a machine where nothing but backups is set up: of a server that need not have anything of
// ours, and need not be alive.
func examineBackups(ctx context.Context, cfg config.Config, now time.Time) []Finding {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	x := examination{examined: &examined{}, cfg: cfg, now: now}
	x.backups.ask(ctx, cfg, nil)
	return slices.Concat(
		[]Finding{fine("stack", "not set up: no database of RootStream, no Redis and no API is configured, only backups")},
		x.backupServer(), x.backupFindings(), x.archiving(), x.backupDisks(),
	)
}

// backupServer says whether the server that is backed up answers, and whose the data folder is.
func (x examination) backupServer() []Finding {
	const server, folder = "backup_server", "backup_pgdata"
	h := &x.backups
	f := fine(server, "none is configured (backup.dsn): what is there can be restored, and nothing new backed up")
	switch {
	case h.unknown != nil:
		f = failed(server, h.unknown, "start the server, or correct backup.dsn; to restore, no server is needed: rootstream backup restore")
	case h.server != nil:
		f = fine(server, "system %d, log up to %s", h.server.SystemID, h.server.LSN)
	}
	dir := x.cfg.Backup.PGData
	if dir == "" {
		return []Finding{f}
	}
	system, err := archive.SystemOf(dir)
	switch {
	case err != nil:
		return []Finding{f, failed(folder, err, "let backup.pgdata name the data folder of that server, and run this as the user that takes the backups")}
	case h.server != nil && h.server.SystemID != system:
		return []Finding{f, {
			Name: folder, Detail: fmt.Sprintf("%s is of system %d, and the server of %d", dir, system, h.server.SystemID),
			Remedy: "let backup.pgdata and backup.dsn name the same server",
		}}
	}
	return []Finding{f, fine(folder, "%s, of system %d", dir, system)}
}

// archiving says who brings the write-ahead log into the repository.
func (x examination) archiving() []Finding {
	const name = "backup_archiving"
	s, slot := x.backups.server, x.cfg.Backup.Slot
	switch {
	case s == nil:
		return nil // the server is told of by itself
	case s.Slot.Lost():
		return []Finding{{
			Name: name, Detail: "the server threw log away that slot " + slot + " was to keep (max_slot_wal_keep_size)",
			Remedy: "rootstream backup create --type full, then see why the receiver fell behind: rootstream wal status",
		}}
	case s.Slot.Active:
		return []Finding{fine(name, "the log is streamed from slot %s", slot)}
	case s.Failing != "":
		return []Finding{{
			Name: name, Detail: "the server could not archive " + s.Failing + ", and nothing since",
			Remedy: "see its log for what archive_command says, or run that by hand: rootstream wal push PGDATA/pg_wal/" + s.Failing,
		}}
	case s.Slot.Name != "":
		return []Finding{{
			Name: name, Detail: fmt.Sprintf("nobody streams from slot %s, for which the server keeps %d MiB of log", slot, s.Slot.Retained>>20),
			Remedy: "run as a service: rootstream backup schedule run (or rootstream wal receive)",
		}}
	case s.Archives:
		return []Finding{fine(name, "the server archives by itself (archive_mode)")}
	}
	return []Finding{fine(name, "nobody brings the log all the time: a restore leads to the end of a backup, no further")}
}

// backupDisks looks at the folders that are written to on this machine, without writing.
func (x examination) backupDisks() []Finding {
	var findings []Finding
	if u, err := url.Parse(x.cfg.Backup.Repo); err == nil && u.Scheme == "file" {
		findings = append(findings, writable("backup_repository_folder", u.Path))
	}
	if spool, err := x.cfg.Backup.SpoolDir(); err == nil && x.cfg.Backup.Receive {
		findings = append(findings, writable("backup_spool", spool))
	}
	return findings
}

// writable says whether this user may write to a folder, or make it, and whether there is room.
func writable(name, dir string) Finding {
	const write, room = 2, 1 << 30
	at := dir
	for _, err := os.Stat(at); errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at); _, err = os.Stat(at) {
		at = filepath.Dir(at)
	}
	if err := syscall.Access(at, write); err != nil {
		return Finding{
			Name: name, Detail: fmt.Sprintf("%s: this user may not write to %s: %v", dir, at, err),
			Remedy: "run this as the user that takes the backups; if that is so: chown it to that user",
		}
	}
	return devstack.CheckSpace(name, dir, room)
}
