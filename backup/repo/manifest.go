package repo

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"rootstream/backup/repo/files"
	"rootstream/backup/repo/logs"
	"rootstream/backup/repo/pack"
	"rootstream/backup/wal"
)

// Type is what a backup shares with earlier ones.
type Type string

// The types of backups.
const (
	Full         Type = "full"         // nothing
	Differential Type = "differential" // with the last full one
	Incremental  Type = "incremental"  // with the last of any type
	Logical      Type = "logical"      // dumps of databases
)

// Manifest is a backup: all that is needed to restore it. It is one sealed
// object; a backup exists once it does.
type Manifest struct {
	ID            string            `json:"id"`
	Parent        string            `json:"parent,omitempty"` // for people: a restore needs it not
	Type          Type              `json:"type"`
	Cluster       Cluster           `json:"cluster"`
	Started       time.Time         `json:"started"`
	Completed     time.Time         `json:"completed"`
	StartLSN      wal.LSN           `json:"start_lsn"`
	StopLSN       wal.LSN           `json:"stop_lsn"`
	StartTimeline wal.TimelineID    `json:"start_timeline"`
	StopTimeline  wal.TimelineID    `json:"stop_timeline"`
	Label         []byte            `json:"label,omitempty"`          // backup_label, byte for byte
	TablespaceMap []byte            `json:"tablespace_map,omitempty"` // byte for byte
	Tablespaces   []Tablespace      `json:"tablespaces,omitempty"`
	Files         []Blob            `json:"files,omitempty"` // the stream of files: see Repo.Files
	FileCount     int64             `json:"file_count"`
	Size          int64             `json:"size"`            // bytes of data
	Stored        int64             `json:"stored"`          // bytes that this backup added to the repository
	Packs         []PackID          `json:"packs,omitempty"` // every pack that is needed, in order
	Checksums     bool              `json:"checksums"`       // page checksums were checked
	PageErrors    int64             `json:"page_errors"`
	Settings      map[string]string `json:"settings,omitempty"` // what recovery needs at least, versions of collations and extensions
	FromStandby   bool              `json:"from_standby"`
	Pinned        bool              `json:"-"` // an object beside the manifest says so
	Databases     []Database        `json:"databases,omitempty"`
	Tool          string            `json:"tool,omitempty"`
	Compression   Compression       `json:"compression"`
	Source        string            `json:"source,omitempty"` // host, folder and identity of the data folder
	Annotations   map[string]string `json:"annotations,omitempty"`
	Run           uuid.UUID         `json:"run"` // the session that wrote it; Commit fills it in
}

// Cluster is what a backup can be restored with.
type Cluster struct {
	SystemID      uint64 `json:"system_id,string"`
	Major         int    `json:"major"`
	Catalog       uint32 `json:"catalog"`
	SegmentSize   uint32 `json:"segment_size"` // of WAL
	BlockSize     uint32 `json:"block_size"`
	DataChecksums bool   `json:"data_checksums"`
}

// Tablespace is a folder outside the data folder.
type Tablespace struct {
	OID      uint32 `json:"oid"`
	Location string `json:"location"`
}

// Database is one that a backup holds.
type Database struct {
	OID  uint32 `json:"oid"`
	Name string `json:"name"`
}

func backupsPrefix(system uint64) string { return logs.Prefix(system) + "backups/" }

func (m *Manifest) prefix() string { return backupsPrefix(m.Cluster.SystemID) + m.ID + "/" }
func (m *Manifest) object() string { return m.prefix() + "manifest" }

// backupName is the name of a backup's object, taken apart.
type backupName struct {
	system uint64
	id     string
	part   string // "manifest", "pinned", "proof-…", "settled"
}

func parseBackupName(name string) (backupName, bool) {
	f := strings.Split(name, "/")
	if len(f) != 5 || f[2] != "backups" || !validID(f[3]) {
		return backupName{}, false
	}
	system, err := strconv.ParseUint(f[1], 10, 64)
	return backupName{system, f[3], f[4]}, err == nil && strings.HasPrefix(name, backupsPrefix(system))
}

// validID accepts ids of letters, digits and hyphens.
func validID(id string) bool {
	return id != "" && len(id) <= 64 && strings.Trim(id, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-") == ""
}

// check refuses a manifest that no backup can have.
func (m *Manifest) check() error {
	switch {
	case !validID(m.ID):
		return fmt.Errorf("id %q: it has up to 64 letters, digits and hyphens", m.ID)
	case m.Cluster.SystemID == 0:
		return fmt.Errorf("backup %s has no system identifier", m.ID)
	case m.Type != Full && m.Type != Differential && m.Type != Incremental && m.Type != Logical:
		return fmt.Errorf("backup %s has type %q", m.ID, m.Type)
	case m.FileCount > 0 && len(m.Files) == 0:
		return fmt.Errorf("backup %s has files, and no list of them", m.ID)
	case m.FileCount < 0 || m.Size < 0 || m.Stored < 0 || m.StopLSN < m.StartLSN && m.StartTimeline == m.StopTimeline:
		return fmt.Errorf("backup %s has sizes or positions that cannot be", m.ID)
	case !slices.IsSortedFunc(m.Packs, pack.Compare):
		return fmt.Errorf("backup %s: its packs are out of order", m.ID)
	}
	for _, b := range m.Files {
		if _, found := slices.BinarySearchFunc(m.Packs, b.Pack, pack.Compare); !found {
			return fmt.Errorf("backup %s does not name the pack of its own files", m.ID)
		}
	}
	return nil
}

// list is where the manifest's files are.
func (m *Manifest) list() files.List {
	return files.List{Of: m.object(), Blobs: m.Files, Count: m.FileCount}
}

// header is the manifest without its long lists.
func (m Manifest) header() Manifest {
	m.Files, m.Packs = nil, nil
	return m
}

func compareManifests(a, b Manifest) int {
	return cmp.Or(cmp.Compare(a.Cluster.SystemID, b.Cluster.SystemID), cmp.Compare(a.StopTimeline, b.StopTimeline),
		cmp.Compare(a.StopLSN, b.StopLSN), cmp.Compare(a.ID, b.ID))
}
