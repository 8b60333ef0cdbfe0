package pgdata

import (
	"slices"
	"strconv"
	"strings"
)

// Fork is a part of a relation that has files of its own.
type Fork uint8

// The forks of a relation.
const (
	Main Fork = iota
	FreeSpace
	Visibility
	Init // what an unlogged relation becomes when the server crashed
)

// Relation is what the name of a relation's file says.
type Relation struct {
	Number  uint64 // the filenode
	Fork    Fork
	Segment uint32
	Temp    bool // of one session: nobody can use it after a restart
}

// ParseRelation reads the name of a file in a database's folder: 16384, 16384_fsm.1, t3_16384; false for other files.
func ParseRelation(name string) (Relation, bool) {
	var r Relation
	var ok bool
	if rest, temp := strings.CutPrefix(name, "t"); temp {
		backend, after, found := strings.Cut(rest, "_")
		if _, numeric := number(backend, 32); !found || !numeric {
			return Relation{}, false
		}
		name, r.Temp = after, true
	}
	name, segment, dotted := strings.Cut(name, ".")
	if dotted {
		n, numeric := number(segment, 32)
		if !numeric || n == 0 {
			return Relation{}, false
		}
		r.Segment = uint32(n) //nolint:gosec // 32 bits were asked for
	}
	name, fork, forked := strings.Cut(name, "_")
	if forked {
		i := slices.Index([]string{"", "fsm", "vm", "init"}, fork)
		if i < 1 {
			return Relation{}, false
		}
		r.Fork = Fork(i) //nolint:gosec // less than 4
	}
	r.Number, ok = number(name, 64)
	return r, ok && r.Number != 0
}

// number reads decimal digits without a sign or leading zeros.
func number(text string, bits int) (uint64, bool) {
	n, err := strconv.ParseUint(text, 10, bits)
	return n, err == nil && text[0] != '+' && (text[0] != '0' || text == "0")
}

// RestoreNote is what a restore calls its note in the folder that it works on. A kill at the last moment leaves it there.
const RestoreNote = "rootstream.restore"

// folder is what kind of folder something lies in.
type folder uint8

const (
	top           folder = iota // the data folder itself
	base                        // base, and the version's folder in a tablespace: they hold the databases' folders
	database                    // base/<oid>, <tablespace>/<version>/<oid>
	shared                      // global
	tablespaces                 // pg_tblspc
	tablespace                  // pg_tblspc/<oid>
	empty                       // its content is of no use to a copy
	writeAheadLog               // pg_wal: empty, but for the folder that the archiver needs
	other
)

// within returns what the folder called name is, in a folder of this kind.
func (f folder) within(name string) folder {
	switch f {
	case top:
		switch name {
		case "base":
			return base
		case "global":
			return shared
		case "pg_tblspc":
			return tablespaces
		case "pg_wal":
			return writeAheadLog
		case "pg_stat_tmp", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans":
			return empty // basebackup.c, excludeDirContents
		}
	case base:
		return database
	case tablespaces:
		return tablespace
	case tablespace:
		return base
	case database, shared, empty, writeAheadLog, other:
	}
	return other
}

// skips reports whether a copy leaves out what is called name in a folder of this kind (basebackup.c, excludeFiles,
// and the files that tell a server to do something when it starts: a restore writes its own).
func (f folder) skips(name string) bool {
	if strings.HasPrefix(name, "pg_internal.init") || strings.HasPrefix(name, "pgsql_tmp") {
		return true
	}
	switch f {
	case top:
		return strings.HasPrefix(name, RestoreNote) || slices.Contains([]string{
			"backup_label", "backup_label.old", "backup_manifest", "backup_manifest.tmp", "current_logfiles.tmp", "fallback_promote",
			"logrotate", "postgresql.auto.conf.tmp", "postmaster.opts", "postmaster.pid", "promote", "recovery.signal",
			"standby.signal", "tablespace_map", "tablespace_map.old",
		}, name)
	case database:
		r, ok := ParseRelation(name)
		return ok && r.Temp
	case empty:
		return true
	case writeAheadLog:
		return name != "archive_status" && name != "summaries"
	case base, shared, tablespaces, tablespace, other:
	}
	return false
}

// Named returns an entry for what has a path in a data folder, as far as its name tells what it is; false if a copy leaves
// it out. version is the name of the version's folder in tablespaces. The forks of unlogged relations cannot be told.
func Named(name, version string) (Entry, bool) {
	in, rest := top, name
	for {
		part, inner, more := strings.Cut(rest, "/")
		if in.skips(part) || in == tablespace && part != version {
			return Entry{}, false
		}
		if !more {
			break
		}
		if in == writeAheadLog {
			in = empty
		} else {
			in = in.within(part)
		}
		rest = inner
	}
	e := Entry{Path: name}
	if in == database || in == shared {
		e.Relation, e.Blocks = ParseRelation(rest)
	}
	return e, true
}

// withoutUnlogged returns names, of one database's folder, without the forks of unlogged relations that do not outlive
// a crash: all but the init fork, which recovery makes the others from.
func withoutUnlogged(names []string) []string {
	unlogged := make(map[uint64]bool)
	for _, name := range names {
		if r, ok := ParseRelation(name); ok && r.Fork == Init {
			unlogged[r.Number] = true
		}
	}
	if len(unlogged) == 0 {
		return names
	}
	return slices.DeleteFunc(names, func(name string) bool {
		r, ok := ParseRelation(name)
		return ok && r.Fork != Init && unlogged[r.Number]
	})
}

// ComparePaths orders what is in a data folder: a folder, then its content, names byte by byte; pg_control, which has
// to be read after and written after everything else, is the last.
func ComparePaths(a, b string) int {
	if a == b {
		return 0
	}
	if a == ControlPath {
		return 1
	}
	if b == ControlPath {
		return -1
	}
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return rank(a, n) - rank(b, n)
}

// rank is the order of a path's n-th byte: its end, the slash, then all others.
func rank(path string, n int) int {
	switch {
	case n == len(path):
		return -2
	case path[n] == '/':
		return -1
	}
	return int(path[n])
}
