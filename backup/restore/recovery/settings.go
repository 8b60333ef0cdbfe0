// Package recovery tells PostgreSQL how far to recover, and watches it do so.
//
// [Settings.Write] is pure: the postgresql.auto.conf of a folder that is to be
// recovered, for PostgreSQL 14 to 18; the target goes by itself once recovery
// has ended. [Run] starts the server and waits until it is where its target
// wants it. It starts no goroutine; servers are package pgserver's.
package recovery

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"rootstream/backup/restore/plan"
	"rootstream/backup/wal"
	"rootstream/errs"
)

// The files of a configuration.
const (
	AutoConf = "postgresql.auto.conf"
	MainConf = "postgresql.conf"
)

// setting is one line of a PostgreSQL configuration.
type setting struct{ name, value string }

// recovery returns what tells PostgreSQL 14 to 18 where to end. All targets are set, since one that is left
// over in another file would contradict ours and keep the server from starting. The one that counts is the last: an
// empty one after it is a contradiction, too.
func (s Settings) recovery() []setting {
	t := s.Target
	all := []setting{
		{"restore_command", s.Command},
		{"recovery_target_inclusive", map[bool]string{false: "on", true: "off"}[t.Exclusive]},
		{"recovery_target_timeline", strconv.FormatUint(uint64(s.Timeline), 10)},
		{"recovery_target_action", string(cmp.Or(t.Action, plan.Promote))},
		{"recovery_min_apply_delay", "0"},
		{"recovery_end_command", forget},
		{"archive_cleanup_command", ""},
	}
	if s.stepwise() {
		all = append(all, setting{"recovery_prefetch", "off"})
	}
	targets := []struct {
		kind plan.Kind
		setting
	}{
		{plan.Immediate, setting{"recovery_target", "immediate"}},
		{plan.AtTime, setting{"recovery_target_time", t.Time.UTC().Format("2006-01-02 15:04:05.999999+00")}},
		{plan.AtLSN, setting{"recovery_target_lsn", t.LSN.String()}},
		{plan.AtXID, setting{"recovery_target_xid", strconv.FormatUint(t.XID, 10)}},
		{plan.AtName, setting{"recovery_target_name", t.Name}},
	}
	var last []setting
	for _, target := range targets {
		if target.kind == t.Kind {
			last = append(last, target.setting)
		} else {
			all = append(all, setting{target.name, ""})
		}
	}
	return append(all, last...)
}

// stepwise reports whether PostgreSQL, which since 15 reads ahead of what it replays, is not to: it would ask for log
// behind its target, and where that is missing it stops, since for all that it knows the target may be there. Behind a
// backup log may come to be missing at any time.
func (s Settings) stepwise() bool {
	return s.Major >= 15 && (s.Hole || s.Target.Kind == plan.Immediate)
}

// isRecovery reports whether a parameter only matters to a recovery, so that one found in a backup is left over.
func isRecovery(name string) bool {
	return strings.HasPrefix(name, "recovery_target") || slices.Contains([]string{
		"restore_command", "recovery_prefetch", "recovery_min_apply_delay", "recovery_end_command", "archive_cleanup_command", "promote_trigger_file",
	}, name)
}

// settingName is what PostgreSQL takes for the name of a setting, also one of an extension.
var settingName = regexp.MustCompile(`^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?$`)

// CheckSettings refuses what would be no line of a configuration, or would contradict the target.
func CheckSettings(settings map[string]string, faults *errs.Fields) {
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		switch {
		case !settingName.MatchString(name):
			faults.Add("set", fmt.Sprintf("must be the name of a setting in small letters, such as port=5433, not %q", name))
		case isRecovery(name):
			faults.Add("set", "cannot be "+name+": the target says it")
		case name == "data_directory":
			faults.Add("set", "cannot be data_directory: --to says it")
		}
	}
}

const (
	blockBegin = "# Recovery, written by rootstream restore. It goes by itself once recovery has ended."
	blockEnd   = "# End of recovery."
)

// forget takes these settings out of postgresql.auto.conf when recovery has ended, whoever started the server and
// whenever that was: a standby made of the folder would obey them too. PostgreSQL runs it in its data folder, when a
// crash would no longer lead back into this recovery. Every setting has a line of its own, also where ALTER SYSTEM has
// written the file anew, which drops the comments.
const forget = `sed -E "/^(restore_command|archive_cleanup_command|recovery_(prefetch|min_apply_delay|end_command|target[a-z_]*)) =|` +
	`^# (Recovery, written by rootstream restore|End of recovery)\./d" ` + AutoConf + ` >rootstream.auto.conf && ` +
	`sync rootstream.auto.conf && mv rootstream.auto.conf ` + AutoConf

