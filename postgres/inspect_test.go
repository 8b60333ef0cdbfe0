package postgres_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

func TestInspectTellsWhatTheServerIs(t *testing.T) {
	t.Parallel()
	facts, err := postgres.Inspect(t.Context(), postgrestest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	if facts.VersionNum < 140000 || !strings.Contains(facts.Version, ".") || facts.Standby || facts.ReadOnly {
		t.Errorf("facts = %+v", facts)
	}
	if facts.Connections < 1 || facts.MaxConnections < facts.Connections {
		t.Errorf("%d of %d connections", facts.Connections, facts.MaxConnections)
	}
	if facts.ClockOffset.Abs() > time.Second {
		t.Errorf("the same machine's clock is %s off", facts.ClockOffset)
	}
}

func TestInspectNoticesAReadOnlyServerAndAWrongClock(t *testing.T) {
	t.Parallel()
	server := postgrestest.Server(t)
	server.ReadOnly(true)
	db := postgrestest.Open(t, postgres.Config{DSN: server.DSN(), MaxConns: 1})
	facts, err := postgres.Inspect(t.Context(), db)
	if err != nil || !facts.ReadOnly || facts.Standby {
		t.Errorf("a read-only server: %+v, %v", facts, err)
	}
	server.ReadOnly(false)
	late := postgrestest.Open(t, postgres.Config{DSN: server.DSN(), MaxConns: 1})
	for _, sql := range []string{ // a server whose clock is an hour late
		"create function public.clock_timestamp() returns timestamptz language sql as 'select pg_catalog.clock_timestamp() - interval ''1 hour'''",
		"set search_path = public, pg_catalog",
	} {
		if _, err = late.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	facts, err = postgres.Inspect(t.Context(), late)
	if off := (facts.ClockOffset + time.Hour).Abs(); err != nil || off > time.Minute {
		t.Errorf("the clock is an hour late, and said to be %s off (%v)", facts.ClockOffset, err)
	}
}

func TestInspectContentCounts(t *testing.T) {
	t.Parallel()
	empty := postgrestest.Open(t, postgres.Config{DSN: postgrestest.Empty(t)})
	if facts, err := postgres.InspectContent(t.Context(), empty); err != nil || !cmp.Equal(facts, postgres.ContentFacts{}) {
		t.Errorf("a database without tables: %+v, %v", facts, err)
	}
	db := postgrestest.New(t)
	for _, sql := range []string{
		"insert into users (username, email, password_hash) values ('ada', 'ada@example.org', '')",
		"insert into sessions (user_id, session_token, expires_at) select id, 'live', now() + interval '1 h' from users",
		"insert into sessions (user_id, session_token, created_at, expires_at) select id, 'over', now() - interval '2 h', now() - interval '1 h' from users",
		"insert into user_mfa (user_id, method, secret) select id, 'totp', 'sealed' from users",
		"insert into user_mfa (user_id, method) select id, 'backup_code' from users",
		"insert into keysets (name, wrapped, canary) values ('main', '', '')",
		"insert into outbox (channel, topic) values ('mail', 'a'), ('mail', 'b')",
		"insert into outbox (channel, topic, sent_at) values ('mail', 'c', now())",
	} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	facts, err := postgres.InspectContent(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	if facts.LiveSessions != 1 || facts.SealedFactors != 1 || facts.OldestSealed == nil ||
		facts.OutboxPending != 2 || facts.OutboxOldest == nil || !slices.Equal(facts.Keysets, []string{"main"}) {
		t.Errorf("facts = %+v", facts)
	}
}

func TestCheckSchemaRefusesANewerOne(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.DSN(t)
	if err := postgres.CheckSchema(t.Context(), dsn); err != nil {
		t.Errorf("a schema of this program: %v", err)
	}
	db := postgrestest.Open(t, postgres.Config{DSN: dsn})
	if _, err := db.Exec(t.Context(), "insert into goose_db_version (version_id, is_applied) values (9000, true)"); err != nil {
		t.Fatal(err)
	}
	if err := postgres.CheckSchema(t.Context(), dsn); errs.CodeOf(err) != "schema_newer" {
		t.Errorf("a schema of a newer program: %v", err)
	}
}

func TestAddressHidesThePassword(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]string{
		"postgres://ada:s3cret@db.example.org/rs":                            "ada@db.example.org:5432/rs",
		"host=/run/pg port=5433 user=ada password=s3cret dbname=rs":          "ada@/run/pg:5433/rs",
		"postgres://ada:s3cret@:nonsense/":                                   "an address that cannot be read",
		"postgres://rs:s3cret@/rs?host=%2Ftmp%2Fx&port=5432&sslmode=disable": "rs@/tmp/x:5432/rs",
	} {
		if got := postgres.Address(dsn); got != want {
			t.Errorf("Address(%q) = %q, want %q", dsn, got, want)
		}
	}
}
