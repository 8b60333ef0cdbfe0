package cache

import (
	"context"
	"time"

	"github.com/redis/rueidis"

	"rootstream/errs"
	"rootstream/internal/wait"
)

// Message is what was published.
type Message struct {
	Channel string
	Pattern string // the pattern that matched, "" for a plain subscription
	Payload string
}

// Subscription says what to listen to. Messages published while the connection is lost are lost too.
type Subscription struct {
	Channels  []string      // exact names
	Patterns  []string      // globs as of PSUBSCRIBE; either these or Channels
	OnMessage func(Message) // called in order; while it runs, nothing else of this subscription is read
	OnReady   func()        // may be nil; called once listening, and again after every loss: what came between is missed
}

// Publish sends payload to those who listen to channel now.
func (c *Client) Publish(ctx context.Context, channel, payload string) error {
	_, err := c.do(ctx, opPublish, Cmd{Name: "PUBLISH", Args: []string{channel, payload}})
	return err
}

// Subscribe calls fn for every message on channels until ctx ends; then it returns nil. See Listen.
func (c *Client) Subscribe(ctx context.Context, channels []string, fn func(Message)) error {
	return c.Listen(ctx, Subscription{Channels: channels, OnMessage: fn})
}

// Listen holds a subscription on a connection of its own, renewed whenever it is lost, until ctx ends; then it
// returns nil.
func (c *Client) Listen(ctx context.Context, sub Subscription) error {
	if len(sub.Channels) == 0 == (len(sub.Patterns) == 0) || sub.OnMessage == nil {
		return errs.New(errs.Internal, "cache_subscription", "either channels or patterns, and a handler, are needed")
	}
	for spacing := retryMin; ctx.Err() == nil; spacing = min(2*spacing, retryMax) {
		if l := c.live.Load(); l != nil && c.listen(ctx, l, sub) {
			spacing = retryMin
		}
		_ = wait.For(ctx, spacing)
	}
	return nil
}

// listen holds the subscription until it is lost, and reports whether it was ever up.
func (c *Client) listen(ctx context.Context, l *link, sub Subscription) bool {
	s := call{c: c, link: l, outer: ctx, op: opSubscribe, start: time.Now()}
	conn, _ := l.Dedicate()
	defer c.part(conn.Close) // never used again: messages may still be on their way
	lost := conn.SetPubSubHooks(rueidis.PubSubHooks{
		OnMessage: func(m rueidis.PubSubMessage) { sub.OnMessage(Message{m.Channel, m.Pattern, m.Message}) },
	})
	err := conn.Do(c.deadlines.bound(ctx, time.Now()), subscribe(conn.B(), sub)).Error()
	if s.end(err) != nil {
		return false
	}
	if sub.OnReady != nil {
		sub.OnReady()
	}
	select {
	case <-lost: //nolint:errcheck // why does not matter: it is taken up again
	case <-ctx.Done():
	}
	return true
}

func subscribe(b rueidis.Builder, sub Subscription) rueidis.Completed {
	if len(sub.Channels) > 0 {
		return b.Subscribe().Channel(sub.Channels...).Build()
	}
	return b.Psubscribe().Pattern(sub.Patterns...).Build()
}
