package backup

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"rootstream/backup/repo"
	"rootstream/backup/wal"
)

// Type is what a backup shares with earlier ones. All but logical hold the whole
// cluster and can be restored by themselves.
type Type = repo.Type

// The types of backups.
const (
	Full         = repo.Full         // shares nothing
	Differential = repo.Differential // what the last full one stored
	Incremental  = repo.Incremental  // what the last one of any type stored
	Logical      = repo.Logical      // a dump, for a database or a table, not for a point in time
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
	Parent      string         `json:"parent"` // what it shares with; deleting that is fine
	Status      string         `json:"status"`
	Proof       *Proof         `json:"proof"` // the newest test restore or verification
	Pinned      bool           `json:"pinned"`
	PageErrors  int64          `json:"page_errors"` // pages with a wrong checksum when it was taken
	System      string         `json:"system_id"`
	Major       int            `json:"postgres_major"`
	Fault       string         `json:"fault,omitempty"` // what is damaged
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

// Details is all that is known of one backup.
type Details struct {
	Backup
	Databases   []string `json:"databases"`
	Tablespaces []Pair   `json:"tablespaces"` // OID and place
	Files       int64    `json:"files"`
	Packs       int      `json:"packs"`
	Checksums   bool     `json:"checksums"` // page checksums were checked
	FromStandby bool     `json:"from_standby"`
	Compression string   `json:"compression"`
	Tool        string   `json:"tool"`
	Settings    []Pair   `json:"settings"` // that a server needs at least to recover from it
	Annotations []Pair   `json:"annotations"`
	Proofs      []Proof  `json:"proofs"`
}

// Pair is something with a name.
type Pair struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func pairs(of map[string]string) []Pair {
	all := make([]Pair, 0, len(of))
	for _, name := range slices.Sorted(maps.Keys(of)) {
		all = append(all, Pair{name, of[name]})
	}
	return all
}

func backupsOf(entries []repo.Entry) []Backup {
	all := make([]Backup, 0, len(entries))
	for _, e := range entries {
		all = append(all, backupOf(e))
	}
	return all
}

func backupOf(e repo.Entry) Backup {
	m := e.Manifest
	b := Backup{
		ID: m.ID, Type: m.Type, StartedAt: m.Started, CompletedAt: m.Completed, SizeBytes: m.Size, StoredBytes: m.Stored,
		StartLSN: m.StartLSN, StopLSN: m.StopLSN, Timeline: m.StopTimeline, Parent: m.Parent, Status: StatusCompleted,
		Pinned: m.Pinned, PageErrors: m.PageErrors, System: strconv.FormatUint(m.Cluster.SystemID, 10), Major: m.Cluster.Major,
	}
	slices.SortStableFunc(e.Proofs, func(a, b repo.Proof) int { return a.At.Compare(b.At) })
	if len(e.Proofs) > 0 {
		last := proofOf(e.Proofs[len(e.Proofs)-1])
		b.Proof = &last
		if restored := lastRestore(e.Proofs); last.OK && restored != nil {
			b.Proof = restored // to have been restored says more than to have been read
		}
		if !last.OK {
			b.Status, b.Fault = StatusDamaged, last.Detail
		}
	}
	if e.Err != nil {
		b.Status, b.Fault = StatusDamaged, e.Err.Error()
	}
	return b
}

func proofOf(p repo.Proof) Proof {
	return Proof{Kind: p.Kind, At: p.At, OK: p.OK, Seconds: p.Took.Seconds(), Detail: p.Detail}
}

// lastRestore returns the newest test restore, nil if there is none that went well.
func lastRestore(proofs []repo.Proof) *Proof {
	for _, p := range slices.Backward(proofs) {
		if p.Kind == ProofRestore && p.OK {
			last := proofOf(p)
			return &last
		}
	}
	return nil
}

func detailsOf(e repo.Entry, m repo.Manifest) Details {
	d := Details{
		Backup: backupOf(e), Files: m.FileCount, Packs: len(m.Packs), Checksums: m.Checksums, FromStandby: m.FromStandby,
		Compression: m.Compression.Name, Tool: m.Tool, Settings: pairs(m.Settings), Annotations: pairs(m.Annotations),
		Databases: []string{}, Tablespaces: []Pair{}, Proofs: []Proof{},
	}
	for _, db := range m.Databases {
		d.Databases = append(d.Databases, db.Name)
	}
	for _, t := range m.Tablespaces {
		d.Tablespaces = append(d.Tablespaces, Pair{strconv.FormatUint(uint64(t.OID), 10), t.Location})
	}
	for _, p := range e.Proofs {
		d.Proofs = append(d.Proofs, proofOf(p))
	}
	return d
}
