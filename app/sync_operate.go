package app

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/statesync"
)

// The types of the sync commands.
//
//nolint:revive // each is documented where it is defined
type (
	SyncStatus   = statesync.Status
	SyncConflict = statesync.Conflict
	SyncSnapshot = statesync.SnapshotInfo
	SyncChange   = statesync.Change
)

// SyncDoc is an entity's state as commands show it.
type SyncDoc struct {
	Type    string         `json:"type"`
	ID      uuid.UUID      `json:"id"`
	Version int64          `json:"version"`
	At      time.Time      `json:"at"`
	State   map[string]any `json:"state"`
	Token   string         `json:"token,omitempty"`
}

func syncDoc(d statesync.Doc) SyncDoc {
	return SyncDoc{Type: d.Ref.Type, ID: d.Ref.ID, Version: d.Version, At: d.At, State: d.Data}
}

func resultDoc(r statesync.Result) SyncDoc {
	d := syncDoc(r.Doc)
	d.Version, d.Token = r.Version, r.Token.String()
	return d
}

// Synced runs fn as one instance among the others.
func (p *Parts) Synced(ctx context.Context, fn func(ctx context.Context) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g, running := errgroup.WithContext(ctx)
	g.Go(func() error { return p.Appender.Run(running) })
	g.Go(func() error { return p.Sync.Run(running) })
	g.Go(func() error {
		defer stop()
		patience, cancel := context.WithTimeout(running, p.Config.Postgres.AcquireTimeout+2*time.Second)
		defer cancel()
		select {
		case <-p.Sync.Ready():
			return fn(running)
		case <-patience.Done():
			if ctx.Err() != nil {
				return nil // a wanted stop
			}
			_, err := p.DB.Exec(running, "select 1")
			return errors.Join(errNoSync, err)
		}
	})
	return g.Wait()
}

// hearing is how long an instance listens until it has heard of all others: they speak every 500 ms.
const hearing = 1500 * time.Millisecond

// SyncStatus listens for a moment and tells which instances there are and how far they are.
func (p *Parts) SyncStatus(ctx context.Context) (s SyncStatus, err error) {
	err = p.Synced(ctx, func(ctx context.Context) error {
		select {
		case <-ctx.Done():
		case <-time.After(hearing):
		}
		s = p.Sync.Status()
		return ctx.Err()
	})
	return s, err
}

// SyncGet reads an entity's state, now or then, from PostgreSQL.
func (p *Parts) SyncGet(ctx context.Context, entity string, version int64, at time.Time) (SyncDoc, error) {
	ref, err := parseRef(entity)
	if err != nil {
		return SyncDoc{}, err
	}
	var d statesync.Doc
	if version != 0 || !at.IsZero() {
		d, err = p.Sync.GetAt(ctx, ref, event.At{Version: version, Time: at})
	} else {
		d, err = p.Sync.Get(ctx, ref, statesync.Latest())
	}
	return syncDoc(d), err
}

// SyncUpdate applies a merge patch to an entity's state; expect is -1 for whatever version it has.
func (p *Parts) SyncUpdate(ctx context.Context, entity, patch string, expect int64) (doc SyncDoc, err error) {
	ref, err := parseRef(entity)
	if err != nil {
		return doc, err
	}
	if !json.Valid([]byte(patch)) {
		return doc, errs.NewInvalid("PATCH", `must be a JSON object, for example '{"scene":"lobby"}'`)
	}
	o := statesync.UpdateOptions{}
	if expect >= 0 {
		o.Expect = &expect
	}
	err = p.Synced(ctx, func(ctx context.Context) error {
		r, failed := p.Sync.Patch(ctx, ref, json.RawMessage(patch), o)
		doc = resultDoc(r)
		return failed
	})
	return doc, err
}

// errEnough ends a watch that has seen what it was asked to see.
var errEnough = errors.New("enough")

// SyncWatch calls fn for every change of what matches, until ctx ends or there were most of them; 0 means no such end.
func (p *Parts) SyncWatch(ctx context.Context, topics []string, token string, most int, fn func(SyncChange) error) error {
	from, err := statesync.ParseToken(token)
	if err != nil {
		return err
	}
	for _, t := range topics {
		if err = statesync.ParsePattern(t); err != nil {
			return err
		}
	}
	n := 0
	err = p.Synced(ctx, func(ctx context.Context) error {
		return p.Sync.Subscribe(ctx, topics, statesync.SubOptions{From: from, Overflow: statesync.Block}, func(c SyncChange) error {
			failed := fn(c)
			if n++; failed == nil && n == most {
				return errEnough
			}
			return failed
		})
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// SyncConflicts lists decisions between two changes, newest first; entity may be "".
func (p *Parts) SyncConflicts(ctx context.Context, entity string, open bool, most int) ([]SyncConflict, error) {
	page := statesync.ConflictPage{Open: open}
	if entity != "" {
		ref, err := parseRef(entity)
		if err != nil {
			return nil, err
		}
		page.Ref = &ref
	}
	var all []SyncConflict
	for len(all) < most {
		page.Limit = min(1000, most-len(all))
		items, next, err := p.Sync.Conflicts(ctx, page)
		if err != nil {
			return nil, err
		}
		all = append(all, items...)
		if page.Cursor = next; next == "" {
			break
		}
	}
	return all, nil
}

// SyncRestoreConflict makes the value that lost the state again.
func (p *Parts) SyncRestoreConflict(ctx context.Context, id uuid.UUID) (doc SyncDoc, err error) {
	err = p.Synced(ctx, func(ctx context.Context) error {
		r, failed := p.Sync.RestoreLoser(ctx, id, nil)
		doc = resultDoc(r)
		return failed
	})
	return doc, err
}

// SyncSnapshot stores a snapshot of all state; of what has changed since another one, if that is not zero.
func (p *Parts) SyncSnapshot(ctx context.Context, since uuid.UUID) (SyncSnapshot, error) {
	if since != uuid.Nil {
		return p.Sync.SnapshotDelta(ctx, since)
	}
	return p.Sync.SnapshotFull(ctx)
}

// SyncRestore brings entities back to a snapshot, and tells how many differed from it.
func (p *Parts) SyncRestore(ctx context.Context, id uuid.UUID, dry bool) (n int, err error) {
	err = p.Synced(ctx, func(ctx context.Context) error {
		n, err = p.Sync.RestoreSnapshot(ctx, id, nil, dry)
		return err
	})
	return n, err
}
