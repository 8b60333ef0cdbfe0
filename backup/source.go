package backup

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"rootstream/backup/archive/ledger"
	"rootstream/backup/wal"
	"rootstream/postgres"
)

// source is what has to be known of the server before a backup.
type source struct {
	system  uint64
	command string    // that archives its write-ahead log; empty if none does
	stream  bool      // a receiver streams its write-ahead log
	written wal.Range // a bit of log, the newest there is; zero where that cannot be told
	size    uint32    // of segments
}

const lookPatience = 15 * time.Second

// look asks the server who it is and whether somebody archives from it.
func (m *Manager) look(ctx context.Context) (source, error) {
	ctx, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	db, err := postgres.Open(ctx, postgres.Config{DSN: m.cfg.DSN.Reveal(), MaxConns: 1, Logger: m.cfg.Logger})
	if err != nil {
		return source{}, fmt.Errorf("look at the server that is to be backed up (--dsn, backup.dsn): %w", err)
	}
	defer db.Close()
	var s source
	var system string
	err = db.QueryRow(ctx, `select (select system_identifier from pg_control_system())::text,
		exists (select 1 from pg_replication_slots where slot_name = $1 and active),
		coalesce((select case setting when 'off' then '' else current_setting('archive_command') end from pg_settings where name = 'archive_mode'), ''),
		pg_size_bytes(current_setting('wal_segment_size'))`, m.cfg.Slot).Scan(&system, &s.stream, &s.command, &s.size)
	if err == nil {
		s.system, err = parseSystem(system)
	}
	if err != nil {
		return source{}, fmt.Errorf("look at the server that is to be backed up (--dsn, backup.dsn): %w", err)
	}
	if s.stream {
		s.written = write(ctx, db)
	}
	return s, nil
}

// write has the server write a bit of log that means nothing, and says where it is.
func write(ctx context.Context, db *postgres.DB) (r wal.Range) {
	var at, timeline string
	err := db.QueryRow(ctx, `select at::text, left(pg_walfile_name(at), 8) from (select case when not pg_is_in_recovery()
		then pg_logical_emit_message(false, 'rootstream', 'is this archived?') end) as written (at) where at is not null`).Scan(&at, &timeline)
	if err != nil {
		return r // a standby writes none, and not everybody may
	}
	to, err := wal.ParseLSN(at)
	id, fault := strconv.ParseUint(timeline, 16, 32)
	if err != nil || fault != nil {
		return r
	}
	return wal.Range{Timeline: wal.TimelineID(id), From: to - 1, To: to}
}

// arrives is how long the log that a receiver streams may take to be in the repository. It is told of it in less than a second.
const arrives = 5 * time.Second

// archived reports whether somebody brings the server's write-ahead log into this repository, and not into another.
func (m *Manager) archived(ctx context.Context, s source) bool {
	if s.stream {
		soon, cancel := context.WithTimeout(ctx, arrives)
		defer cancel()
		if s.written.To == 0 || ledger.Wait(soon, m.repo, s.system, s.size, s.written) == nil {
			return true
		}
		m.log.InfoContext(ctx, "a receiver streams write-ahead log, but not into this repository, or not in time: this backup brings its own", "slot", m.cfg.Slot)
	}
	return pushes(s.command, m.cfg.Repo)
}

// pushes reports whether an archive_command is ours and may be for this repository: it need not name any.
func pushes(command, repository string) bool {
	if !strings.Contains(command, "wal push") {
		return false
	}
	named := regexp.MustCompile(`--repo[ =]["']?([^\s"']+)`).FindStringSubmatch(command)
	return named == nil || strings.TrimRight(named[1], "/") == strings.TrimRight(repository, "/")
}

// parseSystem reads a system identifier, which SQL shows as a signed number.
func parseSystem(text string) (uint64, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return uint64(n), nil //nolint:gosec // the same 64 bits
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the server's system identifier: %w", err)
	}
	return n, nil
}
