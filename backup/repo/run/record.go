package run

import (
	"fmt"
	"time"

	"github.com/google/uuid"

	"rootstream/internal/proc"
)

// Info says who is about to write, and what for.
type Info struct {
	Kind   string // "backup", "prune" …; a later run of the same kind can resume
	Lease  string // runs with the same lease exclude each other; "" takes none
	Host   string // for people; "" means the name of this one
	System uint64 // the cluster whose data is written; 0 means none
}

// The states of a run. Others may declare it dead; then it commits nothing any more.
const (
	Running    = "running"
	Committing = "committing" // its manifest may be there
	Committed  = "committed"
	Dead       = "dead"
)

// Record is the fence of a run: it is changed by compare-and-swap alone.
type Record struct {
	ID       uuid.UUID     `json:"id"`
	Kind     string        `json:"kind"`
	Lease    string        `json:"lease,omitempty"`
	Host     string        `json:"host"`
	Process  proc.Stamp    `json:"process"`
	Started  time.Time     `json:"started"`
	TTL      time.Duration `json:"ttl"`
	State    string        `json:"state"`
	Manifest string        `json:"manifest,omitempty"` // the object, once committing
	Seen     []string      `json:"seen"`               // deletions that it knows of, and keeps clear of
	Ready    bool          `json:"ready"`              // Seen is filled in
	Beat     uint64        `json:"beat"`

	Damage error `json:"-"` // why the object cannot be read: all that is known then is its name, and whether its run can write any more
}

const sessionsPrefix = "sessions/"

// Object names the object that it is.
func (o *Record) Object() string { return sessionsPrefix + o.ID.String() }

// Mark is what the ids of the packs of the run have in common.
func (o *Record) Mark() [4]byte { return [4]byte(o.ID[:4]) }

// Over reports that it commits nothing any more.
func (o *Record) Over() bool { return o.State == Committed || o.State == Dead }

func (o *Record) damaged() bool { return o.Damage != nil }

// String tells people who it is.
func (o *Record) String() string {
	if o.damaged() {
		return o.Damage.Error()
	}
	return fmt.Sprintf("%s on %s (pid %d) since %s", o.Kind, o.Host, o.Process.PID, o.Started.Format(time.RFC3339))
}
