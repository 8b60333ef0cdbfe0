package cache

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"rootstream/internal/wait"
)

const (
	unknown int32 = iota // not probed yet
	up
	down
)

const (
	bufferSize   = 64 << 10               // of each direction of a connection
	retryMin     = 50 * time.Millisecond  // between attempts to reach a lost Redis
	retryMax     = 500 * time.Millisecond // between attempts to reach a lost Redis
	probeSpacing = 100 * time.Millisecond // between probes that failing commands ask for
	answerGrain  = 100 * time.Millisecond // how finely answers are noted
	rebuildAfter = 5 * time.Second        // a link that fails for so long is made anew
)

// Client is a connection to Redis. It is safe for concurrent use.
type Client struct {
	cfg       Config
	deadlines deadlines
	metrics   *metrics
	sentinels []*sentinel
	live      atomic.Pointer[link] // nil while Redis is known not to answer
	health    atomic.Int32         // one of the health values
	lastErr   atomic.Pointer[error]
	poke      chan struct{} // a command failed: probe now
	relinked  chan struct{} // live was set: track its nodes now
	answered  atomic.Int64  // when Redis last answered a command, in Unix ns, to about a tenth of a second
	tracked   atomic.Int64  // nodes whose tracking link is up
	wanted    atomic.Int64  // nodes that should be tracked; 0 while unknown

	stop context.CancelFunc
	wg   sync.WaitGroup
	once sync.Once
}

// Open connects to Redis. It fails only for a wrong configuration: while Redis cannot be reached, commands answer
// ErrUnavailable and the client keeps trying. ctx bounds the first attempt alone.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	cfg, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, metrics: m, poke: make(chan struct{}, 1), relinked: make(chan struct{}, 1)}
	for _, addr := range cfg.Sentinel.Addrs {
		c.sentinels = append(c.sentinels, &sentinel{c: c, addr: addr})
	}
	c.deadlines.timeout = cfg.CommandTimeout
	var run context.Context
	run, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	connected, tracking := make(chan struct{}), make(chan struct{})
	c.wg.Go(func() { c.supervise(run, connected) })
	if cfg.OnInvalidate == nil {
		close(tracking)
	} else {
		c.wg.Go(func() { c.track(run, tracking) })
	}
	patience := time.NewTimer(2 * cfg.DialTimeout)
	defer patience.Stop()
	for _, ready := range []chan struct{}{connected, tracking} {
		select {
		case <-ready:
		case <-patience.C:
			return c, nil
		case <-ctx.Done():
			return c, nil
		}
	}
	return c, nil
}

// Close ends all connections and waits for the loops, which takes a few seconds at most, whatever Redis does.
func (c *Client) Close() {
	c.once.Do(c.stop)
	c.wg.Wait()
}

// Healthy reports whether Redis (in a cluster: every node) answered the last probe.
func (c *Client) Healthy() bool { return c.health.Load() == up }

// Tracking reports whether changes of session views are being heard from every node.
func (c *Client) Tracking() bool {
	want := c.wanted.Load()
	return want > 0 && c.tracked.Load() >= want
}

// LastError is why Redis was last found not to answer, nil if it never was.
func (c *Client) LastError() error {
	if e := c.lastErr.Load(); e != nil {
		return *e
	}
	return nil
}

func (c *Client) options(conns *netConns) rueidis.ClientOption {
	cfg := c.cfg
	opt := rueidis.ClientOption{
		TLSConfig: cfg.TLS, DialCtxFn: conns.dial,
		Username: cfg.Username, Password: cfg.Password, ClientName: "rootstream",
		InitAddress: cfg.Addrs, SelectDB: cfg.DB,
		ReadBufferEachConn: bufferSize, WriteBufferEachConn: bufferSize,
		ConnWriteTimeout: cfg.LinkTimeout,
		RetryDelay:       retryOnce,
		DisableCache:     true, // tracking has connections of its own
	}
	opt.Dialer.Timeout, opt.Dialer.KeepAlive = cfg.DialTimeout, cfg.ProbeInterval
	if cfg.Cluster {
		opt.ClusterOption = rueidis.ClusterOption{ShardsRefreshInterval: 5 * time.Second, MaxMovedRedirections: 5}
	} else {
		opt.ForceSingleClient = true
	}
	return opt
}

// retryOnce sends a command that only reads once more, at once, when its connection turns out to be closed; a caller is
// answered, not kept waiting.
func retryOnce(attempts int, _ rueidis.Completed, _ error) time.Duration {
	if attempts > 1 {
		return -1
	}
	return 0
}

// connect makes a link and proves it.
func (c *Client) connect(ctx context.Context) (*link, error) {
	conns := newNetConns(-1)
	opt := c.options(conns)
	if c.behindSentinels() {
		master, err := c.askSentinels(ctx)
		if err != nil {
			return nil, err
		}
		opt.InitAddress = []string{master}
	}
	l, err := newClient(ctx, opt, conns)
	if err != nil {
		return nil, err
	}
	if answered, err := c.probe(ctx, l); !answered {
		c.closeLink(l)
		return nil, err
	}
	return l, nil
}

