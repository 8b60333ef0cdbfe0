package pgdata

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"rootstream/backup/wal"
)

// Label is what a backup_label says.
type Label struct {
	Start       wal.LSN
	Timeline    wal.TimelineID
	Segment     string // the first one that recovery reads
	Checkpoint  wal.LSN
	FromStandby bool
	Time        time.Time // in the zone log_timezone of the server; zero when its name means nothing here
	Name        string
}

const maxLabel = 64 << 10 // bytes; names of backups have at most 1 KiB

// ParseLabel reads a backup_label. Lines that it does not know are those of newer versions.
func ParseLabel(text []byte) (Label, error) {
	if len(text) > maxLabel {
		return Label{}, ErrLabel.WithCause(fmt.Errorf("it has %d bytes", len(text)))
	}
	var l Label
	var err error
	seen := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		key, value, found := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if !found {
			continue
		}
		if seen[key] {
			return Label{}, ErrLabel.WithCause(fmt.Errorf("it says %.40q twice", key))
		}
		seen[key] = true
		if err = l.set(key, value); err != nil {
			return Label{}, ErrLabel.WithCause(fmt.Errorf("%s: %w", key, err))
		}
	}
	for _, key := range []string{"START WAL LOCATION", "CHECKPOINT LOCATION", "BACKUP FROM", "START TIMELINE"} {
		if !seen[key] {
			return Label{}, ErrLabel.WithCause(fmt.Errorf("it does not say %q", key))
		}
	}
	if name, err := wal.ParseName(l.Segment); err != nil || name.Timeline != l.Timeline {
		return Label{}, ErrLabel.WithCause(fmt.Errorf("its first segment %.40q is not one of timeline %d", l.Segment, l.Timeline))
	}
	return l, nil
}

func (l *Label) set(key, value string) (err error) {
	switch key {
	case "START WAL LOCATION": // 0/9000028 (file 000000010000000000000009)
		at, file, found := strings.Cut(value, " (file ")
		if !found || !strings.HasSuffix(file, ")") {
			return fmt.Errorf("%.60q names no file", value)
		}
		l.Segment = strings.TrimSuffix(file, ")")
		l.Start, err = wal.ParseLSN(at)
	case "CHECKPOINT LOCATION":
		l.Checkpoint, err = wal.ParseLSN(value)
	case "BACKUP FROM":
		if value != "primary" && value != "standby" {
			return fmt.Errorf("%.40q is neither primary nor standby", value)
		}
		l.FromStandby = value == "standby"
	case "START TIME":
		l.Time, _ = time.Parse("2006-01-02 15:04:05 MST", value) // for people only
	case "LABEL":
		l.Name = value
	case "START TIMELINE":
		var n uint64
		n, err = strconv.ParseUint(value, 10, 32)
		l.Timeline = wal.TimelineID(n)
	}
	return err
}

// Tablespace is a folder outside the data folder that holds part of the cluster.
type Tablespace struct {
	OID      uint32
	Location string
}

// ParseTablespaceMap reads a tablespace_map: lines of an oid and a folder, in which a backslash takes the meaning
// from a line's end and from another backslash.
func ParseTablespaceMap(text []byte) ([]Tablespace, error) {
	const most = 1 << 20
	if len(text) > most {
		return nil, ErrMap.WithCause(fmt.Errorf("it has %d bytes", len(text)))
	}
	var all []Tablespace
	var line []byte
	escaped := false
	for _, c := range text {
		switch {
		case escaped:
			line, escaped = append(line, c), false
		case c == '\\':
			escaped = true
		case c == '\n' || c == '\r':
			if len(line) == 0 {
				continue
			}
			t, err := parseTablespace(string(line))
			if err != nil {
				return nil, err
			}
			all, line = append(all, t), line[:0]
		default:
			line = append(line, c)
		}
	}
	if len(line) > 0 || escaped {
		return nil, ErrMap.WithCause(fmt.Errorf("its last line does not end"))
	}
	return all, nil
}

func parseTablespace(line string) (Tablespace, error) {
	number, location, _ := strings.Cut(line, " ")
	oid, err := strconv.ParseUint(number, 10, 32)
	if err != nil || oid == 0 || location == "" || strings.ContainsRune(location, 0) {
		return Tablespace{}, ErrMap.WithCause(fmt.Errorf("%.60q is not an oid and a folder", line))
	}
	return Tablespace{OID: uint32(oid), Location: location}, nil
}
