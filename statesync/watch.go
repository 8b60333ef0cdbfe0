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

// erasedWith reports whether an erasure, or what it has redacted, concerns the change.
func (c *Change) erasedWith(e *event.Event) bool {
	switch {
	case c.Reset, string(c.Data) == "{}":
		return false
	case e.Redacts() && (c.UserID == nil || e.UserID == nil || *c.UserID != *e.UserID):
		return false
	case c.Ref == e.Ref():
		return c.Version < e.Version
	}
	return e.Erases() && e.AggregateType == "user" && c.UserID != nil && *c.UserID == e.AggregateID && c.At.Before(e.At)
}

func changeOf(e *event.Event) Change {
	return Change{
		Ref: e.Ref(), Name: e.Name, Data: e.Data, At: e.At, FirstVersion: e.Version, Version: e.Version,
		UserID: e.UserID, Actor: e.ActorID, shard: e.Shard, seq: e.Seq,
	}
}
