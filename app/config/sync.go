package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"rootstream/errs"
)

// Volatile reports whether state of the type lives in memory and Redis alone.
func (c SyncType) Volatile() bool { return c.Class == "volatile" }

var syncTypeName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,49}$`)

const maxSyncBytes = 60_000

func (c Sync) check(f *errs.Fields) {
	taken := []string{"stream", "user", "session", "factor", "viewer", "recording"}
	for i, t := range c.Types {
		at := fmt.Sprintf("sync.types[%d]", i)
		if !syncTypeName.MatchString(t.Name) {
			f.Add(at+".name", "must be lower-case letters, digits and _, and begin with a letter")
		} else if slices.Contains(taken, t.Name) {
			f.Add(at+".name", "is taken")
		}
		taken = append(taken, t.Name)
		oneOf(f, at+".class", t.Class, "durable", "volatile")
		if t.Volatile() {
			oneOf(f, at+".merge", t.Merge, "latest", "per_field", "max", "sum")
		} else {
			oneOf(f, at+".merge", t.Merge, "reject", "per_field", "mine", "theirs")
		}
		oneOf(f, at+".write", t.Write, "user", "operator", "admin")
		if t.MaxBytes > maxSyncBytes {
			f.Add(at+".max_bytes", fmt.Sprintf("must be at most %d", maxSyncBytes))
		}
	}
}

// oneOf demands one of several words, or nothing.
func oneOf(f *errs.Fields, at, value string, allowed ...string) {
	if value != "" && !slices.Contains(allowed, value) {
		f.Add(at, "must be one of "+strings.Join(allowed, ", "))
	}
}
