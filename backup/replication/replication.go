// Package replication begins connections that speak the replication protocol
// (PostgreSQL manual, "Streaming Replication Protocol"). What is then asked over
// them is known to those who ask: base/wire for files, archive/receive for log.
package replication

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
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

const maxMessage = 4 << 20 // a server's have 128 KiB

// Dial connects for replication, as cfg was prepared. A message of more than 4 MiB ends the connection.
func Dial(ctx context.Context, cfg *pgconn.Config) (*pgconn.PgConn, error) {
	cfg.RuntimeParams["replication"] = "true"
	validate, only := choose(cfg.ValidateConnect)
	cfg.ValidateConnect = validate
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil && !only && ctx.Err() == nil {
		cfg.ValidateConnect = nil
		conn, err = pgconn.ConnectConfig(ctx, cfg)
	}
	if err != nil {
		return nil, err
	}
	conn.Frontend().SetMaxBodyLen(maxMessage)
	return conn, nil
}

// choose puts what target_session_attrs asks of a server into words that it answers here, where it takes no query: from
// version 14 on it says by itself what it is. If none is as asked, any will do unless only those are wanted.
func choose(asked pgconn.ValidateConnectFunc) (validate pgconn.ValidateConnectFunc, only bool) {
	is := func(one pgconn.ValidateConnectFunc) bool {
		return reflect.ValueOf(asked).Pointer() == reflect.ValueOf(one).Pointer()
	}
	want := func(says func(*pgconn.PgConn) bool, otherwise error) pgconn.ValidateConnectFunc {
		return func(_ context.Context, conn *pgconn.PgConn) error {
			if says(conn) {
				return nil
			}
			return otherwise
		}
	}
	standby := func(c *pgconn.PgConn) bool { return c.ParameterStatus("in_hot_standby") == "on" }
	readOnly := func(c *pgconn.PgConn) bool {
		return standby(c) || c.ParameterStatus("default_transaction_read_only") == "on"
	}
	not := func(says func(*pgconn.PgConn) bool) func(*pgconn.PgConn) bool {
		return func(c *pgconn.PgConn) bool { return !says(c) }
	}
	switch {
	case is(pgconn.ValidateConnectTargetSessionAttrsPrimary):
		return want(not(standby), pgconn.ErrStandbyConnection), true
	case is(pgconn.ValidateConnectTargetSessionAttrsStandby):
		return want(standby, pgconn.ErrPrimaryConnection), true
	case is(pgconn.ValidateConnectTargetSessionAttrsPreferStandby):
		return want(standby, pgconn.ErrPrimaryConnection), false
	case is(pgconn.ValidateConnectTargetSessionAttrsReadWrite):
		return want(not(readOnly), pgconn.ErrReadOnlyConnection), true
	case is(pgconn.ValidateConnectTargetSessionAttrsReadOnly):
		return want(readOnly, pgconn.ErrReadWriteConnection), true
	}
	return asked, true
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
