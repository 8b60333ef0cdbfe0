package backup

import (
	"time"

	"rootstream/backup/wal"
)

// Type is how a backup was taken.
type Type string

// The types of backups. All but logical hold the whole cluster and can be
// restored by themselves; they differ in what they share with earlier ones.
const (
	Full         Type = "full"         // nothing
	Differential Type = "differential" // what the last full one stored
	Incremental  Type = "incremental"  // what any earlier one stored
	Logical      Type = "logical"      // a dump, for a database or a table, not for a point in time
)

// Types returns all types.
func Types() []Type { return []Type{Full, Differential, Incremental, Logical} }

// States of a backup.
const (
	StatusCompleted = "completed"
	StatusDamaged   = "damaged" // its manifest cannot be read, or a check found something wrong
)

// Backup is one backup as lists show it.
type Backup struct {
	ID          string         `json:"id"`
	Type        Type           `json:"type"`
	StartedAt   time.Time      `json:"started_at"`
	CompletedAt time.Time      `json:"completed_at"`
	SizeBytes   int64          `json:"size_bytes"`   // of the cluster
	StoredBytes int64          `json:"stored_bytes"` // what this backup added to the repository
	StartLSN    wal.LSN        `json:"start_lsn"`
	StopLSN     wal.LSN        `json:"stop_lsn"`
	Timeline    wal.TimelineID `json:"timeline"`
	Parent      string         `json:"parent,omitempty"` // what it shares with; deleting that is fine
	Status      string         `json:"status"`
	Proof       *Proof         `json:"proof"` // the newest test restore or verification
	Pinned      bool           `json:"pinned"`
	System      string         `json:"system_id"`
	Major       int            `json:"postgres_major"`
}

// Proof is what a test restore or a verification found.
type Proof struct {
	Kind    string    `json:"kind"` // test-restore or verify
	At      time.Time `json:"at"`
	OK      bool      `json:"ok"`
	Seconds float64   `json:"seconds"`
	Detail  string    `json:"detail,omitempty"`
}

// physical reports whether b holds a whole cluster.
func (b Backup) physical() bool { return b.Type != Logical }

// proven reports whether b was restored, and all was well.
func (b Backup) proven() bool { return b.Proof != nil && b.Proof.Kind == ProofRestore && b.Proof.OK }

// Kinds of proofs.
const (
	ProofRestore = "test-restore"
	ProofVerify  = "verify"
)
