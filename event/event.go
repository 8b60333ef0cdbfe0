package event

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"rootstream/errs"
)

// Shards is the number of gapless sequences the log is spread over.
const Shards = 16

const (
	maxData   = 64 << 10 // bytes of one event's JSON
	maxBatch  = 1000     // events of one commit of many callers
	maxEvents = 200_000  // events of one transaction: all sessions of an account may end in one
)

// Any as New.Expect appends after whatever version is there.
const Any int64 = -1

// Errors of the log.
var (
	ErrInvalid   = errs.New(errs.Invalid, "invalid_event", "the event is not valid")
	ErrVersion   = errs.New(errs.Conflict, "version_conflict", "the entity has changed since it was read")
	ErrDuplicate = errs.New(errs.Conflict, "duplicate_event", "an event with this idempotency key is there already")
	ErrNotFound  = errs.New(errs.NotFound, "no_events", "the entity has no event at that time")
	ErrPruned    = errs.New(errs.Gone, "events_pruned", "events that old are no longer kept")
	errShape     = errs.NewInvalid("data."+shapeField, "must be a whole number greater than 1, or left out")
	// ErrOverloaded and ErrStopped mean that nothing was stored.
	ErrOverloaded = errs.New(errs.Unavailable, "event_log_overloaded", "more events wait than can be stored in time")
	ErrStopped    = errs.New(errs.Unavailable, "event_log_stopped", "the event log is shutting down")
)

// VersionError is an [ErrVersion] that tells the version the entity really has.
type VersionError struct {
	Entity           Ref
	Expected, Actual int64
}

// Error says which version was expected and which is there.
func (e *VersionError) Error() string {
	return fmt.Sprintf("%s is at version %d, not %d", e.Entity, e.Actual, e.Expected)
}

// Unwrap makes it an [ErrVersion].
func (e *VersionError) Unwrap() error { return ErrVersion }

// Ref names an entity.
type Ref struct {
	Type string    // lower case: user, session, stream, factor
	ID   uuid.UUID // its public id
}

// String is type:id.
func (r Ref) String() string { return r.Type + ":" + r.ID.String() }

// Compare orders by type, then by id.
func (r Ref) Compare(o Ref) int {
	return cmp.Or(strings.Compare(r.Type, o.Type), bytes.Compare(r.ID[:], o.ID[:]))
}

// Shard is where the entity's events are numbered; event_shard() in SQL agrees.
func (r Ref) Shard() int { return int(r.ID[15] & 15) }

// New is an event about to be appended.
type New struct {
	Aggregate      Ref
	Name           string         // aggregate.what_happened
	Data           map[string]any // ids and field names; at most 64 KiB of JSON
	UserID         *uuid.UUID     // whose audit trail it belongs to
	ActorID        *uuid.UUID     // who did it, where that is somebody else
	Expect         int64          // version the entity must have now; 0 means it must be new, Any means whatever
	IdempotencyKey string         // at most once in the log; "" means no such check
}

// Event is an appended event.
type Event struct {
	Shard         int             `json:"-"`
	Seq           int64           `json:"-"`
	AggregateType string          `json:"aggregate_type"`
	AggregateID   uuid.UUID       `json:"aggregate_id"`
	Version       int64           `json:"version"`
	Name          string          `json:"name"`
	Data          json.RawMessage `json:"data"`
	UserID        *uuid.UUID      `json:"user_id,omitempty"`
	ActorID       *uuid.UUID      `json:"actor_id,omitempty"`
	At            time.Time       `json:"at"`
}

// Ref names the entity that the event is of.
func (e Event) Ref() Ref { return Ref{e.AggregateType, e.AggregateID} }

// Erased reports whether the values of the event's data were erased: see [Erase].
func (e Event) Erased() bool { return bytes.HasPrefix(e.Data, []byte(`{"erased": true, "fields": [`)) }

// Erases reports whether the event is an entity's erasure: its state starts anew.
func (e Event) Erases() bool { return e.is(erasure) }

// Redacts reports whether the event tells that others of the entity have lost their values: see [Redact].
func (e Event) Redacts() bool { return e.is(redaction) }

func (e Event) is(verb string) bool {
	return len(e.Name) == len(e.AggregateType)+len(verb) && strings.HasSuffix(e.Name, verb)
}

// What the events of erasures are called, after the type of the entity.
const (
	erasure   = ".erased"
	redaction = ".redacted"
)

// ErasureOf is the name of an erasure of an entity of a type.
func ErasureOf(aggregateType string) string { return aggregateType + erasure }

// RedactionOf is the name of a redaction of an entity of a type.
func RedactionOf(aggregateType string) string { return aggregateType + redaction }

// Fields returns the event's data; its numbers are json.Number.
func (e Event) Fields() (map[string]any, error) {
	fields, err := decode(e.Data)
	if err != nil {
		return nil, fmt.Errorf("read the data of %s version %d: %w", e.Ref(), e.Version, err)
	}
	return fields, nil
}

// decode reads a JSON object; numbers stay as they are written.
func decode(b []byte) (map[string]any, error) {
	object, ok := ReadObject(b)
	if ok {
		return object, nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&object); err != nil {
		return nil, err
	}
	return object, nil
}

// named reports whether s is a word, or two with a point between them.
func named(s string) bool {
	first, second, two := strings.Cut(s, ".")
	return word(first, 50) && 'a' <= first[0] && first[0] <= 'z' && (!two || word(second, 49))
}

// word reports whether s is lower-case letters, digits and _, and how many there may be.
func word(s string, most int) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || 'z' < c) && (c < '0' || '9' < c) && c != '_' {
			return false
		}
	}
	return 0 < len(s) && len(s) <= most
}

// check returns the event's data as JSON, or what is wrong with it.
func (n New) check() (json.RawMessage, error) {
	var f errs.Fields
	if !named(n.Aggregate.Type) {
		f.Add("aggregate_type", "must be lower-case letters, digits and _")
	}
	if n.Aggregate.ID == uuid.Nil {
		f.Add("aggregate_id", "must be a UUID that is not all zero")
	}
	if !named(n.Name) {
		f.Add("name", "must look like stream.started")
	}
	if n.Expect < Any {
		f.Add("expect", "must be a version, or -1 for any")
	}
	if len(n.IdempotencyKey) > 200 {
		f.Add("idempotency_key", "must be at most 200 bytes")
	}
	if _, err := shape(n.Data); err != nil {
		f.Add("data."+shapeField, "must be a whole number greater than 1, or left out")
	}
	if _, ok := n.Data["erased"]; ok {
		f.Add("data.erased", "is what tells that data was erased: choose another name")
	}
	data := json.RawMessage("{}")
	if n.Data != nil {
		b, err := appendObject(make([]byte, 0, 64), n.Data, 0)
		switch {
		case err != nil:
			f.Add("data", "must be JSON")
		case len(b) > maxData:
			f.Add("data", "must be at most 64 KiB of JSON")
		default:
			data = b
		}
	}
	return data, f.Err()
}