// supervise keeps c.live right until ctx ends. It closes ready after the first attempt.
func (c *Client) supervise(ctx context.Context, ready chan struct{}) {
	defer c.closeSentinels()
	l := c.reach(ctx, nil, ready)
	tick := time.NewTicker(c.cfg.ProbeInterval)
	defer tick.Stop()
	for l != nil {
		select {
		case <-ctx.Done():
			c.live.Store(nil)
			c.closeLink(l)
			return
		case <-tick.C:
			if c.answersCommands() {
				continue // a probe beside a lone command would push rueidis out of its fastest mode
			}
		case <-c.poke:
		}
		answered, err := c.probe(ctx, l)
		if ctx.Err() != nil {
			continue
		}
		if answered {
			c.note(ctx, err)
			_ = wait.For(ctx, probeSpacing)
			continue
		}
		c.live.Store(nil) // before anybody is told
		l.conns.cut()
		c.note(ctx, err)
		l = c.reach(ctx, l, nil)
	}
}

// answersCommands reports whether commands have shown of late that all is well. In a cluster they say nothing of the nodes
// that they did not go to, behind sentinels nothing of whether they went to the master.
func (c *Client) answersCommands() bool {
	return !c.cfg.Cluster && !c.behindSentinels() && time.Since(time.Unix(0, c.answered.Load())) < c.cfg.ProbeInterval
}

// reach tries until Redis answers, on l if there is one, and makes l live. It returns nil when ctx ends.
func (c *Client) reach(ctx context.Context, l *link, ready chan struct{}) *link {
	since := time.Now()
	for spacing := retryMin; ctx.Err() == nil; spacing = min(2*spacing, retryMax) {
		renew := l == nil || time.Since(since) > rebuildAfter
		if renew {
			since = time.Now()
		}
		next, err := c.attempt(ctx, l, renew)
		if next != nil {
			l = next
			c.live.Store(l)
			wait.Wake(c.relinked)
		}
		if ctx.Err() == nil {
			c.note(ctx, err)
		}
		if ready != nil {
			close(ready)
			ready = nil
		}
		if next != nil {
			return l
		}
		_ = wait.For(ctx, spacing)
	}
	if l != nil {
		c.closeLink(l)
	}
	return nil
}

// attempt returns a link that answers: l, or, if it does not and may be renewed, another one in its place. Behind sentinels
// that is always another one, to whom they name.
func (c *Client) attempt(ctx context.Context, l *link, renew bool) (*link, error) {
	if l != nil && !c.behindSentinels() {
		answered, err := c.probe(ctx, l)
		switch {
		case answered:
			return l, err
		case !renew:
			return nil, err
		}
	}
	fresh, err := c.connect(ctx)
	if err == nil && l != nil {
		c.closeLink(l)
	}
	return fresh, err
}

// note records and logs a change of health.
func (c *Client) note(ctx context.Context, err error) {
	if err != nil {
		c.lastErr.Store(&err)
	}
	now := up
	if err != nil {
		now = down
	}
	before := c.health.Swap(now)
	switch now {
	case before:
	case down:
		c.cfg.Logger.WarnContext(ctx, "redis does not answer", "err", err)
	default:
		c.cfg.Logger.InfoContext(ctx, "redis answers")
	}
	c.metrics.setUp(now == up)
}

// probe asks all nodes for a sign of life: answered if any gave one, err if any did not.
func (c *Client) probe(ctx context.Context, l *link) (answered bool, err error) {
	if c.replaced(ctx, l) {
		return false, errReplaced
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.CommandTimeout)
	defer cancel()
	nodes := l.Nodes()
	results := make(chan error, len(nodes))
	for _, n := range nodes {
		go func() { results <- c.alive(ctx, n) }() // ends by ctx, or when the connections are cut
	}
	for range nodes {
		var e error
		select {
		case e = <-results:
		case <-ctx.Done():
			e = context.Cause(ctx)
		}
		answered = answered || e == nil
		if e != nil {
			err = e
		}
	}
	if len(nodes) == 0 {
		err = errors.New("no node is known")
	}
	return answered, err
}

func (c *Client) alive(ctx context.Context, node rueidis.Client) error {
	if c.behindSentinels() {
		return isMaster(ctx, node)
	}
	if !c.cfg.Cluster {
		return node.Do(ctx, node.B().Ping().Build()).Error()
	}
	info, err := node.Do(ctx, node.B().ClusterInfo().Build()).ToString()
	if err == nil && !strings.Contains(info, "cluster_state:ok") {
		return errors.New("the cluster does not serve all slots")
	}
	return err
}
