package statesync

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/event/codec"
	"rootstream/postgres"
)

// maxSnapshot bounds the content of a snapshot before compression.
const maxSnapshot = 256 << 20

// SnapshotInfo describes a stored snapshot.
type SnapshotInfo struct {
	ID       uuid.UUID  `json:"id"`
	Kind     string     `json:"kind"` // full, delta
	Base     *uuid.UUID `json:"base"` // what a delta is applied to
	Epoch    int64      `json:"epoch"`
	Vector   []int64    `json:"vector"`
	Entities int        `json:"entities"`
	SHA256   []byte     `json:"sha256"` // of the state
	Bytes    int64      `json:"bytes"`  // stored
	At       time.Time  `json:"at"`
}

const infoColumns = `id, kind, base, epoch, vector, entities, sha256, octet_length(content)::bigint, at`

// Snapshots lists snapshots, newest first.
func (m *Manager) Snapshots(ctx context.Context, limit int) ([]SnapshotInfo, error) {
	if limit < 1 || limit > 1000 {
		return nil, errs.NewInvalid("limit", "must be between 1 and 1000")
	}
	rows, _ := m.cfg.DB.Query(ctx, `select `+infoColumns+` from sync_snapshots order by at desc, id desc limit $1`, limit)
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[SnapshotInfo])
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	return list, nil
}

// SnapshotFull stores the state of all durable entities as it is now.
func (m *Manager) SnapshotFull(ctx context.Context) (SnapshotInfo, error) {
	heeded, err := m.heed(ctx)
	if err != nil {
		return SnapshotInfo{}, err
	}
	s, err := m.Current(ctx)
	if err != nil {
		return SnapshotInfo{}, err
	}
	b, err := s.Bytes()
	if err != nil {
		return SnapshotInfo{}, err
	}
	return m.keep(ctx, shot{codec.Full, nil, s, b, heeded})
}

// SnapshotDelta stores what has changed since a snapshot.
func (m *Manager) SnapshotDelta(ctx context.Context, since uuid.UUID) (SnapshotInfo, error) {
	heeded, err := m.heed(ctx)
	if err != nil {
		return SnapshotInfo{}, err
	}
	from, err := m.LoadSnapshot(ctx, since)
	if err != nil {
		return SnapshotInfo{}, err
	}
	to, err := m.advance(ctx, from)
	if err != nil {
		return SnapshotInfo{}, err
	}
	d, err := Diff(from, to)
	if err != nil {
		return SnapshotInfo{}, err
	}
	b, err := json.Marshal(d)
	if err != nil {
		return SnapshotInfo{}, err
	}
	return m.keep(ctx, shot{codec.Delta, &since, to, b, heeded})
}

// shot is a snapshot about to be stored.
type shot struct {
	kind    byte
	base    *uuid.UUID
	state   State
	content []byte
	heeded  int64
}

func (m *Manager) keep(ctx context.Context, s shot) (SnapshotInfo, error) {
	if len(s.content) > maxSnapshot {
		return SnapshotInfo{}, codec.ErrTooLarge
	}
	c, err := codec.New(maxSnapshot)
	if err != nil {
		return SnapshotInfo{}, err
	}
	b, err := s.state.Bytes()
	if err != nil {
		return SnapshotInfo{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return SnapshotInfo{}, err
	}
	word, sum := "full", sha256.Sum256(b)
	if s.kind == codec.Delta {
		word = "delta"
	}
	rows, _ := m.cfg.DB.Query(ctx, `insert into sync_snapshots (id, kind, base, epoch, vector, entities, sha256, content, erased)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9) returning `+infoColumns,
		id, word, s.base, s.state.Epoch, s.state.Vector[:], len(s.state.Docs), sum[:], c.Encode(s.kind, s.content), s.heeded)
	info, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[SnapshotInfo])
	if err != nil {
		return SnapshotInfo{}, fmt.Errorf("store a snapshot: %w", err)
	}
	return info, nil
}

// maxChain bounds how many deltas lead to a state.
const maxChain = 1000

