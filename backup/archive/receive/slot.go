package receive

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"rootstream/backup/archive/ledger"
	"rootstream/backup/replication"
	"rootstream/backup/wal"
)

const lookUp = `select system_identifier::text, at::text, coalesce(slot_name::text, ''), coalesce(active, false)::text,
	coalesce(restart_lsn, '0/0')::text, coalesce(wal_status, ''), greatest(0, coalesce(pg_wal_lsn_diff(at, restart_lsn), 0))::bigint::text,
	(current_setting('archive_mode') <> 'off')::text,
	case when last_failed_time > coalesce(last_archived_time, '-infinity') then last_failed_wal else '' end
	from pg_control_system(), pg_stat_archiver,
	(select case when pg_is_in_recovery() then coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) else pg_current_wal_flush_lsn() end at) now
	left join pg_replication_slots on slot_name = $1 and slot_type = 'physical'`

// LookUp asks a server over an ordinary connection: one for replication takes no queries.
func LookUp(ctx context.Context, dsn, slot string) (ledger.Server, error) {
	cfg, err := parseDSN(dsn, "rootstream")
	if err != nil {
		return ledger.Server{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, replication.DialTimeout+replication.AskTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return ledger.Server{}, ErrServer.WithCause(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	result := conn.ExecParams(ctx, lookUp, [][]byte{[]byte(slot)}, nil, nil, nil).Read()
	if result.Err == nil && (len(result.Rows) != 1 || len(result.Rows[0]) != 9) {
		result.Err = errors.New("the answer has another form")
	}
	if result.Err != nil {
		return ledger.Server{}, fmt.Errorf("look up the replication slot: %w", ErrServer.WithCause(result.Err))
	}
	return parseServer(result.Rows[0])
}

func parseServer(row [][]byte) (ledger.Server, error) {
	system, err := strconv.ParseInt(string(row[0]), 10, 64) // SQL has no unsigned numbers
	if err != nil {
		return ledger.Server{}, fmt.Errorf("the server's system id: %w", err)
	}
	s := ledger.Server{SystemID: uint64(system), Slot: ledger.Slot{Name: string(row[2]), Active: string(row[3]) == "true", Status: string(row[5])}} //nolint:gosec // the same bits
	if s.LSN, err = wal.ParseLSN(string(row[1])); err != nil {
		return ledger.Server{}, err
	}
	if s.Slot.RestartLSN, err = wal.ParseLSN(string(row[4])); err != nil {
		return ledger.Server{}, err
	}
	s.Archives, s.Failing = string(row[7]) == "true", string(row[8])
	s.Slot.Retained, err = strconv.ParseInt(string(row[6]), 10, 64)
	return s, err
}

func (r *Receiver) slot(ctx context.Context) (ledger.Slot, error) {
	s, err := LookUp(ctx, r.cfg.DSN, r.cfg.Slot)
	return s.Slot, err
}
