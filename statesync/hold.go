package statesync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"rootstream/event"
)

// hold keeps the entities of held types in memory, from when the feed has begun, and takes snapshots on schedule.
func (m *Manager) hold(ctx context.Context) {
	select {
	case <-m.feed.Ready():
	case <-ctx.Done():
		return
	}
	snapshots := make(<-chan time.Time)
	if m.cfg.SnapshotEvery > 0 {
		tick := time.NewTicker(min(m.cfg.SnapshotEvery, snapshotLook))
		defer tick.Stop()
		snapshots = tick.C
	}
	again := time.NewTimer(0)
	defer again.Stop()
	forgotten := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-snapshots:
			if err := m.scheduled(ctx); err != nil && ctx.Err() == nil {
				m.cfg.Logger.WarnContext(ctx, "no snapshot was taken", "err", err)
			}
		case <-m.hub.resets:
			again.Reset(0)
		case <-again.C:
			wait := time.Minute // what was dropped for a version that did not follow
			if err := m.erased(ctx, &forgotten); err != nil && ctx.Err() == nil {
				m.cfg.Logger.WarnContext(ctx, "what was erased may still be somewhere, trying again", "err", err)
				wait = time.Second
			}
			if err := m.holdAll(ctx); err != nil && ctx.Err() == nil {
				m.cfg.Logger.WarnContext(ctx, "held state cannot be read, trying again", "err", err)
				wait = time.Second
			}
			again.Reset(wait)
		}
	}
}

// snapshotLook is how often an instance looks whether a snapshot is due.
const snapshotLook = time.Minute

// scheduled takes a full snapshot and removes the oldest, if it is time and no other instance has begun to.
func (m *Manager) scheduled(ctx context.Context) error {
	tag, err := m.cfg.DB.Exec(ctx, "update sync_schedule set at = now() where at < now() - $1::interval", m.cfg.SnapshotEvery)
	if err != nil {
		return fmt.Errorf("see whether a snapshot is due: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return nil
	}
	if _, err = m.SnapshotFull(ctx); err != nil {
		_, again := m.cfg.DB.Exec(context.WithoutCancel(ctx), "update sync_schedule set at = '-infinity'") // for another to try
		return errors.Join(err, again)
	}
	_, err = m.cfg.DB.Exec(ctx, `delete from sync_snapshots where id in (
		select id from sync_snapshots where kind = 'full' order by at desc, id desc offset $1)`, m.cfg.KeepSnapshots)
	if err != nil {
		return fmt.Errorf("remove old snapshots: %w", err)
	}
	return nil
}

// holdAll reads the entities of held types that are not in memory: from the newest snapshot and what happened since,
// and those that came into being since.
func (m *Manager) holdAll(ctx context.Context) error {
	held := map[string]Type{}
	for name, t := range m.types {
		if t.Hold && t.Class == Durable {
			held[name] = t
		}
	}
	if len(held) == 0 {
		return nil
	}
	s, err := m.newest(ctx)
	if err != nil {
		return err
	}
	places := map[event.Ref]*entry{}
	for _, d := range s.Docs {
		if _, there := m.memory.get(d.Ref()); held[d.Type].Name != "" && !there {
			places[d.Ref()] = m.memory.begin(d.Ref()) // before the tail is read: what the feed tells from now on is noted
		}
	}
	if len(places) > 0 {
		s, err = m.advance(ctx, s)
	}
	for _, d := range s.Docs {
		if place := places[d.Ref()]; place != nil {
			m.memory.finish(place, d.doc(), approximate(d.Data), true, err == nil)
			delete(places, d.Ref())
		}
	}
	for ref, place := range places {
		m.memory.finish(place, Doc{Ref: ref}, 0, true, false)
	}
	for name, t := range held {
		if err := m.holdType(ctx, name, t); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) holdType(ctx context.Context, name string, t Type) error {
	_, heads, err := m.position(ctx)
	if err != nil {
		return err
	}
	for after := uuid.Nil; ; {
		list, err := m.versions(ctx, name, after, heads)
		if err != nil {
			return err
		}
		var missing []event.Ref
		for _, v := range list {
			ref := event.Ref{Type: name, ID: v.ID}
			if _, there := m.memory.get(ref); !there {
				missing = append(missing, ref)
			}
		}
		for some := range slices.Chunk(missing, maxAsks) {
			if err := m.loadAll(ctx, t, some); err != nil {
				return err
			}
		}
		if len(list) < entityPage {
			return nil
		}
		after = list[len(list)-1].ID
	}
}

const entityPage = 1000 // entities read at a time

// approximate is about how many bytes a document takes.
func approximate(v any) int {
	n := 16
	switch v := v.(type) {
	case map[string]any:
		for k, below := range v {
			n += len(k) + 16 + approximate(below)
		}
	case []any:
		for _, below := range v {
			n += approximate(below)
		}
	case string:
		n += len(v)
	}
	return n
}
