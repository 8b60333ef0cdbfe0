package statesync

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/internal/wait"
	"rootstream/postgres"
)

// breathe waits a while before a race that was lost so many times is run again, the longer the more often it was.
func breathe(ctx context.Context, lost int) error {
	if lost == 0 {
		return nil // it only was not the newest that was read
	}
	most := time.Millisecond << min(lost, 6)
	if err := wait.For(ctx, rand.N(most)); err != nil { //nolint:gosec // jitter
		return ErrBusy.WithCause(err)
	}
	return nil
}

// UpdateOptions say under which condition and in whose name something changes.
type UpdateOptions struct {
	Expect         *int64     // version the entity must have; 0 means that it must not be there; nil means any
	There          bool       // it must be there, at whatever version: else ErrNotFound
	IdempotencyKey string     // the same update under the same key happens once
	Name           string     // of the event; "" means <type>.changed
	User, Actor    *uuid.UUID // whose audit trail it belongs to, and who did it
}

// Result is what an update came to.
type Result struct {
	Token   Token // for AtLeast
	Version int64
	Doc     Doc
	Changed bool // false: there was nothing to change, so nothing was appended
}

// Update changes an entity: fn gets its state, an empty one if it is not there, and changes Data. fn may be called
// several times. Without Expect the update is made whatever others do meanwhile, unless ctx ends first ([ErrBusy]); with
// it, a lost race is decided by the type's Rebase, or else is a [event.VersionError].
func (m *Manager) Update(ctx context.Context, ref event.Ref, fn func(*Doc) error, o UpdateOptions) (Result, error) {
	return m.change(ctx, ref, o, func(t Type, base Doc) (change, error) {
		if o.There && (base.Version == 0 || base.Deleted) {
			return change{}, ErrNotFound
		}
		d := base.clone()
		if err := fn(&d); err != nil {
			return change{}, err
		}
		return t.changeTo(base, d.Data, o.Name)
	})
}

// Patch is Update with an RFC 7396 merge patch.
func (m *Manager) Patch(ctx context.Context, ref event.Ref, patch json.RawMessage, o UpdateOptions) (Result, error) {
	p, err := decodeObject(patch)
	if err != nil {
		return Result{}, err
	}
	return m.Update(ctx, ref, func(d *Doc) error {
		d.Data = mergePatch(d.Data, p)
		return nil
	}, o)
}

// Delete ends an entity. It may be made again by Update.
func (m *Manager) Delete(ctx context.Context, ref event.Ref, o UpdateOptions) (Result, error) {
	end := func(t Type) change {
		return change{name: t.Name + ".deleted", data: map[string]any{}, next: Doc{Ref: ref, Deleted: true, Data: map[string]any{}}}
	}
	r, err := m.change(ctx, ref, o, func(t Type, base Doc) (change, error) {
		if base.Version == 0 || base.Deleted {
			return change{}, ErrNotFound
		}
		return end(t), nil
	})
	if errors.Is(err, ErrNotFound) && o.IdempotencyKey != "" { // perhaps this is what ended it
		t := m.types[ref.Type]
		gone, failed := m.read(ctx, t, ref, Latest())
		if failed != nil || !gone.Deleted {
			return r, cmp.Or(failed, err)
		}
		o.Expect = new(gone.Version - 1)
		before, known, failed := m.repeated(ctx, t, gone, o, func(t Type, _ Doc) (change, error) { return end(t), nil })
		if known || failed != nil {
			return before, failed
		}
	}
	return r, err
}

// Publish tells all who watch the entity something that does not change its state.
func (m *Manager) Publish(ctx context.Context, ref event.Ref, name string, data map[string]any, o UpdateOptions) (Result, error) {
	t, err := m.durable(ref)
	if err != nil {
		return Result{}, err
	}
	switch name {
	case t.Name + ".changed", t.Name + ".deleted", t.Name + ".restored", event.ErasureOf(t.Name), event.RedactionOf(t.Name):
		return Result{}, errs.NewInvalid("name", "is what changes of state are called")
	}
	if _, taken := data[changeField]; taken {
		return Result{}, errs.NewInvalid("data."+changeField, "is what changes of state carry")
	}
	e := o.event(ref, change{name: name, data: data}, event.Any)
	if o.Expect != nil {
		e.Expect = *o.Expect
	}
	done, err := m.cfg.Log.Append(ctx, e)
	if err != nil {
		return Result{}, err
	}
	return Result{Token: tokenAt(m.feed.Epoch(), done[0].Shard, done[0].Seq), Version: done[0].Version, Changed: true}, nil
}

// change is an event about to be appended, and the document after it.
type change struct {
	name string // "" means that nothing changes
	data map[string]any
	next Doc
	size int
}

// changeTo finds the smallest event that makes data of base.
func (t Type) changeTo(base Doc, data map[string]any, name string) (change, error) {
	to, size, err := t.normal(data)
	if err != nil {
		return change{}, err
	}
	if t.Once && base.Deleted {
		return change{}, ErrNotFound
	}
	there := base.Version > 0 && !base.Deleted
	patch, ok := diff(base.Data, to)
	if there && ok && len(patch) == 0 {
		return change{}, nil
	}
	var f errs.Fields
	for _, field := range t.Reserved {
		if !same(base.Data[field], to[field]) {
			f.Add(field, "is changed elsewhere")
		}
	}
	if err := f.Err(); err != nil {
		return change{}, err
	}
	c := change{name: name, next: Doc{Ref: base.Ref, Data: to}, size: size}
	if ok && there {
		c.data = map[string]any{"patch": patch}
	} else {
		c.data = map[string]any{"doc": to}
	}
	switch name {
	case "", t.Name + ".changed":
		c.name = t.Name + ".changed"
	case t.Name + ".deleted", event.ErasureOf(t.Name), event.RedactionOf(t.Name):
		return change{}, errs.NewInvalid("name", "is what the end of an entity, or of values, is called")
	default:
		c.data[changeField] = 1
	}
	return c, nil
}

