package cache

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"rootstream/errs"
	"rootstream/internal/wait"
)

// TailConfig says which streams to follow, and from where.
type TailConfig struct {
	Positions map[string]string // by stream: the id of the last entry known; "$" means what is added from now on
	Block     time.Duration     // how long Redis holds a question it has no answer to; 0 means 250ms
	Count     int               // entries of one stream in one answer; 0 means 128

	// OnEntries gets what was added to one stream, oldest first. The next question waits for it. In a cluster it is
	// called for several streams at once.
	OnEntries func(stream string, entries []Entry)
	// OnReady, if not nil, is called whenever the streams are being followed (again): nothing between is missed
	// unless Redis lost it.
	OnReady func(streams []string)
}

// Entry is an entry of a stream.
type Entry struct {
	ID     string
	fields []rueidis.RedisMessage // name, value, …
}

// Get returns the value of a field, nil if it is not there. The slice must not be written to.
func (e Entry) Get(name string) []byte {
	for i := 0; i+1 < len(e.fields); i += 2 {
		if n, err := e.fields[i].ToString(); err == nil && n == name {
			b, err := e.fields[i+1].AsBytes()
			if err != nil {
				return nil
			}
			return b
		}
	}
	return nil
}

// Tail follows streams until ctx ends; then, at the latest after Block and the command timeout, it returns nil. It has
// a connection of its own, renewed whenever it is lost; in a cluster, where a question cannot be about several slots,
// one for every stream.
func (c *Client) Tail(ctx context.Context, cfg TailConfig) error {
	if len(cfg.Positions) == 0 || cfg.OnEntries == nil || cfg.Block < 0 || cfg.Count < 0 {
		return errs.New(errs.Internal, "cache_tail", "streams and a handler are needed")
	}
	if cfg.Block == 0 {
		cfg.Block = 250 * time.Millisecond
	}
	if cfg.Count == 0 {
		cfg.Count = 128
	}
	streams := slices.Sorted(maps.Keys(cfg.Positions))
	if !c.cfg.Cluster {
		newTail(c, cfg, streams).run(ctx)
		return nil
	}
	var wg sync.WaitGroup
	for i := range streams {
		wg.Go(func() { newTail(c, cfg, streams[i:i+1]).run(ctx) })
	}
	wg.Wait()
	return nil
}

// tail follows the streams of one connection.
type tail struct {
	c       *Client
	cfg     TailConfig
	streams []string
	at      []string // last id seen, by stream; "" while "$" has not been looked up
}

func newTail(c *Client, cfg TailConfig, streams []string) *tail {
	t := &tail{c: c, cfg: cfg, streams: streams, at: make([]string, len(streams))}
	for i, s := range streams {
		if p := cfg.Positions[s]; p != "$" {
			t.at[i] = p
		}
	}
	return t
}

func (t *tail) run(ctx context.Context) {
	for spacing := retryMin; ctx.Err() == nil; spacing = min(2*spacing, retryMax) {
		if l := t.c.live.Load(); l != nil && t.hold(ctx, l) {
			spacing = retryMin
		}
		_ = wait.For(ctx, spacing)
	}
}

// hold follows until the connection is lost or ctx ends, and reports whether it was ever up.
func (t *tail) hold(ctx context.Context, l *link) bool {
	conn, _ := l.Dedicate()
	defer t.c.part(conn.Close) // never used again: an answer may still be on its way
	s := call{c: t.c, link: l, outer: ctx, op: opTail, start: time.Now()}
	if s.end(t.begin(ctx, conn)) != nil {
		return false
	}
	if t.cfg.OnReady != nil {
		t.cfg.OnReady(t.streams)
	}
	for ctx.Err() == nil {
		s.start = time.Now()
		if err := t.ask(ctx, conn); err != nil {
			_ = s.end(err) // counted; it is taken up again
			return true
		}
		t.c.metrics.ops[opTail].ok.Inc()
	}
	return true
}

// begin looks up the ends of the streams that are to be followed from there.
func (t *tail) begin(ctx context.Context, conn rueidis.DedicatedClient) error {
	ctx, cancel := context.WithTimeout(ctx, t.c.cfg.CommandTimeout)
	defer cancel()
	for i, s := range t.streams {
		if t.at[i] != "" {
			continue
		}
		last, err := conn.Do(ctx, conn.B().Xrevrange().Key(s).End("+").Start("-").Count(1).Build()).AsXRange()
		if err != nil && !rueidis.IsRedisNil(err) {
			return err
		}
		t.at[i] = "0-0"
		if len(last) > 0 {
			t.at[i] = last[0].ID
		}
	}
	return conn.Do(ctx, conn.B().Arbitrary("EXISTS").Keys(t.streams...).Build()).Error()
}

// ask waits for one answer and hands it on.
func (t *tail) ask(ctx context.Context, conn rueidis.DedicatedClient) error {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Block+t.c.cfg.CommandTimeout)
	defer cancel()
	cmd := conn.B().Arbitrary("XREAD").Args("COUNT", strconv.Itoa(t.cfg.Count), "BLOCK",
		strconv.FormatInt(t.cfg.Block.Milliseconds(), 10), "STREAMS").Keys(t.streams...).Args(t.at...).Blocking()
	msg, err := conn.Do(ctx, cmd).ToMessage()
	if rueidis.IsRedisNil(err) {
		return nil // nothing was added
	}
	if err != nil {
		return err
	}
	if msg.IsMap() {
		return t.handMap(msg)
	}
	pairs, err := msg.ToArray() // RESP2
	for _, p := range pairs {
		pair, e := p.ToArray()
		if e != nil || len(pair) != 2 {
			return errTailReply.WithCause(e)
		}
		s, e := pair[0].ToString()
		if e == nil {
			e = t.hand(s, pair[1])
		}
		if e != nil {
			return e
		}
	}
	return err
}

func (t *tail) handMap(msg rueidis.RedisMessage) error {
	streams, err := msg.AsMap()
	for s, entries := range streams {
		if e := t.hand(s, entries); e != nil {
			return e
		}
	}
	return err
}

var errTailReply = errs.New(errs.Internal, "cache_tail_reply", "the stream was answered in a form that is not known")

func (t *tail) hand(stream string, reply rueidis.RedisMessage) error {
	i, known := slices.BinarySearch(t.streams, stream)
	list, err := reply.ToArray()
	if err != nil || !known {
		return errTailReply.WithCause(err)
	}
	entries := make([]Entry, 0, len(list))
	for _, m := range list {
		pair, err := m.ToArray()
		if err != nil || len(pair) != 2 {
			return errTailReply.WithCause(err)
		}
		e := Entry{}
		if e.ID, err = pair[0].ToString(); err != nil {
			return err
		}
		e.fields, _ = pair[1].ToArray() // nil for an entry deleted meanwhile
		entries = append(entries, e)
	}
	if len(entries) == 0 {
		return nil
	}
	t.at[i] = entries[len(entries)-1].ID
	t.cfg.OnEntries(stream, entries)
	return nil
}
