package pgserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"time"
)

// Ping asks the server on its socket whether it takes connections. It needs no
// password: any answer but "starting up" or "shutting down" is a yes.
func (s *Server) Ping(ctx context.Context) error {
	a := s.address()
	return ping(ctx, filepath.Join(a.socketDir, fmt.Sprintf(".s.PGSQL.%d", a.port)))
}

func ping(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return ErrNotRunning.WithCause(err)
	}
	defer func() { _ = conn.Close() }()
	if at, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(at)
	}
	// StartupMessage: length, protocol 3.0, parameters, NUL (protocol-message-formats).
	body := "\x00\x03\x00\x00user\x00postgres\x00database\x00postgres\x00\x00"
	msg := binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)) //nolint:gosec // a constant
	if _, err := conn.Write(append(msg, body...)); err != nil {
		return ErrNotRunning.WithCause(err)
	}
	var head [5]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return ErrNotRunning.WithCause(err)
	}
	if head[0] != 'E' {
		return nil
	}
	answer := make([]byte, min(binary.BigEndian.Uint32(head[1:]), 8<<10)-4)
	n, _ := io.ReadFull(conn, answer)
	if code := sqlState(answer[:n]); code == "57P03" { // cannot_connect_now
		return ErrNotRunning.WithCause(fmt.Errorf("sqlstate %s", code))
	}
	return nil
}

// sqlState returns field C of an ErrorResponse.
func sqlState(fields []byte) string {
	for f := range bytes.SplitSeq(fields, []byte{0}) {
		if code, ok := strings.CutPrefix(string(f), "C"); ok {
			return code
		}
	}
	return ""
}