func (o UpdateOptions) event(ref event.Ref, c change, expect int64) event.New {
	return event.New{
		Aggregate: ref, Name: c.name, Data: c.data, UserID: o.User, ActorID: o.Actor, Expect: expect, IdempotencyKey: o.IdempotencyKey,
	}
}

// change reads the state, lets decide say what is to happen, and appends it, until nobody comes in between.
func (m *Manager) change(
	ctx context.Context, ref event.Ref, o UpdateOptions, decide func(Type, Doc) (change, error),
) (Result, error) {
	t, err := m.durable(ref)
	if err != nil {
		return Result{}, err
	}
	if t.ReadOnly {
		return Result{}, ErrReadOnly
	}
	if o.Expect != nil && *o.Expect < 0 {
		return Result{}, errs.NewInvalid("expect", "must not be negative")
	}
	if err = m.gates.enter(ctx, ref); err != nil {
		return Result{}, err
	}
	defer m.gates.leave(ref)
	read := Local()
	for lost := 0; ; lost++ {
		r, again, err := m.try(ctx, t, ref, read, o, decide)
		if !again {
			return r, err
		}
		if err := breathe(ctx, lost); err != nil {
			return Result{}, err
		}
		read = Latest()
	}
}

// try is one attempt of change on a state read as r says; again if it was not the newest.
func (m *Manager) try( //nolint:revive // it is change's loop
	ctx context.Context, t Type, ref event.Ref, read Read, o UpdateOptions, decide func(Type, Doc) (change, error),
) (r Result, again bool, err error) {
	base, err := m.read(ctx, t, ref, read)
	if err != nil {
		return Result{}, false, err
	}
	if o.Expect != nil && *o.Expect != base.Version {
		if !read.latest {
			return Result{}, true, nil
		}
		r, err = m.tooLate(ctx, t, base, o, decide)
		return r, false, err
	}
	c, err := decide(t, base)
	if err != nil {
		return Result{}, !read.latest && errors.Is(err, ErrNotFound), err
	}
	if c.name == "" {
		if !read.latest { // there is no append to find out that it is old
			return Result{}, true, nil
		}
		r, err = m.nothing(ctx, t, base, o, decide)
		return r, false, err
	}
	r, err = m.changed(ctx, t, base, c, o, func() ([]event.Event, error) {
		return m.cfg.Log.Append(ctx, o.event(ref, c, base.Version))
	})
	_, lost := lostRace(err)
	return r, lost, err
}

// nothing answers for an update after which base is what it is. Perhaps the same update, asked for before, has made it so:
// then it is answered as then, since when others may have changed it, too.
func (m *Manager) nothing(
	ctx context.Context, t Type, base Doc, o UpdateOptions, decide func(Type, Doc) (change, error),
) (Result, error) {
	if o.IdempotencyKey != "" {
		o.Expect = new(base.Version - 1)
		if r, known, err := m.repeated(ctx, t, base, o, decide); known || err != nil {
			return r, err
		}
	}
	return m.unchanged(ctx, base)
}

// unchanged answers with what was read from PostgreSQL, where this instance may not be yet.
func (m *Manager) unchanged(ctx context.Context, d Doc) (Result, error) {
	heads, err := m.store.Heads(ctx)
	shard := d.Ref.Shard()
	return Result{Token: tokenAt(m.feed.Epoch(), shard, heads[shard]), Version: d.Version, Doc: d.clone()}, err
}

// is reports whether e was appended for c now: as the log tells of what was stored before, it is written in another way.
func (c change) is(e event.Event) bool {
	data, err := json.Marshal(c.data)
	return err == nil && bytes.Equal(data, e.Data)
}

// changed has c appended and answers for the event: one of now or, for whatever was wanted then, an earlier one under the same
// key. The place in memory is kept from before on, so that what came after c by the time c is put there is not hidden by it.
func (m *Manager) changed( //nolint:revive // all are of one update
	ctx context.Context, t Type, base Doc, c change, o UpdateOptions, appended func() ([]event.Event, error),
) (Result, error) {
	place, next, ok := m.memory.begin(base.Ref), c.next, false
	defer func() { m.memory.finish(place, next, c.size, t.Hold, ok) }()
	done, err := appended()
	if err != nil {
		return Result{}, err
	}
	e := done[0]
	r := Result{Token: tokenAt(m.feed.Epoch(), e.Shard, e.Seq), Version: e.Version, Changed: true}
	if e.Version != base.Version+1 || o.IdempotencyKey != "" && !c.is(e) {
		if r.Doc, _, err = m.replay(ctx, e.Ref(), e.Version); err != nil {
			err = stored(err)
		}
		return r, err
	}
	next.Version, next.At, ok = e.Version, e.At.UTC(), true
	r.Doc = next.clone()
	return r, nil
}

// stored is what went wrong once an update was stored: whoever is told that a part of ours is down, and nothing else, takes
// it for not stored. The same key makes it safe to ask again.
func stored(err error) error {
	return postgres.ErrCommitUnknown.WithCause(err).WithRetryAfter(time.Second)
}
