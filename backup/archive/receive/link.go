package receive

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"rootstream/backup/replication"
	"rootstream/backup/wal"
)

// link is one replication connection (PostgreSQL manual, "Streaming Replication Protocol").
type link struct {
	conn   *pgconn.PgConn
	server replication.System // as it was at the time
	size   uint32             // of its segments
}

const (
	sendTimeout = 10 * time.Second

	undefinedFile   = "58P01" // the segment or the history is no longer there
	undefinedObject = "42704" // there is no such slot
	duplicateObject = "42710"
	wrongState      = "55000" // the slot was given up by the server
	slotInUse       = "55006"
)

// parseDSN returns how to connect under a name.
func parseDSN(dsn, name string) (*pgconn.Config, error) {
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, ErrServer.WithCause(errors.New("the address of the database cannot be read")) // its text may hold a password
	}
	replication.Prepare(cfg, name)
	return cfg, nil
}

func dial(ctx context.Context, dsn, name string) (*link, error) {
	cfg, err := parseDSN(dsn, name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, replication.DialTimeout+replication.AskTimeout)
	defer cancel()
	conn, err := replication.Dial(ctx, cfg)
	if err != nil {
		return nil, ErrServer.WithCause(err)
	}
	l := &link{conn: conn}
	if err := l.identify(ctx); err != nil {
		l.close(ctx)
		return nil, ErrServer.WithCause(err)
	}
	return l, nil
}

func (l *link) close(ctx context.Context) { replication.HangUp(ctx, l.conn) }

func (l *link) row(ctx context.Context, command string) ([][]byte, error) {
	return replication.Row(ctx, l.conn, command)
}

func (l *link) identify(ctx context.Context) (err error) {
	if l.server, err = replication.Identify(ctx, l.conn); err != nil {
		return err
	}
	row, err := l.row(ctx, "SHOW wal_segment_size")
	if err != nil {
		return err
	}
	l.size, err = parseSize(string(row[0]))
	return err
}

// parseSize reads a size as PostgreSQL shows it: 16MB, 1GB.
func parseSize(text string) (uint32, error) {
	digits := strings.TrimRight(text, "kMGBT")
	unit, known := map[string]uint64{"B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}[text[len(digits):]]
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || !known || n*unit > wal.MaxSegmentSize || !wal.ValidSegmentSize(uint32(n*unit)) { //nolint:gosec // bounded just before
		return 0, fmt.Errorf("%.20q is not the size of a segment", text)
	}
	return uint32(n * unit), nil //nolint:gosec // bounded just before
}

// history returns the history of a timeline; nil where the server has none.
func (l *link) history(ctx context.Context, tli wal.TimelineID) ([]byte, error) {
	if tli < 2 {
		return nil, nil
	}
	row, err := l.row(ctx, fmt.Sprintf("TIMELINE_HISTORY %d", tli))
	if replication.HasState(err, undefinedFile) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask for the history of timeline %d: %w", tli, err)
	}
	if len(row) < 2 {
		return nil, fmt.Errorf("ask for the history of timeline %d: the answer is too short", tli)
	}
	return row[1], nil
}

// reserve makes the slot, which keeps what we have not acknowledged from being removed; it may exist.
func (l *link) reserve(ctx context.Context, slot string, temporary bool) error {
	kind := ` PHYSICAL RESERVE_WAL`
	if temporary { // it goes with the connection
		kind = ` TEMPORARY` + kind
	}
	_, err := l.row(ctx, `CREATE_REPLICATION_SLOT "`+slot+`"`+kind)
	if replication.HasState(err, duplicateObject) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make the replication slot %s: %w", slot, err)
	}
	return nil
}

func (l *link) dropSlot(ctx context.Context, slot string) error {
	ctx, cancel := context.WithTimeout(ctx, replication.AskTimeout)
	defer cancel()
	if _, err := l.conn.Exec(ctx, `DROP_REPLICATION_SLOT "`+slot+`"`).ReadAll(); err != nil && !replication.HasState(err, undefinedObject) {
		return fmt.Errorf("drop the replication slot %s: %w", slot, err)
	}
	return nil
}

// branchOff is where a timeline ended and the next began.
type branchOff struct {
	tli wal.TimelineID
	at  wal.LSN
}

