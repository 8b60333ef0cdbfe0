package statesync

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/event/codec"
	"rootstream/postgres"
)

// maxSnapshot bounds the content of a snapshot before compression.
const maxSnapshot = 256 << 20

const snapshotFormat = 1

// Errors of snapshots.
var (
	ErrNoSnapshot  = errs.New(errs.NotFound, "no_snapshot", "there is no such snapshot")
	ErrWrongBase   = errs.New(errs.Conflict, "snapshot_base", "the delta does not belong to this state")
	ErrBadSnapshot = errs.New(errs.Invalid, "snapshot_content", "the snapshot does not hold a state")
)

// State is all durable entities at one position of the log, ordered by type and id.
type State struct {
	Format int                 `json:"format"`
	Epoch  int64               `json:"epoch"`
	Vector [event.Shards]int64 `json:"vector"`
	Docs   []StateDoc          `json:"docs"`
}

// StateDoc is one entity of a State. A deleted one is kept: who applies a delta has to know.
type StateDoc struct {
	Type    string         `json:"type"`
	ID      uuid.UUID      `json:"id"`
	Version int64          `json:"version"`
	At      time.Time      `json:"at"`
	Deleted bool           `json:"deleted,omitempty"`
	Data    map[string]any `json:"data"`
}

// Ref names the entity.
func (d StateDoc) Ref() event.Ref { return event.Ref{Type: d.Type, ID: d.ID} }

func (d StateDoc) doc() Doc {
	return Doc{Ref: d.Ref(), Version: d.Version, At: d.At, Deleted: d.Deleted, Data: d.Data}
}

func stateDoc(d Doc) StateDoc {
	return StateDoc{d.Ref.Type, d.Ref.ID, d.Version, d.At.UTC(), d.Deleted, d.Data}
}

func (d StateDoc) compare(o StateDoc) int {
	return cmp.Or(strings.Compare(d.Type, o.Type), bytes.Compare(d.ID[:], o.ID[:]))
}

// Bytes is the one way to write a state: equal states have equal bytes.
func (s State) Bytes() ([]byte, error) { return json.Marshal(s) }

func readContent(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return ErrBadSnapshot.WithCause(err)
	}
	return nil
}

// Delta is what makes one state of another.
type Delta struct {
	Format int                 `json:"format"`
	Base   []byte              `json:"base"`   // SHA-256 of the state it is applied to
	Result []byte              `json:"result"` // and of the one it makes
	Epoch  int64               `json:"epoch"`
	Vector [event.Shards]int64 `json:"vector"`
	Docs   []StateDoc          `json:"docs"` // new or changed
	Gone   []StateDoc          `json:"gone"` // no longer part of it; only type and id are set
}

// Diff finds the delta from one state to another.
func Diff(from, to State) (Delta, error) {
	d := Delta{Format: snapshotFormat, Epoch: to.Epoch, Vector: to.Vector}
	for _, part := range []struct {
		s   State
		sum *[]byte
	}{{from, &d.Base}, {to, &d.Result}} {
		b, err := part.s.Bytes()
		if err != nil {
			return Delta{}, err
		}
		sum := sha256.Sum256(b)
		*part.sum = sum[:]
	}
	had := make(map[event.Ref]StateDoc, len(from.Docs))
	for _, doc := range from.Docs {
		had[doc.Ref()] = doc
	}
	for _, doc := range to.Docs {
		if old, ok := had[doc.Ref()]; !ok || !reflect.DeepEqual(old, doc) {
			d.Docs = append(d.Docs, doc)
		}
		delete(had, doc.Ref())
	}
	for ref := range had {
		d.Gone = append(d.Gone, StateDoc{Type: ref.Type, ID: ref.ID})
	}
	slices.SortFunc(d.Gone, StateDoc.compare)
	return d, nil
}

