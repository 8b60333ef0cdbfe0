package cache

import (
	"context"
	"time"

	"github.com/redis/rueidis"

	"rootstream/internal/wait"
)

const reconcileEvery = 100 * time.Millisecond // how fast a new master is tracked

// track keeps one tracking connection to every node until ctx ends. Rueidis would track on its data connections, which
// it opens when a command needs them: between a loss and the next command nobody would listen. It closes ready once
// all nodes have been tracked, or could not be at the first attempt.
func (c *Client) track(ctx context.Context, ready chan struct{}) {
	trackers := map[string]*tracker{}
	tick := time.NewTicker(reconcileEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		if l := c.live.Load(); l != nil {
			c.reconcile(ctx, l, trackers)
			if ready != nil {
				for _, t := range trackers {
					<-t.tried
				}
				close(ready)
				ready = nil
			}
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-c.relinked:
		}
	}
	for _, t := range trackers {
		t.end()
	}
	if ready != nil {
		close(ready)
	}
}

// tracker holds the tracking connection to one node.
type tracker struct {
	c     *Client
	addr  string
	stop  context.CancelFunc
	done  chan struct{}
	tried chan struct{} // closed after the first attempt
	poke  chan struct{} // heard nil: look whether the link is lost
}

// reconcile starts and ends trackers so that there is one for every node rueidis knows.
func (c *Client) reconcile(ctx context.Context, l *link, trackers map[string]*tracker) {
	nodes := l.Nodes()
	c.wanted.Store(int64(len(nodes)))
	for addr, t := range trackers {
		if _, ok := nodes[addr]; !ok {
			t.end()
			delete(trackers, addr)
		}
	}
	for addr := range nodes {
		if trackers[addr] != nil {
			continue
		}
		run, stop := context.WithCancel(ctx)
		t := &tracker{c: c, addr: addr, stop: stop, done: make(chan struct{}), tried: make(chan struct{}), poke: make(chan struct{}, 1)}
		trackers[addr] = t
		go t.run(run)
	}
}

func (t *tracker) end() {
	t.stop()
	<-t.done
}

func (t *tracker) run(ctx context.Context) {
	defer close(t.done)
	tried := t.tried
	for spacing := retryMin; ctx.Err() == nil; spacing = min(2*spacing, retryMax) {
		if t.hold(ctx, &tried) {
			spacing = retryMin
		}
		if tried != nil {
			close(tried)
			tried = nil
		}
		_ = wait.For(ctx, spacing)
	}
}

// hold connects, listens until the link is lost or ctx ends, and reports whether it was ever up.
func (t *tracker) hold(ctx context.Context, tried *chan struct{}) bool {
	conns := newNetConns(1) // a second connection, made by rueidis on its own, would hide a loss
	opt := t.c.options(conns)
	opt.InitAddress, opt.ForceSingleClient, opt.PipelineMultiplex = []string{t.addr}, true, -1
	opt.ClusterOption = rueidis.ClusterOption{}
	opt.ClientName = "rootstream-tracking"
	opt.DisableCache, opt.CacheSizeEachConn, opt.RingScaleEachConn = false, 1, 8
	opt.ClientTrackingOptions = []string{"BCAST", "PREFIX", SessionViewPrefix}
	opt.OnInvalidations = t.heard
	l, err := newClient(ctx, opt, conns)
	if err != nil {
		return false
	}
	defer t.c.closeLink(l)
	t.c.tracked.Add(1)
	t.c.flush() // what changed before the link was up went unheard
	if *tried != nil {
		close(*tried)
		*tried = nil
	}
	tick := time.NewTicker(t.c.cfg.ProbeInterval)
	defer tick.Stop()
	for err == nil {
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-t.poke:
			err = t.ping(ctx, l)
		case <-tick.C:
			err = t.ping(ctx, l)
		}
	}
	t.c.tracked.Add(-1)
	t.c.flush()
	return true
}

func (t *tracker) ping(ctx context.Context, rc rueidis.Client) error {
	ctx, cancel := context.WithTimeout(ctx, t.c.cfg.LinkTimeout)
	defer cancel()
	return rc.Do(ctx, rc.B().Ping().Build()).Error()
}

// heard runs on the connection's reader: nil after FLUSHALL and when the connection ends.
func (t *tracker) heard(msgs []rueidis.RedisMessage) {
	if msgs == nil {
		t.c.flush()
		wait.Wake(t.poke)
		return
	}
	keys := make([]string, 0, len(msgs))
	for _, m := range msgs {
		if k, err := m.ToString(); err == nil {
			keys = append(keys, k)
		}
	}
	t.c.metrics.invalidations.Add(float64(len(keys)))
	t.c.cfg.OnInvalidate(keys)
}

// flush tells the consumer that anything may have changed.
func (c *Client) flush() {
	c.metrics.flushes.Inc()
	c.cfg.OnInvalidate(nil)
}
