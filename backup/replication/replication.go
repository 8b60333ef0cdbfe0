// Package replication begins connections that speak the replication protocol
// (PostgreSQL manual, "Streaming Replication Protocol"). What is then asked over
// them is known to those who ask: base/wire for files, archive/receive for log.
package replication

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"rootstream/backup/wal"
)

// How long a server may take to let somebody in, and to answer a command.
const (
	DialTimeout = 10 * time.Second
	AskTimeout  = 20 * time.Second
)

// Prepare names a connection and bounds how long it may take to come about.
func Prepare(cfg *pgconn.Config, name string) {
	cfg.RuntimeParams = maps.Clone(cfg.RuntimeParams)
	cfg.RuntimeParams["application_name"] = name
	if cfg.ConnectTimeout == 0 || cfg.ConnectTimeout > DialTimeout {
		cfg.ConnectTimeout = DialTimeout
	}
}

// Dial connects for replication, as cfg was prepared.
func Dial(ctx context.Context, cfg *pgconn.Config) (*pgconn.PgConn, error) {
	cfg.RuntimeParams["replication"] = "true"
	return pgconn.ConnectConfig(ctx, cfg)
}

// HangUp closes a connection, whatever has become of ctx.
func HangUp(ctx context.Context, conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // the server notices either way
}

// Row runs a command that answers with one row.
func Row(ctx context.Context, conn *pgconn.PgConn, command string) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, AskTimeout)
	defer cancel()
	results, err := conn.Exec(ctx, command).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) == 0 || len(results[0].Rows) != 1 {
		return nil, fmt.Errorf("%s: no answer", command)
	}
	return results[0].Rows[0], nil
}

// System is what a server says of itself.
type System struct {
	ID       uint64
	Timeline wal.TimelineID
	Flushed  wal.LSN
}

// Identify asks a server who it is.
func Identify(ctx context.Context, conn *pgconn.PgConn) (s System, err error) {
	row, err := Row(ctx, conn, "IDENTIFY_SYSTEM")
	if err != nil {
		return System{}, err
	}
	if len(row) < 3 {
		return System{}, errors.New("IDENTIFY_SYSTEM: the answer is too short")
	}
	if s.ID, err = strconv.ParseUint(string(row[0]), 10, 64); err != nil {
		return System{}, fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	}
	tli, err := strconv.ParseUint(string(row[1]), 10, 32)
	if err != nil {
		return System{}, fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	}
	s.Timeline = wal.TimelineID(tli)
	s.Flushed, err = wal.ParseLSN(string(row[2]))
	return s, err
}

// HasState reports whether err is the server's, with one of these SQLSTATEs.
func HasState(err error, states ...string) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && slices.Contains(states, pg.Code)
}
