// Package gather lets those who ask at the same time share a reading: who asks
// while enough readings are under way is answered by the next one, together
// with all who came meanwhile. A lone caller waits for nobody. Every reading
// begins after the questions it answers were asked.
//
// The readers are the callers themselves, so nothing runs once all are answered.
package gather

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrUnread is the answer to those whose reader panicked, and to those who did not wait for theirs.
var ErrUnread = errors.New("no reading has answered")

// Ask is one question, and the answer that the reading gives it.
type Ask[Q, A any] struct {
	Question Q
	Answer   A
	Err      error // ErrUnread until the reading sets it

	turn chan []*Ask[Q, A] // nil: it is answered; else what it is to read for all of them
	gone bool              // nobody waits for it
}

// Group collects questions.
type Group[Q, A any] struct {
	read         func(context.Context, []*Ask[Q, A])
	readers, max int

	mu      sync.Mutex
	reading int
	waiting []*Ask[Q, A]
}

// New makes a group of at most readers readings at a time, each of at most size
// questions. The context of read ends in no way: read brings its own bounds.
func New[Q, A any](readers, size int, read func(context.Context, []*Ask[Q, A])) *Group[Q, A] {
	return &Group[Q, A]{read: read, readers: readers, max: size}
}

// Do asks and waits for the answer, or for ctx to end.
func (g *Group[Q, A]) Do(ctx context.Context, question Q) (A, error) {
	mine := &Ask[Q, A]{Question: question, Err: ErrUnread}
	g.mu.Lock()
	if g.reading < g.readers { // then nobody waits
		g.reading++
		g.mu.Unlock()
		return g.lead(ctx, mine, []*Ask[Q, A]{mine})
	}
	mine.turn = make(chan []*Ask[Q, A], 1)
	g.waiting = append(g.waiting, mine)
	g.mu.Unlock()
	select {
	case batch := <-mine.turn:
		return g.answer(ctx, mine, batch)
	case <-ctx.Done():
	}
	g.mu.Lock()
	mine.gone = true
	g.mu.Unlock()
	select {
	case batch := <-mine.turn: // too late to go
		return g.answer(ctx, mine, batch)
	default:
		var none A
		return none, fmt.Errorf("%w: %w", ErrUnread, context.Cause(ctx))
	}
}

func (g *Group[Q, A]) answer(ctx context.Context, mine *Ask[Q, A], batch []*Ask[Q, A]) (A, error) {
	if batch == nil {
		return mine.Answer, mine.Err
	}
	return g.lead(ctx, mine, batch)
}

// lead reads for all of batch and leaves the next reading to one of those who wait.
func (g *Group[Q, A]) lead(ctx context.Context, mine *Ask[Q, A], batch []*Ask[Q, A]) (A, error) {
	defer func() {
		g.pass()
		for _, other := range batch {
			if other != mine {
				other.turn <- nil
			}
		}
	}()
	g.read(context.WithoutCancel(ctx), batch)
	return mine.Answer, mine.Err
}

// pass makes the first of those who wait read for the others.
func (g *Group[Q, A]) pass() {
	g.mu.Lock()
	defer g.mu.Unlock()
	batch := make([]*Ask[Q, A], 0, min(len(g.waiting), g.max))
	for len(g.waiting) > 0 && len(batch) < g.max {
		if next := g.waiting[0]; !next.gone {
			batch = append(batch, next)
		}
		g.waiting[0] = nil
		g.waiting = g.waiting[1:]
	}
	if len(batch) == 0 {
		g.reading--
		return
	}
	batch[0].turn <- batch
}
