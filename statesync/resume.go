package statesync

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"rootstream/event"
)

// Anybody may come with a token that is old or made up, as often as they like: what that makes PostgreSQL read is bounded for
// each, and for all of an instance. A seal on tokens would not do it, since who has had a token for long has a genuine one.
const (
	maxMissed = 10_000 // events of the log, whether they match or not; of the entities alone, if all patterns name one
	maxPasts  = 2      // pages of it at a time
	pastPage  = 1000
)

// resume tells what happened between the subscriber's token and now, or that it cannot be told.
func (m *Manager) resume(ctx context.Context, s *sub, fn func(Change) error) error {
	p, reason := s.missed()
	if reason == "" {
		err := m.tellPast(ctx, s, p, fn)
		if !errors.Is(err, event.ErrPruned) && !errors.Is(err, event.ErrTooMany) {
			return err
		}
		reason = "expired"
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

// events is how many there are in it.
func (p past) events() (n int64) {
	for i := range p.from {
		n += p.to[i] - p.from[i]
	}
	return n
}

// tellPast tells a stretch of the log.
func (m *Manager) tellPast(ctx context.Context, s *sub, p past, fn func(Change) error) error {
	next, err := m.pages(ctx, s, p)
	if err != nil {
		return err
	}
	for p.from != p.to {
		events, err := next(ctx, p)
		if err != nil || len(events) == 0 { // none: all is told, or was lost and a reset is on its way
			return err
		}
		for i := range events {
			e := &events[i]
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

// pages is how to read p: the log or, where that is shorter, the histories of the entities that the patterns name.
func (m *Manager) pages(ctx context.Context, s *sub, p past) (func(context.Context, past) ([]event.Event, error), error) {
	entities := s.entities()
	switch missed := p.events(); {
	case missed <= pastPage || missed <= maxMissed && entities == nil:
		return func(ctx context.Context, p past) ([]event.Event, error) {
			return m.inTurn(ctx, func() ([]event.Event, error) { return m.store.Within(ctx, p.from, p.to, pastPage) })
		}, nil
	case entities == nil:
		return nil, event.ErrTooMany
	}
	var theirs *event.Missed
	_, err := m.inTurn(ctx, func() (none []event.Event, err error) {
		theirs, err = m.store.Missed(ctx, entities, p.from, p.to, maxMissed)
		return none, err
	})
	return func(ctx context.Context, _ past) ([]event.Event, error) {
		return m.inTurn(ctx, func() ([]event.Event, error) { return theirs.Next(ctx, pastPage) })
	}, err
}

// inTurn reads a part of the past once it is its turn.
func (m *Manager) inTurn(ctx context.Context, read func() ([]event.Event, error)) ([]event.Event, error) {
	if err := m.pasts.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer m.pasts.Release(1)
	return read()
}

// entities are those that the patterns name; nil if one of them names none.
func (s *sub) entities() []event.Ref {
	var all []event.Ref
	there := map[event.Ref]bool{}
	for _, p := range s.patterns {
		r := event.Ref{Type: p.kind, ID: p.id}
		if p.kind == "" || p.id == uuid.Nil {
			return nil
		}
		if !there[r] {
			there[r], all = true, append(all, r)
		}
	}
	return all
}