// LoadSnapshot reads a state; a delta is applied to what it is based on.
func (m *Manager) LoadSnapshot(ctx context.Context, id uuid.UUID) (State, error) {
	c, err := codec.New(maxSnapshot)
	if err != nil {
		return State{}, err
	}
	var deltas []Delta
	for len(deltas) < maxChain {
		var kind string
		var base *uuid.UUID
		var content []byte
		err := m.cfg.DB.QueryRow(ctx, `select kind, base, content from sync_snapshots where id = $1`, id).Scan(&kind, &base, &content)
		if errors.Is(err, postgres.ErrNoRows) {
			return State{}, ErrNoSnapshot
		}
		if err != nil {
			return State{}, fmt.Errorf("read a snapshot: %w", err)
		}
		if kind == "full" {
			return openState(c, content, deltas)
		}
		var d Delta
		if content, err = c.Decode(codec.Delta, content); err == nil {
			err = readContent(content, &d)
		}
		if err != nil || base == nil {
			return State{}, cmp.Or[error](err, ErrBadSnapshot)
		}
		deltas, id = append(deltas, d), *base
	}
	return State{}, ErrBadSnapshot
}

// openState reads a full state and applies deltas, the last one first.
func openState(c *codec.Codec, content []byte, deltas []Delta) (State, error) {
	var s State
	content, err := c.Decode(codec.Full, content)
	if err == nil {
		err = readContent(content, &s)
	}
	for i := len(deltas) - 1; i >= 0 && err == nil; i-- {
		s, err = deltas[i].Apply(s)
	}
	if err == nil && s.Format != snapshotFormat {
		err = ErrBadSnapshot
	}
	return s, err
}

// RestoreSnapshot makes the entities what they were in a snapshot, by updates of their own; what came into being since
// is left alone. It returns how many differed; with dry, that is all it does.
func (m *Manager) RestoreSnapshot(ctx context.Context, id uuid.UUID, actor *uuid.UUID, dry bool) (int, error) {
	heeded, err := m.heed(ctx)
	if err != nil {
		return 0, err
	}
	s, err := m.LoadSnapshot(ctx, id)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, want := range s.Docs {
		differs, err := m.restore(ctx, want, restoring{actor, heeded, dry})
		if err != nil {
			return n, fmt.Errorf("restore %s: %w", want.Ref(), err)
		}
		if differs {
			n++
		}
	}
	return n, nil
}

// restoring is in whose name it is done, and up to which erasure the snapshot knows what was erased.
type restoring struct {
	actor  *uuid.UUID
	heeded int64
	dry    bool
}

// restore makes one entity what it was and reports whether it was something else.
func (m *Manager) restore(ctx context.Context, want StateDoc, r restoring) (differs bool, err error) {
	t, ok := m.types[want.Type]
	if !ok || t.ReadOnly || t.Class != Durable {
		return false, nil
	}
	have, err := m.read(ctx, t, want.Ref(), Latest())
	same := have.Deleted == want.Deleted && reflect.DeepEqual(have.Data, want.Data)
	if err != nil || same || t.Once && have.Deleted {
		return false, err
	}
	if r.dry {
		return true, nil
	}
	o := UpdateOptions{Actor: r.actor}
	if want.Deleted {
		_, err = m.Delete(ctx, want.Ref(), o)
		return true, err
	}
	_, err = m.Update(ctx, want.Ref(), func(d *Doc) error {
		if erased, failed := m.erasedSince(ctx, want.Ref(), r.heeded); failed != nil || erased {
			return cmp.Or(failed, errErased)
		}
		data := cloneMap(want.Data)
		for _, field := range t.Reserved { // not ours to change back
			delete(data, field)
			if v, is := d.Data[field]; is {
				data[field] = v
			}
		}
		d.Data = data
		return nil
	}, o)
	if errors.Is(err, errErased) {
		return false, nil
	}
	return true, err
}

// errErased means that what was to be restored has been erased since it was read.
var errErased = errors.New("it has been erased")
