package statesync

import (
	"bytes"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"rootstream/cache"
	"rootstream/errs"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/statesync/feed"
	"rootstream/statesync/merge"
)

// Errors of this room; event's and postgres' come as they are.
var (
	ErrUnknownType = errs.New(errs.NotFound, "unknown_type", "there is no such type of state").
			WithHint("stream, user and session are built in; types of your own are named in the configuration under sync.types")
	ErrNotFound   = errs.New(errs.NotFound, "no_state", "there is no such entity")
	ErrReadOnly   = errs.New(errs.Forbidden, "read_only_type", "state of this type is changed elsewhere")
	ErrRejected   = errs.New(errs.Conflict, "update_rejected", "the change does not go together with one made meanwhile")
	ErrBusy       = errs.New(errs.Unavailable, "state_busy", "too many change this at once").WithRetryAfter(100 * time.Millisecond)
	ErrSlow       = errs.New(errs.Unavailable, "subscriber_slow", "the subscriber fell too far behind")
	ErrToken      = errs.New(errs.Malformed, "invalid_token", "the token is not one of ours")
	ErrOverloaded = errs.New(errs.Unavailable, "state_overloaded", "there is no room for more volatile state")
)

// Config says what a manager works with. DB and Log are needed, and Auth with Cache.
type Config struct {
	DB            *postgres.DB       // its OnCommit tells Log what transactions appended: see [event.Log.Committed]
	Log           *event.Log         // types are registered in its schema, by which it writes the snapshots that are read here
	Cache         *cache.Client      // nil means no Redis
	Auth          feed.Authenticator // *secret.Keyset
	Node          uuid.UUID          // zero means a new one
	Address       string             // told to other instances
	CacheBytes    int64              // documents kept in memory; 0 means 64 MiB
	SnapshotEvery time.Duration      // between full snapshots; 0 means only by command
	KeepSnapshots int                // full ones kept when one is taken on schedule, with their deltas; 0 means 10
	Registerer    prometheus.Registerer
	Logger        *slog.Logger     // nil means slog.Default
	Now           func() time.Time // nil means time.Now
}

// Class says where state of a type lives.
type Class uint8

// The classes.
const (
	Durable  Class = iota // in the event log: acknowledged after commit
	Volatile              // with the instances that contribute: gone with them
)

// Type describes entities of one kind.
type Type struct {
	Name        string
	Class       Class
	Join        merge.Docs // volatile: what the contributions amount to; nil means merge.Latest
	Rebase      Rebase     // durable: decides when a version check is lost; nil means that it is an error
	Fold        event.Fold // durable: what named events change; nil means nothing: only Update and Delete do
	FoldVersion int        // to be raised when Fold changes
	Reserved    []string   // top-level fields that only events of the type's own room change
	MaxBytes    int        // of a document's JSON; 0 means 64 KiB less what the event around it needs
	Hold        bool       // all entities stay in memory
	ReadOnly    bool       // changed only by events of the type's own room
	Once        bool       // what was deleted never comes back
}

const (
	eventOverhead = 32
	maxDocBytes   = 64<<10 - eventOverhead
	maxKeys       = 4096
	maxDepth      = 32
	maxKeyBytes   = 256
)

var typeForm = regexp.MustCompile(`^[a-z][a-z0-9_]{0,49}$`)

func (t Type) check() (Type, error) {
	var f errs.Fields
	if !typeForm.MatchString(t.Name) {
		f.Add("name", "must be lower-case letters, digits and _")
	}
	if t.Class > Volatile {
		f.Add("class", "must be durable or volatile")
	}
	if t.MaxBytes < 0 || t.MaxBytes > maxDocBytes {
		f.Add("max_bytes", "must be at most a little less than 64 KiB")
	}
	if t.MaxBytes == 0 {
		t.MaxBytes = maxDocBytes
	}
	if t.Join == nil {
		t.Join = merge.Latest()
	}
	return t, f.Err()
}

// fold is how statesync reads any event of the type.
func (t Type) fold(state map[string]any, e event.Event) (map[string]any, error) {
	switch verb := strings.TrimPrefix(e.Name, t.Name+"."); verb {
	case "changed", "restored":
		return foldChange(state, e)
	case "deleted":
		if t.Fold == nil {
			return map[string]any{deletedField: true}, nil
		}
	}
	if isChange(e) {
		return foldChange(state, e)
	}
	if t.Fold == nil {
		return state, nil
	}
	return t.Fold(state, e)
}

// deletedField marks the state of a deleted entity; documents have no field that begins with _.
const deletedField = "_deleted"

// changeField marks the data of events that Update appends under a name of the caller's.
const changeField = "_change"

// isChange reports whether the data of an event have the mark. What is inside of a field is the caller's, and says nothing.
func isChange(e event.Event) bool {
	if !bytes.Contains(e.Data, []byte(`"`+changeField+`"`)) {
		return false // most, and cheaply
	}
	fields, err := e.Fields()
	_, marked := fields[changeField]
	return err == nil && marked
}

// foldChange applies what Update appended: a merge patch, or the whole document.
func foldChange(state map[string]any, e event.Event) (map[string]any, error) {
	fields, err := e.Fields()
	if err != nil {
		return nil, err
	}
	if doc, ok := fields["doc"].(map[string]any); ok {
		return doc, nil
	}
	patch, ok := fields["patch"].(map[string]any)
	if !ok {
		return state, nil // not of our making
	}
	if state[deletedField] != nil {
		state = nil
	}
	return mergePatch(state, patch), nil
}