// Apply makes the state after d of the one before, byte for byte. Any other state is refused.
func (d Delta) Apply(s State) (State, error) {
	b, err := s.Bytes()
	if err != nil {
		return State{}, err
	}
	if sum := sha256.Sum256(b); !bytes.Equal(sum[:], d.Base) {
		return State{}, ErrWrongBase
	}
	out := State{Format: s.Format, Epoch: d.Epoch, Vector: d.Vector}
	changed := make(map[event.Ref]bool, len(d.Docs)+len(d.Gone))
	for _, doc := range d.Docs {
		changed[doc.Ref()] = true
		out.Docs = append(out.Docs, doc)
	}
	for _, doc := range d.Gone {
		changed[doc.Ref()] = true
	}
	for _, doc := range s.Docs {
		if !changed[doc.Ref()] {
			out.Docs = append(out.Docs, doc)
		}
	}
	slices.SortFunc(out.Docs, StateDoc.compare)
	if b, err = out.Bytes(); err != nil {
		return State{}, err
	}
	if sum := sha256.Sum256(b); !bytes.Equal(sum[:], d.Result) {
		return State{}, ErrWrongBase
	}
	return out, nil
}

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
	s, err := m.Current(ctx)
	if err != nil {
		return SnapshotInfo{}, err
	}
	b, err := s.Bytes()
	if err != nil {
		return SnapshotInfo{}, err
	}
	return m.keep(ctx, codec.Full, nil, s, b)
}

// SnapshotDelta stores what has changed since a snapshot.
func (m *Manager) SnapshotDelta(ctx context.Context, since uuid.UUID) (SnapshotInfo, error) {
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
	return m.keep(ctx, codec.Delta, &since, to, b)
}

func (m *Manager) keep(ctx context.Context, kind byte, base *uuid.UUID, s State, content []byte) (SnapshotInfo, error) {
	if len(content) > maxSnapshot {
		return SnapshotInfo{}, codec.ErrTooLarge
	}
	c, err := codec.New(maxSnapshot)
	if err != nil {
		return SnapshotInfo{}, err
	}
	b, err := s.Bytes()
	if err != nil {
		return SnapshotInfo{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return SnapshotInfo{}, err
	}
	word, sum := "full", sha256.Sum256(b)
	if kind == codec.Delta {
		word = "delta"
	}
	rows, _ := m.cfg.DB.Query(ctx, `insert into sync_snapshots (id, kind, base, epoch, vector, entities, sha256, content)
		values ($1, $2, $3, $4, $5, $6, $7, $8) returning `+infoColumns,
		id, word, base, s.Epoch, s.Vector[:], len(s.Docs), sum[:], c.Encode(kind, content))
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
		events, err := m.store.Since(ctx, at, 1000)
		if err != nil {
			return State{}, err
		}
		past := true
		for _, e := range events {
			at[e.Shard] = e.Seq
			if e.Seq > heads[e.Shard] {
				continue
			}
			past = false
			if err := m.fold(ctx, docs, e); err != nil {
				return State{}, err
			}
		}
		if past {
			return m.stateOf(epoch, heads, docs), nil
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
		if next, _, err = m.replay(ctx, t, ref, e.Version); err != nil {
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
				if docs[ref], _, err = m.replay(ctx, t, ref, v.Version); err != nil {
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

// RestoreSnapshot makes the entities what they were in a snapshot, by updates of their own; what came into being since
// is left alone. It returns how many differed; with dry, that is all it does.
func (m *Manager) RestoreSnapshot(ctx context.Context, id uuid.UUID, actor *uuid.UUID, dry bool) (int, error) {
	s, err := m.LoadSnapshot(ctx, id)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, want := range s.Docs {
		differs, err := m.restore(ctx, want, actor, dry)
		if err != nil {
			return n, fmt.Errorf("restore %s: %w", want.Ref(), err)
		}
		if differs {
			n++
		}
	}
	return n, nil
}

// restore makes one entity what it was and reports whether it was something else.
func (m *Manager) restore(ctx context.Context, want StateDoc, actor *uuid.UUID, dry bool) (differs bool, err error) {
	t, ok := m.types[want.Type]
	if !ok || t.ReadOnly || t.Class != Durable {
		return false, nil
	}
	have, err := m.read(ctx, t, want.Ref(), Latest())
	if err != nil || (have.Deleted == want.Deleted && reflect.DeepEqual(have.Data, want.Data)) {
		return false, err
	}
	if dry {
		return true, nil
	}
	o := UpdateOptions{Actor: actor}
	if want.Deleted {
		_, err = m.Delete(ctx, want.Ref(), o)
		return true, err
	}
	_, err = m.Update(ctx, want.Ref(), func(d *Doc) error {
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
	return true, err
}
