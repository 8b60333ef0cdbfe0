package statesync

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"

	"rootstream/event"
	"rootstream/postgres"
)

// Verdict is what becomes of a change that came too late.
type Verdict uint8

// The verdicts.
const (
	Retry      Verdict = iota // what Rebase returned is to be the state
	KeepTheirs                // what is there stays; the update is answered as if it had changed nothing
	Reject                    // the update fails with ErrRejected
)

// String is the verdict in words.
func (v Verdict) String() string { return [...]string{"retry", "keep_theirs", "reject"}[v] }

// Rebase decides about a change to base that was made while base became theirs. It must change none of them.
type Rebase func(base, theirs, mine map[string]any) (map[string]any, Verdict)

// KeepMine lets the later change win as a whole.
func KeepMine(_, _, mine map[string]any) (map[string]any, Verdict) { return mine, Retry }

// DropMine lets the earlier change win as a whole.
func DropMine(_, theirs, _ map[string]any) (map[string]any, Verdict) { return theirs, KeepTheirs }

// PerField applies the fields that mine changed to theirs. A field that both changed differently is decided by its
// rule; without one the later change wins.
func PerField(rules map[string]FieldRule) Rebase {
	return func(base, theirs, mine map[string]any) (map[string]any, Verdict) {
		out := maps.Clone(theirs)
		if out == nil {
			out = map[string]any{}
		}
		keys := maps.Clone(base)
		if keys == nil {
			keys = map[string]any{}
		}
		maps.Copy(keys, mine)
		for k := range keys {
			if reflect.DeepEqual(base[k], mine[k]) {
				continue
			}
			v, stays := mine[k]
			if rule := rules[k]; rule != nil && !reflect.DeepEqual(base[k], theirs[k]) {
				v, stays = rule(base[k], theirs[k], mine[k]), true
			}
			if stays {
				out[k] = v
			} else {
				delete(out, k)
			}
		}
		return out, Retry
	}
}

// FieldRule decides about one field that both changed; nil stands for a field that is not there.
type FieldRule func(base, theirs, mine any) any

// MaxField keeps the greater number.
func MaxField(_, theirs, mine any) any {
	if float(theirs) > float(mine) {
		return theirs
	}
	return mine
}

// AddField counts both changes of a number.
func AddField(base, theirs, mine any) any { return float(theirs) + float(mine) - float(base) }

// LatticeField keeps the word that comes later in order.
func LatticeField(order ...string) FieldRule {
	return func(_, theirs, mine any) any {
		t, _ := theirs.(string)
		w, _ := mine.(string)
		if cmp.Compare(slices.Index(order, t), slices.Index(order, w)) > 0 {
			return theirs
		}
		return mine
	}
}

func float(v any) float64 {
	n, _ := v.(json.Number)
	f, err := n.Float64()
	if err != nil {
		return 0
	}
	return f
}

// tooLate decides about an update that expected an older version than theirs, until nobody comes in between.
func (m *Manager) tooLate(
	ctx context.Context, t Type, theirs Doc, o UpdateOptions, decide func(Type, Doc) (change, error),
) (Result, error) {
	for lost := 1; ; lost++ {
		r, err := m.judge(ctx, t, theirs, o, decide)
		if !errors.Is(err, errAgain) {
			return r, err
		}
		if err = breathe(ctx, lost); err != nil {
			return Result{}, err
		}
		if theirs, err = m.read(ctx, t, theirs.Ref, Latest()); err != nil {
			return Result{}, err
		}
	}
}

// errAgain is judge's answer if theirs changed once more.
var errAgain = errors.New("the state has changed meanwhile")

