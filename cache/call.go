package cache

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"rootstream/internal/wait"
)

// call is one operation under way.
type call struct {
	c     *Client
	link  *link
	outer context.Context //nolint:containedctx // lives as long as the call
	op    op
	start time.Time
}

// begin answers at once if Redis is known to be away; the context it returns bounds the call's time.
func (c *Client) begin(ctx context.Context, o op) (context.Context, call, error) {
	l := c.live.Load()
	if l == nil {
		c.metrics.ops[o].unavailable.Inc()
		return ctx, call{}, c.away()
	}
	if err := ctx.Err(); err != nil {
		c.metrics.ops[o].unavailable.Inc()
		return ctx, call{}, ErrUnavailable.WithCause(err)
	}
	now := time.Now()
	return c.deadlines.bound(ctx, now), call{c: c, link: l, outer: ctx, op: o, start: now}, nil
}

func (c *Client) away() error {
	if err := c.LastError(); err != nil {
		return ErrUnavailable.WithCause(err).WithRetryAfter(c.cfg.ProbeInterval)
	}
	return ErrUnavailable.WithRetryAfter(c.cfg.ProbeInterval)
}

// end counts the call and turns err into one of this room. A null reply is not an error.
func (s *call) end(err error) error {
	m := &s.c.metrics.ops[s.op]
	took := time.Since(s.start)
	m.seconds.Observe(took.Seconds())
	if err == nil || rueidis.IsRedisNil(err) {
		m.ok.Inc()
		if at := s.start.Add(took).UnixNano(); at-s.c.answered.Load() > int64(answerGrain) {
			s.c.answered.Store(at)
		}
		return nil
	}
	return s.fail(err)
}

func (s *call) fail(err error) error {
	m := &s.c.metrics.ops[s.op]
	reply, isReply := rueidis.IsRedisErr(err)
	switch {
	case isReply && !refusesAll(reply.Error()):
		m.failed.Inc()
		return fmt.Errorf("redis %s: %w", s.op, err)
	case rueidis.IsParseErr(err):
		m.failed.Inc()
		return fmt.Errorf("redis %s: %w", s.op, err)
	}
	m.unavailable.Inc()
	if gaveUp := s.gaveUp(); gaveUp != nil { // says nothing about Redis
		return ErrUnavailable.WithCause(gaveUp)
	}
	wait.Wake(s.c.poke)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer in %v", s.c.cfg.CommandTimeout)
	}
	return ErrUnavailable.WithCause(err)
}

// gaveUp returns why the caller no longer waits, or nil. A connection's deadline may fire before the timer of the context
// it was taken from.
func (s *call) gaveUp() error {
	if at, ok := s.outer.Deadline(); ok && !time.Now().Before(at) {
		return context.DeadlineExceeded
	}
	return s.outer.Err()
}

// refusesAll reports whether an error reply is about the server's state rather than about the command.
func refusesAll(reply string) bool {
	word, _, _ := strings.Cut(reply, " ")
	switch word {
	case "LOADING", "BUSY", "MASTERDOWN", "READONLY", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK", "NOREPLICAS",
		"OOM", "MISCONF", "NOAUTH", "WRONGPASS", "NOPERM", "UNKILLABLE":
		return true
	}
	return false
}
