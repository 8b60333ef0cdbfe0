package archive

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"rootstream/backup/wal"
)

// Slot is a replication slot as the server sees it. The zero value is one that is not there.
type Slot struct {
	Name       string  `json:"name"`
	Active     bool    `json:"active"`
	RestartLSN wal.LSN `json:"restart_lsn"`
	Status     string  `json:"wal_status"` // reserved, extended, unreserved, lost
	Retained   int64   `json:"retained_bytes"`
}

func (s Slot) lost() bool { return s.Status == "lost" }

// slot asks over an ordinary connection: one for replication takes no queries.
func (r *Receiver) slot(ctx context.Context) (Slot, error) {
	return LookUpSlot(ctx, r.cfg.DSN, r.cfg.Slot)
}

// LookUpSlot asks the server for a replication slot.
func LookUpSlot(ctx context.Context, dsn, name string) (Slot, error) {
	cfg, err := parseDSN(dsn, "rootstream", false)
	if err != nil {
		return Slot{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+askTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return Slot{}, ErrServer.WithCause(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	const query = `select active::text, coalesce(restart_lsn, '0/0')::text, coalesce(wal_status, ''),
		coalesce(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end, restart_lsn), 0)::bigint::text
		from pg_replication_slots where slot_name = $1 and slot_type = 'physical'`
	result := conn.ExecParams(ctx, query, [][]byte{[]byte(name)}, nil, nil, nil).Read()
	if result.Err != nil {
		return Slot{}, fmt.Errorf("look up the replication slot: %w", ErrServer.WithCause(result.Err))
	}
	if len(result.Rows) == 0 {
		return Slot{}, nil
	}
	row := result.Rows[0]
	s := Slot{Name: name, Active: string(row[0]) == "true", Status: string(row[2])}
	if s.RestartLSN, err = wal.ParseLSN(string(row[1])); err != nil {
		return Slot{}, err
	}
	s.Retained, err = strconv.ParseInt(string(row[3]), 10, 64)
	return s, err
}