// start begins to stream. A timeline that ends just there has nothing to stream: then the end comes back at once.
func (l *link) start(ctx context.Context, slot string, tli wal.TimelineID, at wal.LSN) (*branchOff, error) {
	ctx, cancel := context.WithTimeout(ctx, replication.AskTimeout)
	defer cancel()
	l.conn.Frontend().Send(&pgproto3.Query{String: fmt.Sprintf(`START_REPLICATION SLOT "%s" PHYSICAL %v TIMELINE %d`, slot, at, tli)})
	if err := l.flush(); err != nil {
		return nil, err
	}
	for {
		msg, err := l.conn.ReceiveMessage(ctx)
		if err != nil {
			return nil, fmt.Errorf("start streaming: %w", err)
		}
		switch m := msg.(type) {
		case *pgproto3.CopyBothResponse:
			return nil, nil
		case *pgproto3.ErrorResponse:
			return nil, fmt.Errorf("start streaming: %w", pgconn.ErrorResponseToPgError(m))
		case *pgproto3.DataRow:
			return parseBranchOff(m.Values)
		case *pgproto3.ReadyForQuery:
			return nil, errors.New("start streaming: the server does not")
		}
	}
}

func parseBranchOff(row [][]byte) (*branchOff, error) {
	if len(row) < 2 {
		return nil, errors.New("the server names no next timeline")
	}
	tli, err := strconv.ParseUint(string(row[0]), 10, 32)
	if err != nil {
		return nil, fmt.Errorf("the next timeline: %w", err)
	}
	at, err := wal.ParseLSN(string(row[1]))
	return &branchOff{wal.TimelineID(tli), at}, err
}

// message is what the server sent.
type message struct {
	at       wal.LSN // of data
	data     []byte  // valid until the next one
	server   wal.LSN // how far the server is
	ask      bool    // it wants to hear from us
	end      *branchOff
	shutdown bool
}

// receive waits for the next message.
func (l *link) receive(ctx context.Context) (message, error) {
	for {
		msg, err := l.conn.ReceiveMessage(ctx)
		if err != nil {
			return message{}, err
		}
		switch m := msg.(type) {
		case *pgproto3.CopyData:
			return parseMessage(m.Data)
		case *pgproto3.ErrorResponse:
			return message{}, pgconn.ErrorResponseToPgError(m)
		case *pgproto3.CopyDone:
			end, err := l.finish(ctx)
			return message{end: end, shutdown: end == nil}, err
		case *pgproto3.CommandComplete:
			return message{shutdown: true}, nil
		}
	}
}

// parseMessage reads XLogData and primary keepalive messages.
func parseMessage(b []byte) (message, error) {
	be := binary.BigEndian
	switch {
	case len(b) >= 25 && b[0] == 'w':
		return message{at: wal.LSN(be.Uint64(b[1:])), server: wal.LSN(be.Uint64(b[9:])), data: b[25:]}, nil
	case len(b) == 18 && b[0] == 'k':
		return message{server: wal.LSN(be.Uint64(b[1:])), ask: b[17] != 0}, nil
	}
	return message{}, fmt.Errorf("a message of %d bytes that is none of the protocol's", len(b))
}

// finish reads what follows the end of a timeline: which one is next. It is never just the next number.
func (l *link) finish(ctx context.Context) (*branchOff, error) {
	ctx, cancel := context.WithTimeout(ctx, replication.AskTimeout)
	defer cancel()
	l.conn.Frontend().Send(&pgproto3.CopyDone{})
	if err := l.flush(); err != nil {
		return nil, err
	}
	for {
		msg, err := l.conn.ReceiveMessage(ctx)
		if err != nil {
			return nil, fmt.Errorf("end of the timeline: %w", err)
		}
		switch m := msg.(type) {
		case *pgproto3.DataRow:
			return parseBranchOff(m.Values)
		case *pgproto3.ErrorResponse:
			return nil, pgconn.ErrorResponseToPgError(m)
		case *pgproto3.ReadyForQuery:
			return nil, nil
		}
	}
}

// buffered reports whether more of the stream has arrived already.
func (l *link) buffered() bool { return l.conn.Frontend().ReadBufferLen() > 0 }

// status tells how far we are. What is applied is never told: we apply nothing, and
// a commit that waits for remote_apply must not be told otherwise.
func (l *link) status(written, flushed wal.LSN, ask bool) error {
	const microsBefore2000 = 946684800 * 1000000
	msg := make([]byte, 34)
	msg[0] = 'r'
	be := binary.BigEndian
	be.PutUint64(msg[1:], uint64(written))
	be.PutUint64(msg[9:], uint64(flushed))
	be.PutUint64(msg[25:], uint64(time.Now().UnixMicro()-microsBefore2000)) //nolint:gosec // after 2000
	if ask {
		msg[33] = 1
	}
	l.conn.Frontend().Send(&pgproto3.CopyData{Data: msg})
	return l.flush()
}

func (l *link) flush() error {
	if err := l.conn.Conn().SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return fmt.Errorf("send to the server: %w", err)
	}
	if err := l.conn.Frontend().Flush(); err != nil {
		return fmt.Errorf("send to the server: %w", err)
	}
	return nil
}
