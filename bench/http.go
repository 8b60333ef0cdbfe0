package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// client is one kept-alive connection that sends prepared requests. It does as
// little as can be done, so that what is measured is the server.
type client struct {
	conn net.Conn
	r    *bufio.Reader
	out  []byte
	body []byte
}

func dial(ctx context.Context, addr string) (*client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &client{conn: conn, r: bufio.NewReaderSize(conn, 64<<10)}, nil
}

func (c *client) close() { _ = c.conn.Close() }

// post sends body and returns the status and the body of the answer, which the next call overwrites.
func (c *client) post(path, token string, body ...[]byte) (int, []byte, error) {
	size := 0
	for _, part := range body {
		size += len(part)
	}
	b := append(c.out[:0], "POST "...)
	b = append(b, path...)
	b = append(b, " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"...)
	if token != "" {
		b = append(b, "Authorization: Bearer "...)
		b = append(b, token...)
		b = append(b, "\r\n"...)
	}
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, int64(size), 10)
	b = append(b, "\r\n\r\n"...)
	for _, part := range body {
		b = append(b, part...)
	}
	c.out = b
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, nil, err
	}
	if _, err := c.conn.Write(b); err != nil {
		return 0, nil, err
	}
	return c.answer()
}

var errAnswer = errors.New("the server's answer cannot be read")

func (c *client) answer() (status int, body []byte, err error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return 0, nil, err
	}
	if len(line) < 12 {
		return 0, nil, errAnswer
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, nil, errAnswer
	}
	length, chunked := 0, false
	for {
		if line, err = c.r.ReadSlice('\n'); err != nil {
			return 0, nil, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(value)); err != nil {
				return 0, nil, errAnswer
			}
		}
		chunked = chunked || bytes.HasPrefix(line, []byte("Transfer-Encoding: chunked"))
	}
	c.body = c.body[:0]
	if chunked {
		return status, c.body, c.chunks()
	}
	return status, c.body, c.take(length)
}

// take reads n bytes more into the body.
func (c *client) take(n int) error {
	at := len(c.body)
	for cap(c.body) < at+n {
		c.body = append(c.body[:cap(c.body)], 0)
	}
	c.body = c.body[:at+n]
	_, err := io.ReadFull(c.r, c.body[at:])
	return err
}

func (c *client) chunks() error {
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(bytes.TrimRight(line, "\r\n")), 16, 32)
		if err != nil {
			return errAnswer
		}
		if err := c.take(int(n)); err != nil {
			return err
		}
		if _, err := c.r.Discard(2); err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
	}
}

// clients are connections to one address; whoever needs one takes it.
type clients struct {
	addr string
	free chan *client
}

func newClients(ctx context.Context, addr string, n int) (*clients, error) {
	p := &clients{addr: addr, free: make(chan *client, 4096)}
	for range n {
		c, err := dial(ctx, addr)
		if err != nil {
			p.close()
			return nil, err
		}
		p.free <- c
	}
	return p, nil
}

// with lends a connection; there is always one more.
func (p *clients) with(ctx context.Context, f func(*client) error) error {
	var c *client
	select {
	case c = <-p.free:
	default:
		var err error
		if c, err = dial(ctx, p.addr); err != nil {
			return err
		}
	}
	if err := f(c); err != nil {
		c.close()
		return err
	}
	p.free <- c
	return nil
}

func (p *clients) close() {
	for {
		select {
		case c := <-p.free:
			c.close()
		default:
			return
		}
	}
}

// server is a process that answers HTTP.
type server struct {
	*child
	addr string
}

const readyLine = "rootstream is ready: http://"

// build makes the rootstream binary, once.
func (s *stack) build(ctx context.Context) error {
	if s.bin != "" {
		return nil
	}
	s.say("building rootstream")
	bin := filepath.Join(s.dir, "rootstream")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", bin, "rootstream/cmd/rootstream") //nolint:gosec // into a folder of ours
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build rootstream: %w\n%s", err, out)
	}
	s.bin = bin
	return nil
}

// raised are the limits of attempts, which are not what is measured here.
func raised() []string {
	var env []string
	for _, name := range []string{
		"LOGIN_ACCOUNT", "LOGIN_ANYWHERE", "LOGIN_NETWORK", "MFA_NETWORK", "REFRESH_NETWORK", "PROOF_ACCOUNT",
	} {
		env = append(env, "ROOTSTREAM_AUTH_RATE_"+name+"=1000000")
	}
	return env
}

// serve starts one instance of the API, as `rootstream up` would but for the raised limits.
func (s *stack) serve(ctx context.Context, args ...string) (*server, error) {
	if err := s.build(ctx); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, s.bin, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...) //nolint:gosec // what we built, or the caller names
	cmd.Env = append(os.Environ(), "ROOTSTREAM_POSTGRES_DSN="+s.dsn, "ROOTSTREAM_REDIS_URL="+s.redisURL,
		"ROOTSTREAM_KEYS_MASTER_KEY_FILE="+s.key, "ROOTSTREAM_MAIL_DIR="+filepath.Join(s.dir, "mail"), "ROOTSTREAM_LOG_LEVEL=warn")
	cmd.Env = append(cmd.Env, raised()...)
	cmd.Stderr = s.stderr
	c, err := startChild(ctx, cmd, readyLine)
	if err != nil {
		return nil, err
	}
	return &server{child: c, addr: c.line[len(readyLine):]}, nil
}

// served measures a serve process of its own, over connections that are there already.
func (s *stack) served(ctx context.Context, measure func(*clients) ([]row, error)) ([]row, error) {
	srv, err := s.serve(ctx)
	if err != nil {
		return nil, err
	}
	p, err := newClients(ctx, srv.addr, 32)
	if err != nil {
		return nil, errors.Join(err, srv.kill())
	}
	defer p.close()
	rows, err := measure(p)
	return rows, errors.Join(err, srv.kill())
}
