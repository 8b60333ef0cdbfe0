// Package apptest makes configurations that work, for the tests of app and of
// the rooms beside it.
package apptest

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rootstream/app"
	"rootstream/app/config"
	"rootstream/cache/cachetest"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// Settings are flags, by key of the configuration.
type Settings = map[string]string

// System is a database, a Redis and a master key that fit together.
func System(tb testing.TB) Settings {
	tb.Helper()
	flags := Settings{
		"postgres.dsn": postgrestest.DSN(tb), "redis.url": cachetest.Server(tb).URL(),
		"keys.master_key_file": File(tb, "master.key", strings.Repeat("k", 40)), "http.listen": FreeAddress(tb),
	}
	MakeKeyset(tb, flags)
	return flags
}

// With is flags with others over them.
func With(flags, more Settings) Settings {
	flags = maps.Clone(flags)
	maps.Copy(flags, more)
	return flags
}

// File makes a private file and returns its name.
func File(tb testing.TB, name, text string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// FreeAddress is one on which nothing listens.
func FreeAddress(tb testing.TB) string {
	tb.Helper()
	return fmt.Sprintf("127.0.0.1:%d", cachetest.FreePort(tb))
}

// MakeKeyset does what the first server does.
func MakeKeyset(tb testing.TB, flags Settings) {
	tb.Helper()
	cfg, err := config.Load(config.Source{Flags: flags})
	if err != nil {
		tb.Fatal(err)
	}
	p, err := app.Open(tb.Context(), cfg, app.Options{Stderr: io.Discard, OneShot: true})
	if err != nil {
		tb.Fatal(err)
	}
	p.Close()
}

// Exec runs statements.
func Exec(tb testing.TB, dsn string, statements ...string) {
	tb.Helper()
	db := postgrestest.Open(tb, postgres.Config{DSN: dsn, MaxConns: 1})
	for _, sql := range statements {
		if _, err := db.Exec(tb.Context(), sql); err != nil {
			tb.Fatalf("%s: %v", sql, err)
		}
	}
}
