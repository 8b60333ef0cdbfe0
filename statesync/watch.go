package statesync

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/event"
)

// Change is one thing that happened to an entity, or that everything known is to be read again.
type Change struct {
	Reset         bool   // what is known may be wrong or incomplete; only Reason and Token are set beside it
	Reason        string // expired: the token is too old; epoch: history has changed; behind: this instance was
	Ref           event.Ref
	Name          string
	Data          json.RawMessage
	At            time.Time
	FirstVersion  int64 // less than Version if several changes were conflated: only the last is told
	Version       int64
	UserID, Actor *uuid.UUID
	Lost          int   // so many changes before this one were dropped (Gap)
	Volatile      bool  // Data is the whole state; there is no version
	Token         Token // to resume after this change
	shard         int
	seq           int64 // of the first of those conflated
}

// MarshalJSON is the envelope that clients get.
func (c Change) MarshalJSON() ([]byte, error) {
	if c.Reset {
		return json.Marshal(struct {
			Reset  bool   `json:"reset"`
			Reason string `json:"reason"`
		}{true, c.Reason})
	}
	var first int64
	if c.FirstVersion < c.Version {
		first = c.FirstVersion
	}
	return json.Marshal(struct {
		Type         string          `json:"type"`
		ID           uuid.UUID       `json:"id"`
		Version      int64           `json:"version"`
		FirstVersion int64           `json:"first_version,omitempty"`
		Name         string          `json:"name"`
		At           time.Time       `json:"at"`
		Data         json.RawMessage `json:"data"`
		Lost         int             `json:"lost,omitempty"`
		Volatile     bool            `json:"volatile,omitempty"`
	}{c.Ref.Type, c.Ref.ID, c.Version, first, c.Name, c.At, c.Data, c.Lost, c.Volatile})
}

// Overflow says what happens to a subscriber that is slower than the changes.
type Overflow uint8

// The ways to overflow. In all of them, only the slow one is concerned.
const (
	Conflate Overflow = iota // of each entity the newest change is kept; who watches too many entities for that is cut
	Gap                      // the oldest changes are dropped, and their number is told
	Block                    // more are kept, up to 16 times as many; then the subscriber is cut
)

// SubOptions say how to be told.
type SubOptions struct {
	Buffer   int         // changes kept before Overflow applies; 0 means 1024
	Overflow Overflow    // how to be slow
	From     Token       // resume after it; zero means from now on
	OnReady  func(Token) // told once nothing can be missed any more, before the first change
}

const maxBuffer = 1 << 16

// pattern is <type|*>.<uuid|*>.
type pattern struct {
	kind string // "" for all
	id   uuid.UUID
}

// ParsePattern says what is wrong with a pattern.
func ParsePattern(s string) error {
	_, err := parsePattern(s)
	return err
}

func parsePattern(s string) (pattern, error) {
	kind, id, ok := strings.Cut(s, ".")
	if !ok || (kind != "*" && !typeForm.MatchString(kind)) {
		return pattern{}, errs.NewInvalid("topics", "each must be <type or *>.<id or *>")
	}
	var p pattern
	if kind != "*" {
		p.kind = kind
	}
	if id == "*" {
		return p, nil
	}
	var err error
	if p.id, err = uuid.Parse(id); err != nil || len(id) != 36 || p.id == uuid.Nil {
		return pattern{}, errs.NewInvalid("topics", "each must end with a UUID or *")
	}
	return p, nil
}

func (p pattern) matches(ref event.Ref) bool {
	return (p.kind == "" || p.kind == ref.Type) && (p.id == uuid.Nil || p.id == ref.ID)
}

