package wal

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Branch is the part of a timeline that another one descends from, or a timeline itself.
type Branch struct {
	Timeline TimelineID
	Begin    LSN // 0 for the first timeline
	End      LSN // where the next one branched off; Open for the timeline itself
}

// Open is the end of a branch that has none.
const Open = ^LSN(0)

// History says where a timeline comes from: its ancestors, oldest first, and itself as the last.
type History []Branch

// NewHistory is the history of a timeline that descends from none.
func NewHistory(tli TimelineID) History { return History{{Timeline: tli, End: Open}} }

const maxHistory = 1 << 20 // bytes; a line for each promotion there ever was

// ParseHistory reads a .history file: lines of timeline, position and reason; # begins a comment.
func ParseHistory(tli TimelineID, text []byte) (History, error) {
	if tli == 0 || len(text) > maxHistory {
		return nil, ErrHistory.WithCause(fmt.Errorf("%d bytes for timeline %d", len(text), tli))
	}
	var h History
	begin, number := LSN(0), 0
	for line := range strings.Lines(string(text)) {
		number++
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) < 2 {
			return nil, badHistory(tli, number, "names no position")
		}
		parent, err := strconv.ParseUint(fields[0], 10, 32)
		if err != nil || parent == 0 {
			return nil, badHistory(tli, number, "names no timeline")
		}
		end, err := ParseLSN(fields[1])
		if err != nil {
			return nil, badHistory(tli, number, "names no position")
		}
		b := Branch{TimelineID(parent), begin, end}
		if b.Timeline >= tli || len(h) > 0 && b.Timeline <= h[len(h)-1].Timeline || end < begin || end == Open {
			return nil, badHistory(tli, number, "does not follow from the one before")
		}
		h, begin = append(h, b), end
	}
	return append(h, Branch{tli, begin, Open}), nil
}

func badHistory(tli TimelineID, line int, what string) error {
	return ErrHistory.WithCause(fmt.Errorf("line %d of %s %s", line, HistoryName(tli), what))
}

// Timeline returns the timeline whose history this is; 0 for none.
func (h History) Timeline() TimelineID {
	if len(h) == 0 {
		return 0
	}
	return h[len(h)-1].Timeline
}

// Contains reports whether what tli wrote up to, not including, lsn is part of this history.
func (h History) Contains(tli TimelineID, lsn LSN) bool {
	return slices.ContainsFunc(h, func(b Branch) bool { return b.Timeline == tli && lsn <= b.End })
}

// At returns the timeline that the byte at lsn is on.
func (h History) At(lsn LSN) TimelineID {
	for _, b := range h {
		if lsn < b.End {
			return b.Timeline
		}
	}
	return h.Timeline()
}

// Path returns the pieces of timelines that lead from one position to another, in order.
func (h History) Path(from, to LSN) []Range {
	var path []Range
	for _, b := range h {
		r := Range{b.Timeline, max(from, b.Begin), min(to, b.End)}
		if r.From < r.To {
			path = append(path, r)
		}
	}
	return path
}

// Candidates returns the names under which recovery looks for the segment that holds lsn, best first: where a timeline
// branched off within a segment, the newer one's copy also has what the older one wrote of it.
func (h History) Candidates(lsn LSN, size uint32) []string {
	var names []string
	for _, b := range slices.Backward(h) {
		if b.Begin.Segment(size) <= lsn.Segment(size) && lsn.SegmentStart(size) < b.End {
			names = append(names, SegmentName(b.Timeline, lsn, size))
		}
	}
	return names
}
