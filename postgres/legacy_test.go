package postgres_test

import (
	"context"
	_ "embed"
	"log/slog"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

//go:embed testdata/phase-24.2.sql
var phase242 string

const newYork = "America/New_York"

var legacyTables = []string{
	"users", "sessions", "streams", "stream_sessions", "recordings", "usage_logs",
	"billing_accounts", "event_log", "snapshots",
}

// connect opens a connection as a program of Phase 24.2 has it: in its own time zone, knowing nothing of us.
func connect(t *testing.T, dsn, zone string) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	if zone != "" {
		cfg.RuntimeParams["timezone"] = zone
	}
	c, err := pgx.ConnectConfig(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func mustExec(t *testing.T, c *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := c.Exec(context.Background(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// value asks for one value.
func value[T any](t *testing.T, c *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := c.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// legacy makes dsn a database of Phase 24.2 whose default time zone is New York.
func legacy(t *testing.T, dsn string) string {
	t.Helper()
	setZone(t, dsn)
	return load(t, dsn, "")
}

// load fills dsn over a connection of that zone.
func load(t *testing.T, dsn, zone string) string {
	t.Helper()
	c := connect(t, dsn, zone)
	mustExec(t, c, phase242)
	_ = c.Close(context.Background())
	return dsn
}

// legacyElsewhere makes dsn one whose default is UTC although its writers were in New York.
func legacyElsewhere(t *testing.T, dsn string) string {
	t.Helper()
	return load(t, dsn, newYork)
}

// upgraded is a database of Phase 24.2 after the rolling upgrade, to be cloned.
var upgraded struct {
	once sync.Once
	dsn  string
	err  error
}

// rolling returns a database of Phase 24.2 after the rolling upgrade.
func rolling(t *testing.T) string {
	t.Helper()
	upgraded.once.Do(func() {
		upgraded.dsn = legacy(t, postgrestest.Kept(t))
		_, upgraded.err = postgres.Migrate(context.Background(), upgraded.dsn, postgres.MigrateOptions{Rolling: true, Logger: quiet()})
	})
	if upgraded.err != nil {
		t.Fatal(upgraded.err)
	}
	dsn := postgrestest.Clone(t, upgraded.dsn)
	setZone(t, dsn)
	return dsn
}

// setZone makes New York the database's default.
func setZone(t *testing.T, dsn string) {
	t.Helper()
	setDefault(t, dsn, "timezone", newYork)
}

// setDefault gives connections to a database another setting to begin with.
func setDefault(t *testing.T, dsn, setting, value string) {
	t.Helper()
	c := connect(t, dsn, "")
	mustExec(t, c, "do $$ begin execute format('alter database %I set "+setting+" = %L', current_database(), '"+value+"'); end $$")
	_ = c.Close(context.Background())
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func migrate(t *testing.T, dsn string, opt postgres.MigrateOptions) []postgres.Migration {
	t.Helper()
	opt.Logger = quiet()
	steps, err := postgres.Migrate(context.Background(), dsn, opt)
	if err != nil {
		t.Fatalf("Migrate: %v", err)
	}
	return steps
}

type row = map[string]any

// rows reads a table in order of id, times as they read in New York.
func rows(t *testing.T, dsn, table string) []row {
	t.Helper()
	c := connect(t, dsn, newYork)
	found, _ := c.Query(context.Background(), "select to_jsonb(t) from "+table+" t order by id")
	list, err := pgx.CollectRows(found, pgx.RowTo[row])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// offset is what timestamptz adds to what timestamp printed.
var offset = regexp.MustCompile(`^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?)[+-]\d\d:\d\d$`)

// asBefore strips a migrated row of the columns that are new and its times of their offsets.
func asBefore(r, like row) row {
	out := row{}
	for name := range like {
		v := r[name]
		if s, ok := v.(string); ok {
			v = offset.ReplaceAllString(s, "$1")
		}
		out[name] = v
	}
	return out
}

// pgDump returns the whole database as SQL.
func pgDump(t *testing.T, dsn string) string {
	t.Helper()
	bin, err := postgrestest.Binaries()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "pg_dump"), "--dbname="+dsn).Output()
	if err != nil {
		t.Fatalf("pg_dump: %v", err)
	}
	return restrict.ReplaceAllString(string(out), "")
}

// restrict is a random word that newer versions of pg_dump put around their output.
var restrict = regexp.MustCompile(`(?m)^\\(un)?restrict .*$`)

// plain lists the canaries that s holds: tokens and keys of testdata/phase-24.2.sql.
func plain(s string) []string {
	s = strings.ReplaceAll(s, "/recordings/plain-key-2/", "") // files are where they are
	var found []string
	for _, canary := range []string{"plain-token", "plain-key", "h1:aaaaaaaaaaaa"} {
		if strings.Contains(s, canary) {
			found = append(found, canary)
		}
	}
	return found
}
