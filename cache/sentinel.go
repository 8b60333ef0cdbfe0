package cache

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

var (
	errNotMaster  = errors.New("the node is not the master")
	errReplaced   = errors.New("the sentinels name another master")
	errNoSentinel = errors.New("no sentinel knows the master")
)

// sentinel is asked who the master is. Rueidis has a client for that, but it believes whichever sentinel it asks, and one
// that waits for a connection to end asks no more: it then stays with a master that was replaced, which, once it runs
// again, answers as if nothing had happened.
type sentinel struct {
	c    *Client
	addr string
	mu   sync.Mutex // held while it is asked
	link *link      // nil until it was reached; it connects again by itself
}

// verdict is who a sentinel takes for the master, and since which failover.
type verdict struct {
	addr  string
	epoch int64
	err   error
}

func (c *Client) behindSentinels() bool { return len(c.sentinels) > 0 }

// askSentinels returns the master of the newest failover that a majority knows of, or whoever answers in time.
func (c *Client) askSentinels(ctx context.Context) (string, error) {
	verdicts := make(chan verdict, len(c.sentinels))
	for _, s := range c.sentinels {
		c.wg.Go(func() { verdicts <- s.ask(ctx) }) // one that is late has a connection for the next question
	}
	patience := time.NewTimer(c.cfg.DialTimeout)
	defer patience.Stop()
	newest, known := verdict{err: errNoSentinel}, 0
	for range c.sentinels {
		select {
		case v := <-verdicts:
			newest = newest.or(v)
			if v.err == nil {
				known++
			}
		case <-patience.C:
			return newest.addr, newest.err
		}
		if known > len(c.sentinels)/2 {
			break
		}
	}
	return newest.addr, newest.err
}

// or returns the verdict that knows of the newer failover.
func (v verdict) or(o verdict) verdict {
	if v.err != nil || o.err == nil && o.epoch > v.epoch {
		return o
	}
	return v
}

// replaced reports whether the sentinels name another master than the one l leads to.
func (c *Client) replaced(ctx context.Context, l *link) bool {
	if !c.behindSentinels() {
		return false
	}
	master, err := c.askSentinels(ctx)
	_, same := l.Nodes()[master]
	return err == nil && !same
}

func (s *sentinel) ask(ctx context.Context) (v verdict) {
	if !s.mu.TryLock() {
		v.err = errNoSentinel // it has not answered the last question yet
		return v
	}
	defer s.mu.Unlock()
	if s.link == nil {
		if s.link, v.err = s.connect(ctx); v.err != nil {
			return v
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.c.cfg.CommandTimeout)
	defer cancel()
	name := s.c.cfg.Sentinel.Master
	rs := s.link.DoMulti(ctx,
		s.link.B().Arbitrary("SENTINEL", "GET-MASTER-ADDR-BY-NAME").Args(name).Build(),
		s.link.B().Arbitrary("SENTINEL", "MASTER").Args(name).Build())
	addr, err := rs[0].AsStrSlice()
	if err != nil || len(addr) != 2 {
		s.link.conns.cut()
		v.err = errors.Join(errNoSentinel, err)
		return v
	}
	about, err := rs[1].AsStrMap()
	if err == nil {
		v.epoch, err = strconv.ParseInt(about["config-epoch"], 10, 64)
	}
	v.addr, v.err = net.JoinHostPort(addr[0], addr[1]), err
	return v
}

func (s *sentinel) connect(ctx context.Context) (*link, error) {
	conns := newNetConns(-1)
	opt := s.c.options(conns)
	opt.InitAddress, opt.SelectDB, opt.RingScaleEachConn = []string{s.addr}, 0, 4
	opt.Username, opt.Password = s.c.cfg.Sentinel.Username, s.c.cfg.Sentinel.Password
	return newClient(ctx, opt, conns)
}

func (c *Client) closeSentinels() {
	var closed sync.WaitGroup
	for _, s := range c.sentinels {
		closed.Go(func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.link != nil {
				c.closeLink(s.link)
			}
		})
	}
	closed.Wait()
}

// isMaster asks a node for its role: one that was deposed still answers.
func isMaster(ctx context.Context, node rueidis.Client) error {
	role, err := node.Do(ctx, node.B().Role().Build()).ToArray()
	if err != nil {
		return err
	}
	if len(role) == 0 {
		return errNotMaster
	}
	if name, err := role[0].ToString(); err != nil || name != "master" {
		return errors.Join(errNotMaster, err)
	}
	return nil
}