// Settings is what a recovery needs.
type Settings struct {
	Target   plan.Target
	Timeline wal.TimelineID    // to follow
	Hole     bool              // behind what can be replayed log is missing
	Major    int               // of PostgreSQL
	Command  string            // restore_command
	Least    map[string]string // of the parameters that recovery needs to be as large as they were where the log was written
	Other    map[string]string // settings of the restored cluster
}

// Write returns postgresql.auto.conf with the settings of this recovery in place of any earlier one's. PostgreSQL reads
// this file last, wherever its others are; main is its main configuration.
func (s Settings) Write(auto, main []byte) []byte {
	lasting := raised(s.Least, main, auto)
	for _, name := range slices.Sorted(maps.Keys(s.Other)) {
		lasting = append(lasting, setting{name, s.Other[name]})
	}
	var b bytes.Buffer
	b.Write(withoutRecovery(auto, lasting))
	for _, l := range lasting {
		b.WriteString(l.line())
	}
	b.WriteString(blockBegin + "\n")
	for _, l := range s.recovery() {
		b.WriteString(l.line())
	}
	b.WriteString(blockEnd + "\n")
	return b.Bytes()
}

// withoutRecovery returns postgresql.auto.conf without the settings of a recovery, and without those that others replace.
func withoutRecovery(auto []byte, replaced []setting) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(auto) {
		text := strings.TrimRight(string(line), "\r\n")
		name, _ := parseSetting(text)
		if text == blockBegin || text == blockEnd || isRecovery(name) ||
			slices.ContainsFunc(replaced, func(s setting) bool { return s.name == name }) {
			continue
		}
		b.WriteString(text + "\n")
	}
	return b.Bytes()
}

func (s setting) line() string {
	return s.name + " = '" + strings.NewReplacer(`\`, `\\`, `'`, `''`, "\n", `\n`, "\r", `\r`).Replace(s.value) + "'\n"
}

// parseSetting reads a line of a configuration: name, optional =, value with optional quotes. Names are lower-cased.
func parseSetting(line string) (name, value string) {
	line = strings.TrimLeft(line, " \t")
	end := strings.IndexFunc(line, func(r rune) bool {
		return r != '_' && r != '.' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
	if end < 0 {
		end = len(line)
	}
	name = strings.ToLower(line[:end])
	rest := strings.TrimLeft(line[end:], " \t")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
	if !strings.HasPrefix(rest, "'") {
		value, _, _ = strings.Cut(rest, "#")
		return name, strings.TrimSpace(value)
	}
	var b strings.Builder
	for i := 1; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == '\\' && i+1 < len(rest):
			i++
			b.WriteString(unescaped(rest[i]))
		case c == '\'' && i+1 < len(rest) && rest[i+1] == '\'':
			i++
			b.WriteByte('\'')
		case c == '\'':
			return name, b.String()
		default:
			b.WriteByte(c)
		}
	}
	return name, b.String()
}

// unescaped returns what a character means behind a backslash.
func unescaped(c byte) string {
	if i := strings.IndexByte("bfnrt", c); i >= 0 {
		return "\b\f\n\r\t"[i : i+1]
	}
	return string([]byte{c})
}

// standbyMinimums are the parameters that recovery needs to be at least what they were where the log was written
// ("Administrator's Overview" of hot standby): with less it pauses or refuses.
func standbyMinimums() []setting {
	return []setting{
		{"max_connections", "100"},
		{"max_worker_processes", "8"},
		{"max_wal_senders", "10"},
		{"max_prepared_transactions", "0"},
		{"max_locks_per_transaction", "64"},
	}
}

// raised returns the parameters that the configurations, the last of which wins, set lower than needed.
func raised(need map[string]string, configurations ...[]byte) []setting {
	have := map[string]string{}
	for _, conf := range configurations {
		for line := range bytes.Lines(conf) {
			if name, value := parseSetting(strings.TrimRight(string(line), "\r\n")); name != "" {
				have[name] = value
			}
		}
	}
	var low []setting
	for _, s := range standbyMinimums() {
		least, err := strconv.Atoi(need[s.name])
		if err != nil {
			continue
		}
		value, set := have[s.name]
		if !set {
			value = s.value
		}
		if n, err := strconv.Atoi(value); err != nil || n < least {
			low = append(low, setting{s.name, need[s.name]})
		}
	}
	return low
}
