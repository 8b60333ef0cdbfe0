package cache

import (
	"cmp"
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
}

func (c *Client) behindSentinels() bool { return len(c.sentinels) > 0 }

// askSentinels returns the master of the newest failover that a majority knows of, or whoever answers in time.
func (c *Client) askSentinels(ctx context.Context) (string, error) {
	type answer struct {
		verdict
		err error
	}
	answers := make(chan answer, len(c.sentinels))
	for _, s := range c.sentinels {
		c.wg.Go(func() { // one that is late has a connection for the next question
			v, err := s.ask(ctx)
			answers <- answer{v, err}
		})
	}
	patience := time.NewTimer(c.cfg.DialTimeout)
	defer patience.Stop()
	said, known, err := map[verdict]int{}, 0, errNoSentinel
	for asked := len(c.sentinels); asked > 0; asked-- {
		select {
		case a := <-answers:
			if err = a.err; err == nil {
				said[a.verdict]++
				known++
			}
		case <-patience.C:
			asked = 0
		}
		if master, agreed := elected(said); agreed && known > len(c.sentinels)/2 {
			return master, nil
		}
	}
	if master, _ := elected(said); master != "" {
		return master, nil
	}
	return "", err
}

// elected returns the master of the newest failover, "" if nobody said any. Sentinels that know of no other failover and
// yet differ were told so, as one that was set up anew with an address of old: what most say counts, and if as many say
// this as that, always the same, so that clients do not go to and fro between the two.
func elected(said map[verdict]int) (addr string, agreed bool) {
	var best verdict
	for v, n := range said {
		if cmp.Or(cmp.Compare(v.epoch, best.epoch), cmp.Compare(n, said[best]), cmp.Compare(v.addr, best.addr)) > 0 {
			best = v
		}
	}
	for v := range said {
		if v.epoch == best.epoch && v != best {
			return best.addr, false
		}
	}
	return best.addr, best.addr != ""
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

func (s *sentinel) ask(ctx context.Context) (verdict, error) {
	if !s.mu.TryLock() {
		return verdict{}, errNoSentinel // it has not answered the last question yet
	}
	defer s.mu.Unlock()
	if s.link == nil {
		var err error
		if s.link, err = s.connect(ctx); err != nil {
			return verdict{}, err
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
		return verdict{}, errors.Join(errNoSentinel, err)
	}
	about, err := rs[1].AsStrMap()
	if err != nil {
		return verdict{}, err
	}
	epoch, err := strconv.ParseInt(about["config-epoch"], 10, 64)
	return verdict{net.JoinHostPort(addr[0], addr[1]), epoch}, err
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
