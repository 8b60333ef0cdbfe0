package cache

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Info is what an operator wants to know about the Redis in use. In a cluster it describes one node.
type Info struct {
	Addr            string        `json:"addr"`
	Version         string        `json:"version"`
	Mode            string        `json:"mode"`              // standalone, sentinel, cluster
	Role            string        `json:"role"`              // master, slave
	MaxMemory       int64         `json:"max_memory"`        // bytes; 0 means no limit
	MaxMemoryPolicy string        `json:"max_memory_policy"` // anything but noeviction may drop live keys
	UsedMemory      int64         `json:"used_memory"`       // bytes
	Clients         int64         `json:"clients"`
	PasswordNeeded  bool          `json:"password_needed"` // a client without a password is refused
	ClockOffset     time.Duration `json:"clock_offset"`    // how far Redis' clock is ahead of ours, ± half a round trip
}

// Ping reports whether Redis takes commands now.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.do(ctx, opInfo, Cmd{Name: "PING"})
	return err
}

// Info asks Redis about itself.
func (c *Client) Info(ctx context.Context) (Info, error) {
	ctx, s, err := c.begin(ctx, opInfo)
	if err != nil {
		return Info{}, err
	}
	out := Info{Mode: string(s.link.Mode())}
	if c.behindSentinels() {
		out.Mode = "sentinel"
	}
	for addr, node := range s.link.Nodes() {
		text, e := node.Do(ctx, node.B().Info().Build()).ToString()
		if e != nil {
			return Info{}, s.end(e)
		}
		out.Addr = addr
		out.read(text)
		before := time.Now()
		now, e := node.Do(ctx, node.B().Time().Build()).AsIntSlice()
		if e != nil || len(now) != 2 {
			return Info{}, s.end(e)
		}
		middle := before.Add(time.Since(before) / 2)
		out.ClockOffset = time.Unix(now[0], now[1]*1000).Sub(middle)
		break // one node is described
	}
	if err = s.end(nil); err != nil {
		return Info{}, err
	}
	out.PasswordNeeded, err = c.refusesStrangers(ctx, out.Addr)
	return out, err
}

func (i *Info) read(text string) {
	for line := range strings.Lines(text) {
		name, v, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		switch name {
		case "redis_version":
			i.Version = v
		case "role":
			i.Role = v
		case "maxmemory_policy":
			i.MaxMemoryPolicy = v
		case "maxmemory":
			i.MaxMemory, _ = strconv.ParseInt(v, 10, 64)
		case "used_memory":
			i.UsedMemory, _ = strconv.ParseInt(v, 10, 64)
		case "connected_clients":
			i.Clients, _ = strconv.ParseInt(v, 10, 64)
		}
	}
}

// refusesStrangers tries what a client without a password would. CONFIG GET requirepass would miss ACLs and is often
// forbidden.
func (c *Client) refusesStrangers(ctx context.Context, addr string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	conn, err := newNetConns(1).dial(ctx, addr, &net.Dialer{}, c.cfg.TLS)
	if err != nil {
		return false, ErrUnavailable.WithCause(err)
	}
	defer func() { _ = conn.Close() }() // only read from
	if err = conn.SetDeadline(time.Now().Add(c.cfg.DialTimeout)); err != nil {
		return false, fmt.Errorf("probe without password: %w", err)
	}
	if _, err = conn.Write([]byte("EXISTS rootstream\r\n")); err != nil {
		return false, ErrUnavailable.WithCause(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return false, ErrUnavailable.WithCause(err)
	}
	switch {
	case strings.HasPrefix(line, "-NOAUTH"), strings.HasPrefix(line, "-NOPERM"), strings.HasPrefix(line, "-DENIED"):
		return true, nil
	case strings.HasPrefix(line, ":"):
		return false, nil
	}
	return false, errors.New("probe without password: unexpected answer")
}
