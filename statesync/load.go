package statesync

import (
	"context"
	"errors"
	"time"

	"rootstream/event"
	"rootstream/internal/gather"
	"rootstream/postgres"
)

// What is not in memory is read together with what others miss at the same time: after a start that is everything.
const (
	maxLoads    = 2 // readings at a time
	maxAsks     = 256
	loadTimeout = 5 * time.Second
)

type loader = gather.Group[event.Ref, *event.State]

func newLoader(store *event.Store) *loader {
	return gather.New(maxLoads, maxAsks, func(ctx context.Context, asks []*gather.Ask[event.Ref, *event.State]) {
		ctx, cancel := context.WithTimeout(ctx, loadTimeout)
		defer cancel()
		refs := make([]event.Ref, len(asks))
		for i, a := range asks {
			refs[i] = a.Question
		}
		states, err := store.States(ctx, refs)
		for i, a := range asks {
			if a.Err = err; err == nil {
				a.Answer = states[i]
			}
		}
	})
}

// load reads a document from PostgreSQL into memory. What the feed tells meanwhile is not undone.
func (m *Manager) load(ctx context.Context, t Type, ref event.Ref) (Doc, error) {
	for tries := 0; ; tries++ {
		e := m.memory.begin(ref)
		d, size, err := m.newestOf(ctx, ref)
		d.Ref = ref
		if m.memory.finish(e, d, size, t.Hold, err == nil) || err != nil || tries == 3 {
			return d, err
		}
	}
}

// loadAll is load for many at once.
func (m *Manager) loadAll(ctx context.Context, t Type, refs []event.Ref) error {
	places := make([]*entry, len(refs))
	for i, ref := range refs {
		places[i] = m.memory.begin(ref)
	}
	reading, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	states, err := m.store.States(reading, refs)
	var again []event.Ref
	for i, ref := range refs {
		d, size, known := Doc{Ref: ref}, 0, err == nil && states[i] != nil
		if known {
			d, size = docOf(ref, states[i].Version, states[i].At.UTC(), states[i].Data), approximate(states[i].Data)
		}
		if current := m.memory.finish(places[i], d, size, t.Hold, known); !known || !current {
			again = append(again, ref)
		}
	}
	if err != nil {
		return err
	}
	for _, ref := range again {
		if _, err := m.load(ctx, t, ref); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) newestOf(ctx context.Context, ref event.Ref) (Doc, int, error) {
	s, err := m.loader.Do(ctx, ref)
	switch {
	case errors.Is(err, gather.ErrUnread):
		return Doc{}, 0, postgres.ErrBusy.WithCause(err).WithRetryAfter(time.Second)
	case err != nil:
		return Doc{}, 0, err
	case s == nil:
		return m.replay(ctx, ref, 0)
	}
	return docOf(ref, s.Version, s.At.UTC(), s.Data), approximate(s.Data), nil
}

// replay folds an entity's events up to a version, from its nearest snapshot on; 0 means all.
func (m *Manager) replay(ctx context.Context, ref event.Ref, upTo int64) (Doc, int, error) {
	s, err := m.store.State(ctx, ref, event.At{Version: upTo})
	if errors.Is(err, event.ErrNotFound) {
		return Doc{Ref: ref, Data: map[string]any{}}, 0, nil
	}
	if err != nil {
		return Doc{}, 0, err
	}
	return docOf(ref, s.Version, s.At.UTC(), s.Data), approximate(s.Data), nil
}