// Subscribe calls fn for every change of entities that match one of patterns, in the order of each shard, until ctx
// ends, fn fails or the subscriber is cut ([ErrSlow]). fn is called on the caller's goroutine: while it runs, changes
// wait, and nobody else does.
func (m *Manager) Subscribe(ctx context.Context, patterns []string, o SubOptions, fn func(Change) error) error {
	s, err := newSub(patterns, o)
	if err != nil {
		return err
	}
	select {
	case <-m.feed.Ready():
	case <-ctx.Done():
		return nil
	}
	m.hub.add(s)
	defer m.hub.remove(s)
	if o.OnReady != nil {
		o.OnReady(s.token())
	}
	err = m.follow(ctx, s, fn)
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return nil
	}
	return err
}

func (m *Manager) follow(ctx context.Context, s *sub, fn func(Change) error) error {
	if err := m.resume(ctx, s, fn); err != nil {
		return err
	}
	for {
		c, ok, err := s.next(&m.hub)
		if err != nil {
			return err
		}
		if !ok {
			select {
			case <-s.wake:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		if c.Volatile && !m.vol.fill(&c) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(c); err != nil {
			return err
		}
	}
}

// Anybody may come with a token that is old or made up, as often as they like: what that makes PostgreSQL read is bounded for
// each, and for all of an instance. A seal on tokens would not do it, since who has had a token for long has a genuine one.
const (
	maxMissed = 10_000 // events of the log, whether they match or not
	maxPasts  = 2      // pages of it at a time
)

// resume tells what happened between the subscriber's token and now, or that it cannot be told.
func (m *Manager) resume(ctx context.Context, s *sub, fn func(Change) error) error {
	p, reason := s.missed()
	missing := int64(0)
	for i := range p.from {
		missing += p.to[i] - p.from[i]
	}
	switch {
	case reason != "":
	case missing > maxMissed:
		reason = "expired"
	case missing > 0:
		err := m.tellPast(ctx, s, p, fn)
		if !errors.Is(err, event.ErrPruned) {
			return err
		}
		reason = "expired"
	}
	if reason == "" {
		return nil
	}
	return fn(Change{Reset: true, Reason: reason, Token: tokenOf(p.epoch, p.to)})
}

// past is a stretch of the log.
type past struct {
	epoch    int64
	from, to [event.Shards]int64
}

// missed finds what the subscriber's token lacks of what was told before the subscriber was there.
func (s *sub) missed() (p past, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	token := s.o.From
	p = past{s.epoch, s.start, s.start}
	if token.IsZero() {
		return p, ""
	}
	if token.epoch != s.epoch {
		return p, "epoch"
	}
	for i := range p.from {
		if token.set>>i&1 == 1 && s.wants(i) {
			p.from[i] = min(token.seq[i], s.start[i])
		}
	}
	return p, ""
}

// tokenIn is to resume after what was told of p; what the subscriber had been told elsewhere it is not told again.
func (s *sub) tokenIn(p past) Token {
	for i, seq := range s.o.From.seq {
		p.from[i] = max(p.from[i], seq)
	}
	return tokenOf(p.epoch, p.from)
}

// tellPast tells a stretch of the log.
func (m *Manager) tellPast(ctx context.Context, s *sub, p past, fn func(Change) error) error {
	for p.from != p.to {
		events, err := m.page(ctx, p.from)
		if err != nil {
			return err
		}
		if len(events) == 0 {
			return nil // it was lost: a reset is on its way
		}
		for i := range events {
			e := &events[i]
			if e.Seq > p.to[e.Shard] {
				continue
			}
			p.from[e.Shard] = e.Seq
			if !s.matches(e.Ref()) {
				continue
			}
			c := changeOf(e)
			c.Token = s.tokenIn(p)
			if err := fn(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// page reads a page of the past once it is its turn.
func (m *Manager) page(ctx context.Context, after [event.Shards]int64) ([]event.Event, error) {
	if err := m.pasts.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer m.pasts.Release(1)
	return m.store.Since(ctx, after, 1000)
}

func changeOf(e *event.Event) Change {
	return Change{
		Ref: e.Ref(), Name: e.Name, Data: e.Data, At: e.At, FirstVersion: e.Version, Version: e.Version,
		UserID: e.UserID, Actor: e.ActorID, shard: e.Shard, seq: e.Seq,
	}
}
