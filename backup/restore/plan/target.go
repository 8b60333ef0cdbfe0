package plan

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"rootstream/backup/wal"
	"rootstream/errs"
)

// Kind is what a target is given by.
type Kind string

// The kinds of targets, as PostgreSQL knows them.
const (
	Latest    Kind = "latest"    // all the write-ahead log there is
	Immediate Kind = "immediate" // as soon as the backup is consistent
	AtTime    Kind = "time"      // commits up to a time
	AtLSN     Kind = "lsn"       // records up to a position
	AtXID     Kind = "xid"       // up to the end of one transaction
	AtName    Kind = "name"      // up to a restore point
)

// Action is what the server does when it is at its target.
type Action string

// The actions of recovery_target_action.
const (
	Promote  Action = "promote"
	Pause    Action = "pause"
	Shutdown Action = "shutdown"
)

// Target is where recovery ends. The zero value is the latest there is on the newest timeline.
type Target struct {
	Kind      Kind // "" means Latest
	Time      time.Time
	LSN       wal.LSN
	XID       uint64
	Name      string
	Exclusive bool           // end before what the target names, not after it
	Timeline  wal.TimelineID // 0 means the newest that descends from the newest backup
	Current   bool           // stay on the backup's own timeline
	Backup    string         // id of the backup to begin with; "" means the best
	Action    Action         // "" means Promote

	found wal.LSN // where the transaction or restore point ends; 0 means unknown
}

// Spec is a target as people write it: the flags of the command, empty where not given.
type Spec struct {
	Backup    string // id or "latest"
	Time      string // with a zone: 2026-11-28T01:02:03Z or 2026-11-28 02:02:03+01
	LSN       string
	XID       string
	Name      string
	Immediate bool
	Exclusive bool
	Timeline  string // number, "latest" or "current"
	Action    string
}

const maxName = 63 // NAMEDATALEN - 1

// Parse reads the specification and names everything that is wrong with it.
func (s Spec) Parse() (Target, error) {
	t := Target{Kind: Latest, Exclusive: s.Exclusive, Action: Action(cmp.Or(s.Action, string(Promote)))}
	if s.Backup != "latest" {
		t.Backup = s.Backup
	}
	var faults errs.Fields
	given := 0
	is := func(kind Kind) { t.Kind = kind; given++ }
	if s.Immediate {
		is(Immediate)
	}
	if s.Time != "" {
		is(AtTime)
		if t.Time = parseTime(s.Time); t.Time.IsZero() {
			faults.Add("target_time", "must be a time with its zone, such as 2026-11-28T01:02:03Z")
		}
	}
	if s.LSN != "" {
		is(AtLSN)
		var err error
		if t.LSN, err = wal.ParseLSN(s.LSN); err != nil || t.LSN == 0 {
			faults.Add("target_lsn", "must be a position such as 16/B374D848")
		}
	}
	if s.XID != "" {
		is(AtXID)
		const firstNormal = 3
		var err error
		if t.XID, err = strconv.ParseUint(s.XID, 10, 64); err != nil || uint32(t.XID) < firstNormal { //nolint:gosec // PostgreSQL compares these 32 bits
			faults.Add("target_xid", "must be the number of a transaction, such as 742")
		}
	}
	if s.Name != "" {
		is(AtName)
		if t.Name = s.Name; len(s.Name) > maxName || strings.ContainsFunc(s.Name, isControl) {
			faults.Add("target_name", fmt.Sprintf("must be the name of a restore point, at most %d bytes", maxName))
		}
	}
	if given > 1 {
		faults.Add("target", "is given more than once: choose one of time, lsn, xid, name and immediate")
	}
	s.parseRest(&t, &faults)
	return t, faults.Err()
}

func (s Spec) parseRest(t *Target, faults *errs.Fields) {
	switch s.Timeline {
	case "", "latest":
	case "current":
		t.Current = true
	default:
		n, err := strconv.ParseUint(s.Timeline, 10, 32)
		if t.Timeline = wal.TimelineID(n); err != nil || n == 0 {
			faults.Add("target_timeline", "must be a number, latest or current")
		}
	}
	switch t.Action {
	case Promote:
	case Pause, Shutdown:
		if t.Kind == Latest {
			faults.Add("target_action", "needs a target: what replays all there is ends by promoting")
		}
	default:
		faults.Add("target_action", "must be promote, pause or shutdown")
	}
	if t.Exclusive && (t.Kind == Latest || t.Kind == Immediate || t.Kind == AtName) {
		faults.Add("exclusive", "goes with a target of time, lsn or xid")
	}
}

func isControl(r rune) bool { return r < ' ' || r == 0x7F }

// parseTime reads a time that names its zone: RFC 3339, or as PostgreSQL prints it.
func parseTime(text string) time.Time {
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999Z07", "2006-01-02T15:04:05.999999999Z07",
		"2006-01-02 15:04:05.999999999Z0700", "2006-01-02 15:04:05.999999999 UTC",
	} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}

// String says the target for people.
func (t Target) String() string {
	side := ""
	if t.Exclusive {
		side = ", exclusive"
	}
	switch t.Kind {
	case AtTime:
		return "time " + t.Time.UTC().Format(time.RFC3339Nano) + side
	case AtLSN:
		return "position " + t.LSN.String() + side
	case AtXID:
		return "transaction " + strconv.FormatUint(t.XID, 10) + side
	case AtName:
		return "restore point " + strconv.Quote(t.Name)
	case Immediate:
		return "the end of the backup"
	case Latest:
	}
	return "the latest"
}
