package cache

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync"
)

var errShut = errors.New("the link is shut")

// netConns are the open connections of one link, kept so that a silent server cannot hold on to its callers:
// closing them makes every pending command fail at once.
type netConns struct {
	mu   sync.Mutex
	open map[*netConn]struct{}
	shut bool
	left int // dials left; negative means any number
}

type netConn struct {
	net.Conn
	set *netConns
}

func newNetConns(dials int) *netConns {
	return &netConns{open: map[*netConn]struct{}{}, left: dials}
}

func (c *netConn) Close() error {
	c.set.mu.Lock()
	delete(c.set.open, c)
	c.set.mu.Unlock()
	return c.Conn.Close()
}

func (s *netConns) dial(ctx context.Context, addr string, d *net.Dialer, tc *tls.Config) (net.Conn, error) {
	if !s.admit() {
		return nil, errShut
	}
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	raw, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if err = ctx.Err(); err != nil { // rueidis would take a second to part from a connection it cannot use any more
		return nil, errors.Join(err, raw.Close())
	}
	nc := &netConn{Conn: raw, set: s}
	s.mu.Lock()
	shut := s.shut
	if !shut {
		s.open[nc] = struct{}{}
	}
	s.mu.Unlock()
	if shut {
		return nil, errors.Join(errShut, raw.Close())
	}
	if tc == nil {
		return nc, nil
	}
	if tc.ServerName == "" {
		tc = tc.Clone()
		tc.ServerName, _, _ = net.SplitHostPort(addr)
	}
	secure := tls.Client(nc, tc)
	if err = secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return secure, nil
}

func (s *netConns) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut || s.left == 0 {
		return false
	}
	s.left--
	return true
}

// cut closes all connections; new ones may be made.
func (s *netConns) cut() {
	s.mu.Lock()
	open := s.open
	s.open = map[*netConn]struct{}{}
	s.mu.Unlock()
	for c := range open {
		_ = c.Conn.Close() // given up on
	}
}

// end closes all connections for good.
func (s *netConns) end() {
	s.mu.Lock()
	s.shut = true
	s.mu.Unlock()
	s.cut()
}
