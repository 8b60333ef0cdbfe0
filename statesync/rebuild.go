package statesync

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/event"
	"rootstream/postgres"
)

// Current is the state of all durable entities now: the newest full snapshot and what happened since.
func (m *Manager) Current(ctx context.Context) (State, error) {
	s, err := m.newest(ctx)
	if err != nil {
		return State{}, err
	}
	if s.Format == 0 {
		return m.Rebuild(ctx)
	}
	s, err = m.advance(ctx, s)
	if errors.Is(err, event.ErrPruned) || errors.Is(err, ErrWrongBase) {
		return m.Rebuild(ctx)
	}
	return s, err
}

// newest reads the newest full snapshot of this epoch; the zero State if there is none that fits the types of now.
func (m *Manager) newest(ctx context.Context) (State, error) {
	var id uuid.UUID
	err := m.cfg.DB.QueryRow(ctx, `select s.id from sync_snapshots s, sync_epoch e
		where s.kind = 'full' and s.epoch = e.epoch order by s.at desc, s.id desc limit 1`).Scan(&id)
	if errors.Is(err, postgres.ErrNoRows) {
		return State{}, nil
	}
	if err != nil {
		return State{}, fmt.Errorf("find the newest snapshot: %w", err)
	}
	return m.LoadSnapshot(ctx, id)
}

// advance folds into a state what happened since.
func (m *Manager) advance(ctx context.Context, s State) (State, error) {
	epoch, heads, err := m.position(ctx)
	if err != nil {
		return State{}, err
	}
	if s.Epoch != epoch {
		return State{}, ErrWrongBase
	}
	docs := make(map[event.Ref]Doc, len(s.Docs))
	for _, d := range s.Docs {
		docs[d.Ref()] = d.doc()
	}
	for at := s.Vector; ; {
		events, err := m.store.Within(ctx, at, heads, 1000)
		if err != nil {
			return State{}, err
		}
		if len(events) == 0 {
			return m.stateOf(epoch, heads, docs), nil
		}
		for _, e := range events {
			at[e.Shard] = e.Seq
			if err := m.fold(ctx, docs, e); err != nil {
				return State{}, err
			}
		}
	}
}

// fold brings one of docs up to date. One that an event cannot be folded into is read again, as of that event.
func (m *Manager) fold(ctx context.Context, docs map[event.Ref]Doc, e event.Event) error {
	t, ok := m.types[e.AggregateType]
	if !ok || t.Class != Durable {
		return nil
	}
	ref := e.Ref()
	d, there := docs[ref]
	if !there {
		d = Doc{Ref: ref, Data: map[string]any{}}
	}
	next, ok := step(t, d, e)
	if !ok {
		var err error
		if next, _, err = m.replay(ctx, ref, e.Version); err != nil {
			return err
		}
	}
	docs[ref] = next
	return nil
}

func (m *Manager) stateOf(epoch int64, v [event.Shards]int64, docs map[event.Ref]Doc) State {
	s := State{Format: snapshotFormat, Epoch: epoch, Vector: v, Docs: make([]StateDoc, 0, len(docs))}
	for ref, d := range docs {
		if _, known := m.types[ref.Type]; known {
			s.Docs = append(s.Docs, stateDoc(d))
		}
	}
	slices.SortFunc(s.Docs, StateDoc.compare)
	return s
}

func (m *Manager) position(ctx context.Context) (epoch int64, heads [event.Shards]int64, err error) {
	if err = m.cfg.DB.QueryRow(ctx, "select epoch from sync_epoch").Scan(&epoch); err != nil {
		return 0, heads, fmt.Errorf("read the epoch: %w", err)
	}
	heads, err = m.store.Heads(ctx)
	return epoch, heads, err
}

// Rebuild is Current without any snapshot of this room: each entity from its own events.
func (m *Manager) Rebuild(ctx context.Context) (State, error) {
	epoch, heads, err := m.position(ctx)
	if err != nil {
		return State{}, err
	}
	docs := map[event.Ref]Doc{}
	for name, t := range m.types {
		if t.Class != Durable {
			continue
		}
		for after := uuid.Nil; ; {
			list, err := m.versions(ctx, name, after, heads)
			if err != nil {
				return State{}, err
			}
			for _, v := range list {
				ref := event.Ref{Type: name, ID: v.ID}
				if docs[ref], _, err = m.replay(ctx, ref, v.Version); err != nil {
					return State{}, err
				}
			}
			if len(list) < entityPage {
				break
			}
			after = list[len(list)-1].ID
		}
	}
	return m.stateOf(epoch, heads, docs), nil
}

type entityVersion struct {
	ID      uuid.UUID
	Version int64
}

// versions returns a page of entities of a type, after one, with the versions they had at a position.
func (m *Manager) versions(ctx context.Context, kind string, after uuid.UUID, at [event.Shards]int64) ([]entityVersion, error) {
	rows, _ := m.cfg.DB.Query(ctx, `select aggregate_id, max(version) from events
		where aggregate_type = $1 and aggregate_id > $2 and seq <= ($3::bigint[])[shard + 1]
		group by aggregate_id order by aggregate_id limit $4`, kind, after, at[:], entityPage)
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[entityVersion])
	if err != nil {
		return nil, fmt.Errorf("list entities: %w", err)
	}
	return list, nil
}