func (m *Manager) judge(
	ctx context.Context, t Type, theirs Doc, o UpdateOptions, decide func(Type, Doc) (change, error),
) (Result, error) {
	late := &event.VersionError{Entity: theirs.Ref, Expected: *o.Expect, Actual: theirs.Version}
	if *o.Expect > theirs.Version {
		return Result{}, late
	}
	if o.IdempotencyKey != "" { // perhaps it is our own update that is there
		if r, known, err := m.repeated(ctx, t, theirs, o, decide); known || err != nil {
			return r, err
		}
	}
	if t.Rebase == nil {
		return Result{}, late
	}
	base := Doc{Ref: theirs.Ref, Data: map[string]any{}}
	if *o.Expect > 0 {
		var err error
		if base, _, err = m.replay(ctx, theirs.Ref, *o.Expect); err != nil {
			return Result{}, err
		}
	}
	c, err := decide(t, base)
	if err != nil || c.name == "" || c.next.Deleted {
		return Result{}, cmp.Or[error](err, late)
	}
	r, err := m.rebase(ctx, t, base, theirs, c.next, o)
	if errors.Is(err, event.ErrDuplicate) { // our own has come there on another way
		before, known, failed := m.repeated(ctx, t, theirs, o, decide)
		if known || failed != nil {
			return before, failed
		}
	}
	return r, err
}

// rebase has the type decide between theirs and mine, notes what it decided, and does it.
func (m *Manager) rebase(ctx context.Context, t Type, base, theirs, mine Doc, o UpdateOptions) (r Result, err error) { //nolint:revive // three are the decision's
	data, verdict := t.Rebase(cloneMap(base.Data), cloneMap(theirs.Data), cloneMap(mine.Data))
	var c change
	if verdict == Retry {
		if c, err = t.changeTo(theirs, data, o.Name); err != nil {
			return Result{}, err
		}
	}
	decided := m.decided(verdict, base, theirs, mine, c)
	if c.name != "" {
		return m.overrule(ctx, t, theirs, c, decided, o)
	}
	if err = noteAlone(ctx, m.cfg.DB, decided); err != nil {
		return Result{}, err
	}
	if verdict == Reject {
		return Result{}, ErrRejected
	}
	return m.unchanged(ctx, theirs)
}

// overrule puts c in the place of theirs and the decision into the conflict log, both or none.
func (m *Manager) overrule(ctx context.Context, t Type, theirs Doc, c change, decided conflict, o UpdateOptions) (Result, error) { //nolint:revive // all are of one update
	r, err := m.changed(ctx, t, theirs, c, o, func() (done []event.Event, err error) {
		err = m.cfg.DB.InTx(ctx, func(tx *postgres.Tx) error {
			tx.AfterCommit(func() { done = event.Appended(tx) })
			if failed := event.Append(tx, o.event(theirs.Ref, c, theirs.Version)); failed != nil {
				return failed
			}
			return note(ctx, tx, decided)
		})
		return done, err
	})
	if _, lost := lostRace(err); lost {
		return Result{}, errAgain
	}
	return r, err
}

// repeated asks the log whether the update's key is there already: then it answers with what it did.
func (m *Manager) repeated(
	ctx context.Context, t Type, theirs Doc, o UpdateOptions, decide func(Type, Doc) (change, error),
) (Result, bool, error) {
	c, err := decide(t, theirs)
	if err != nil {
		return Result{}, false, nil //nolint:nilerr // it is judged again, on the state it was made for
	}
	if c.name == "" {
		c.name, c.data = cmp.Or(o.Name, t.Name+".changed"), map[string]any{}
	}
	done, err := m.cfg.Log.Append(ctx, o.event(theirs.Ref, c, *o.Expect)) // a version that is gone: only the key can succeed
	if err != nil {
		if _, lost := lostRace(err); lost {
			return Result{}, false, nil
		}
		return Result{}, false, err
	}
	d, _, err := m.replay(ctx, theirs.Ref, done[0].Version)
	if err != nil {
		err = stored(err)
	}
	return Result{Token: tokenAt(m.feed.Epoch(), done[0].Shard, done[0].Seq), Version: done[0].Version, Doc: d, Changed: true}, true, err
}
