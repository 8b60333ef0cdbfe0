// Package wire asks a server for a base backup over the replication protocol.
//
// The door is [Connect], then [Conn.Begin]: the server sends a tar for each
// tablespace and one for the data folder, file by file in no order, and at last a
// manifest (PostgreSQL manual, "Streaming Replication Protocol", BASE_BACKUP).
// [Backup.Entries] goes through what a copy of the folder needs of it. It takes
// nothing on trust: names lead nowhere else, sizes are bounded, and every byte is
// what the server's manifest says, or the last entry is an error.
//
// It starts no goroutine. How entries are kept is known to base.
package wire

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"rootstream/backup/replication"
	"rootstream/backup/wal"
	"rootstream/errs"
)

// What can keep a server from sending a base backup.
var (
	ErrConnect = errs.New(errs.Unavailable, "backup_connect", "the server cannot be reached for replication")
	ErrRole    = errs.New(errs.Forbidden, "backup_role", "the server does not let this role replicate").
			WithHint("give the role REPLICATION, and pg_hba.conf a line: host replication ROLE ADDRESS scram-sha-256")
	ErrStream = errs.New(errs.Unavailable, "backup_stream", "the base backup that the server sends cannot be used")
)

// Config says whom to ask.
type Config struct {
	DSN     string            // the server, directly
	Silence time.Duration     // while it sends, it may be silent for so long; 0 means a minute
	Notice  func(text string) // told what the server warns of; may be nil
}

// Conn is one replication connection.
type Conn struct {
	conn    *pgconn.PgConn
	silence time.Duration
	System  uint64 // the server's system identifier
}

// Connect connects, and asks the server who it is.
func Connect(ctx context.Context, cfg Config) (*Conn, error) {
	parsed, err := pgx.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, ErrConnect.WithCause(errors.New("the address of the database cannot be read")) // its text may hold a password
	}
	to := &parsed.Config
	replication.Prepare(to, "rootstream backup")
	to.OnNotice = warnings(cfg.Notice)
	ctx, cancel := context.WithTimeout(ctx, replication.DialTimeout+replication.AskTimeout)
	defer cancel()
	conn, err := replication.Dial(ctx, to)
	if err != nil {
		return nil, refusal(err)
	}
	system, err := replication.Identify(ctx, conn)
	if err != nil {
		replication.HangUp(ctx, conn)
		return nil, refusal(err)
	}
	return &Conn{conn: conn, silence: cmp.Or(cfg.Silence, time.Minute), System: system.ID}, nil
}

// warnings tells of what a server warns of, within bounds: it warns of every page that it finds damaged.
func warnings(tell func(text string)) pgconn.NoticeHandler {
	const most, longest = 100, 1000
	told := 0
	return func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if tell == nil || n.SeverityUnlocalized != "WARNING" || told > most {
			return
		}
		if told++; told > most {
			tell(fmt.Sprintf("there are more than %d warnings; its own log has them all", most))
			return
		}
		tell(fmt.Sprintf("%.*s", longest, n.Message))
	}
}

// refusal tells a server that does not answer from one that says no.
func refusal(err error) error {
	const noEntry, wrongPassword, noPrivilege = "28000", "28P01", "42501"
	if replication.HasState(err, noEntry, wrongPassword, noPrivilege) {
		return ErrRole.WithCause(err)
	}
	return ErrConnect.WithCause(err)
}

// Close hangs up, which ends a backup that is not complete.
func (c *Conn) Close(ctx context.Context) { replication.HangUp(ctx, c.conn) }

// receive waits for the next message that says something.
func (c *Conn) receive(ctx context.Context) (pgproto3.BackendMessage, error) {
	for {
		msg, err := c.conn.ReceiveMessage(ctx)
		if err != nil {
			return nil, err
		}
		switch m := msg.(type) {
		case *pgproto3.RowDescription, *pgproto3.ParameterStatus, *pgproto3.NoticeResponse:
		case *pgproto3.ErrorResponse:
			return nil, pgconn.ErrorResponseToPgError(m)
		default:
			return msg, nil
		}
	}
}

// hearing waits for the next message.
type hearing func(context.Context) (pgproto3.BackendMessage, error)

// rows reads a result.
func rows(ctx context.Context, hear hearing, most int) ([][][]byte, error) {
	var all [][][]byte
	for {
		msg, err := hear(ctx)
		if err != nil {
			return nil, err
		}
		switch m := msg.(type) {
		case *pgproto3.DataRow:
			if len(all) == most {
				return nil, fmt.Errorf("more than %d rows", most)
			}
			row := make([][]byte, len(m.Values)) // the message's bytes are the next one's
			for i, v := range m.Values {
				row[i] = bytes.Clone(v)
			}
			all = append(all, row)
		case *pgproto3.CommandComplete:
			return all, nil
		default:
			return nil, fmt.Errorf("a %T in the place of a row", m)
		}
	}
}

// position reads the result that says where the log is.
func position(ctx context.Context, hear hearing) (wal.LSN, wal.TimelineID, error) {
	all, err := rows(ctx, hear, 1)
	if err != nil {
		return 0, 0, err
	}
	if len(all) == 0 || len(all[0]) < 2 {
		return 0, 0, errors.New("a position in the log is missing")
	}
	lsn, err := wal.ParseLSN(string(all[0][0]))
	if err != nil {
		return 0, 0, err
	}
	tli, err := strconv.ParseUint(string(all[0][1]), 10, 32)
	return lsn, wal.TimelineID(tli), err
}
