package ledger

import (
	"time"

	"rootstream/backup/wal"
)

// Status is how the archive of a cluster stands.
type Status struct {
	SystemID uint64         `json:"system_id"`
	Timeline wal.TimelineID `json:"timeline"`     // the newest that is archived
	From     wal.LSN        `json:"from_lsn"`     // since then there is no gap on that timeline
	Archived wal.LSN        `json:"archived_lsn"` // up to here
	Newest   time.Time      `json:"archived_at"`  // when the latest was stored, by the storage's clock
	Segments int64          `json:"segments"`
	Gaps     int            `json:"gaps"`
	Server   *Server        `json:"server"` // nil where it was not asked, or does not answer
	Behind   int64          `json:"behind_bytes"`
}

// Slot is a replication slot as the server sees it. The zero value is one that is not there.
type Slot struct {
	Name       string  `json:"name"`
	Active     bool    `json:"active"`
	RestartLSN wal.LSN `json:"restart_lsn"`
	Status     string  `json:"wal_status"`     // reserved, extended, unreserved, lost
	Retained   int64   `json:"retained_bytes"` // of log that the server keeps for it
}

// Lost reports whether the server has thrown log away that the slot was to keep.
func (s Slot) Lost() bool { return s.Status == "lost" }

// Server is what a server says of itself and of a slot.
type Server struct {
	SystemID uint64  `json:"system_id"`
	LSN      wal.LSN `json:"lsn"` // up to here it has log
	Slot     Slot    `json:"slot"`

	Archives bool   `json:"archives"`           // it has an archive_command, or the like
	Failing  string `json:"archiving_fails_at"` // the segment that it could not archive since it last archived one
}

// Status sums the ledger up; server is what its server says, or nil.
func (l *Ledger) Status(server *Server) Status {
	s := Status{SystemID: l.SystemID, Gaps: len(l.Gaps())}
	for _, t := range l.Timelines {
		for _, h := range t.Have {
			s.Segments += int64(h.To-h.From) / int64(l.SegmentSize) //nolint:gosec // less than all there is
		}
		if n := len(t.Have); n > 0 {
			s.Timeline, s.From, s.Archived = t.History.Timeline(), t.Have[n-1].From, t.Have[n-1].To
		}
		if t.Newest.After(s.Newest) {
			s.Newest = t.Newest
		}
	}
	if server != nil && server.SystemID == l.SystemID {
		s.Server = server
		s.Behind = max(0, int64(server.LSN)-int64(s.Archived)) //nolint:gosec // positions are far below 2^63
	}
	return s
}

// Sound reports whether nothing is missing and the server keeps what is not archived yet.
func (s Status) Sound() bool { return s.Gaps == 0 && (s.Server == nil || !s.Server.Slot.Lost()) }
