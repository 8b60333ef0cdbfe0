package event

import (
	"encoding/json"
	"fmt"
	"maps"
	"sync"

	"rootstream/event/codec"
)

// Schema says what events mean: how the shapes their data had in the past
// become today's, and how an entity's state follows from its events. Register
// everything before it is used.
type Schema struct {
	upcasts map[string]map[int]Upcast
	folds   map[string]versionedFold
	codec   func() (*codec.Codec, error)
}

// Upcast turns data of one shape into data of the next.
type Upcast func(map[string]any) (map[string]any, error)

// Fold returns the state after e; it may change the one it gets, which is empty
// before the first event. Numbers in it, and in what [Event.Fields] returns,
// are json.Number: whatever else is put there comes back as one.
type Fold func(state map[string]any, e Event) (map[string]any, error)

type versionedFold struct {
	version int
	fold    Fold
}

// NewSchema knows no shape but the first, and for every type the default fold:
// the newest value of each field that the events carried.
func NewSchema() *Schema {
	return &Schema{
		upcasts: map[string]map[int]Upcast{}, folds: map[string]versionedFold{},
		codec: sync.OnceValues(func() (*codec.Codec, error) { return codec.New(maxState) }),
	}
}

// Upcast registers how data of the named event becomes shape from+1. Events
// say their shape in the field _v, unless it is 1.
func (s *Schema) Upcast(name string, from int, fn Upcast) {
	if s.upcasts[name] == nil {
		s.upcasts[name] = map[int]Upcast{}
	}
	s.upcasts[name][from] = fn
}

// Fold registers the fold of an aggregate type. Raise version when f changes:
// snapshots of other versions are not used.
func (s *Schema) Fold(aggregateType string, version int, f Fold) {
	s.folds[aggregateType] = versionedFold{version, f}
}

func (s *Schema) fold(aggregateType string) versionedFold {
	if f, ok := s.folds[aggregateType]; ok {
		return f
	}
	return versionedFold{fold: newestFields}
}

func newestFields(state map[string]any, e Event) (map[string]any, error) {
	fields, err := e.Fields()
	if err != nil {
		return nil, err
	}
	delete(fields, shapeField)
	maps.Copy(state, fields)
	return state, nil
}

// shapeField is where data says its shape.
const shapeField = "_v"

// newest brings e's data into the newest shape.
func (s *Schema) newest(e Event) (Event, error) {
	steps := s.upcasts[e.Name]
	if len(steps) == 0 || e.Erased() {
		return e, nil
	}
	fields, err := e.Fields()
	if err != nil {
		return Event{}, err
	}
	from, err := shape(fields)
	if err != nil {
		return Event{}, fmt.Errorf("the shape of %s version %d: %w", e.Ref(), e.Version, err)
	}
	now := from
	for ; steps[now] != nil; now++ {
		if fields, err = steps[now](fields); err != nil {
			return Event{}, fmt.Errorf("bring %s version %d from shape %d to %d: %w", e.Ref(), e.Version, now, now+1, err)
		}
	}
	if now == from {
		return e, nil
	}
	fields[shapeField] = now
	if e.Data, err = json.Marshal(fields); err != nil {
		return Event{}, fmt.Errorf("bring %s version %d to shape %d: %w", e.Ref(), e.Version, now, err)
	}
	return e, nil
}

// shape reads which shape data has.
func shape(fields map[string]any) (int, error) {
	switch v := fields[shapeField].(type) {
	case nil:
		return 1, nil
	case json.Number:
		if n, err := v.Int64(); err == nil && n > 1 && n < 1<<15 {
			return int(n), nil
		}
	case int:
		if v > 1 && v < 1<<15 {
			return v, nil
		}
	case float64:
		if v > 1 && v < 1<<15 && v == float64(int(v)) {
			return int(v), nil
		}
	}
	return 0, errShape
}
