package cache

import (
	"context"
	"errors"
	"time"

	"github.com/redis/rueidis"
)

const (
	connectWithin = 10 * time.Second // all sentinels and nodes, one after the other
	partWithin    = 2 * time.Second  // with a connection that is closed already; rueidis itself gives a silent one a second
)

var errStuck = errors.New("the Redis client does not come back")

// link is one rueidis client and the connections under it.
type link struct {
	rueidis.Client
	conns *netConns
}

func (c *Client) closeLink(l *link) {
	l.conns.end()
	c.part(l.Close)
}

// part waits for end, which ends something of rueidis, but not for ever: closing a connection on which a command begins
// at that moment, or whose reader is held up, waits for an answer that cannot come, and keeps locks meanwhile. What is
// left behind then costs a goroutine; waiting would cost every reconnect and the end of the process.
func (c *Client) part(end func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		end()
	}()
	patience := time.NewTimer(partWithin)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C:
		c.cfg.Logger.Warn("a connection to redis is left behind", "err", errStuck)
	}
}

// newClient makes a rueidis client on conns, which end with it if it fails. It comes back soon after ctx ends: rueidis
// dials without a context, and may wait for ever for the same reason as in part.
func newClient(ctx context.Context, opt rueidis.ClientOption, conns *netConns) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	unwatch := context.AfterFunc(ctx, conns.end)
	defer unwatch()
	type result struct {
		rc  rueidis.Client
		err error
	}
	made := make(chan result)
	late, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	go func() {
		rc, err := rueidis.NewClient(opt)
		select {
		case made <- result{rc, err}:
		case <-late.Done():
			if rc != nil {
				rc.Close()
			}
		}
	}()
	var r result
	select {
	case r = <-made:
	case <-ctx.Done():
		select {
		case r = <-made:
		case <-time.After(partWithin):
			r.err = errStuck
		}
	}
	if r.err != nil {
		conns.end()
		return nil, r.err
	}
	return &link{r.rc, conns}, nil
}
