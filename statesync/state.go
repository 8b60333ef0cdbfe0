package statesync

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"reflect"
	"slices"
	"time"

	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/event"
)

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
	return d.Ref().Compare(o.Ref())
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
