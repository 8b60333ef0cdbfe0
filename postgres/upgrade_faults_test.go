package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// consistent fails unless every step is recorded and the data is what a whole, uninterrupted upgrade makes of it.
func consistent(t *testing.T, dsn string) {
	t.Helper()
	steps, err := postgres.MigrationStatus(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		if s.Kind == "expand" && s.AppliedAt == nil {
			t.Errorf("%s was not applied", s.Name)
		}
	}
	c := connect(t, dsn, "")
	for _, check := range []string{
		"select count(*) = 10 from sessions where token_hash = sha256(convert_to(session_token, 'UTF8')) and id <= 10",
		"select count(*) = 11 and count(distinct legacy_id) = 11 from events",
		"select expires_at = '2025-11-02 06:30Z' from sessions where id = 4",
		"select updated_at = '2025-06-02 16:00Z' from users where id = 1",
		"select updated_at = '2025-09-02 14:00Z' from streams where id = 1",
	} {
		if !value[bool](t, c, check) {
			t.Errorf("not: %s", check)
		}
	}
}

func TestManyProcessesMayUpgradeAtOnce(t *testing.T) {
	t.Parallel()
	dsn := legacy(t, postgrestest.Empty(t))
	done := make(chan error)
	for range 8 {
		go func() {
			_, err := postgres.Migrate(context.Background(), dsn, postgres.MigrateOptions{Rolling: true, Logger: quiet()})
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	consistent(t, dsn)
}

func TestAnInterruptedUpgradeGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	dsn := legacy(t, postgrestest.Empty(t))
	killer := connect(t, dsn, "")
	interrupted := 0
	for wait := 10 * time.Millisecond; ; wait += 30 * time.Millisecond {
		done := make(chan error)
		go func() {
			_, err := postgres.Migrate(context.Background(), dsn, postgres.MigrateOptions{Rolling: true, Logger: quiet()})
			done <- err
		}()
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("an upgrade nobody interrupted: %v", err)
			}
			if interrupted == 0 {
				t.Error("no upgrade was interrupted")
			}
			t.Logf("%d upgrades were interrupted before one was not", interrupted)
			consistent(t, dsn)
			return
		case <-time.After(wait):
		}
		if err := endedByForce(t, killer, done); err != nil {
			interrupted++
			if errs.KindOf(err) != errs.Unavailable {
				t.Errorf("an interrupted upgrade = %v, want kind Unavailable", err)
			}
		}
		if _, err := postgres.MigrationStatus(t.Context(), dsn); err != nil {
			t.Errorf("status after the interruption: %v", err)
		}
		// Old writers go on, whatever has been reached.
		mustExec(t, killer, "UPDATE sessions SET last_activity = NOW() WHERE id = 1")
	}
}

// endedByForce cuts the upgrade's connections until it ends.
func endedByForce(t *testing.T, killer *pgx.Conn, done <-chan error) error {
	t.Helper()
	for {
		mustExec(t, killer, `select pg_terminate_backend(pid) from pg_stat_activity
			where application_name = 'rootstream migrate' and datname = current_database()`)
		select {
		case err := <-done:
			return err
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func TestAnUpgradeWaitsForOldTransactionsAndHoldsNobodyUpMeanwhile(t *testing.T) {
	t.Parallel()
	dsn := legacy(t, postgrestest.Empty(t))
	holder, other := connect(t, dsn, ""), connect(t, dsn, "")
	mustExec(t, holder, "begin")
	mustExec(t, holder, "UPDATE sessions SET last_activity = NOW() WHERE id = 1")

	_, err := postgres.Migrate(t.Context(), dsn, postgres.MigrateOptions{Patience: time.Second, Logger: quiet()})
	if !errors.Is(err, postgres.ErrMigrating) {
		t.Fatalf("Migrate behind an open transaction = %v, want ErrMigrating", err)
	}
	pid := value[string](t, holder, "select pg_backend_pid()::text")
	if hint := errs.Of(err).Hint; !strings.Contains(hint, "pid "+pid) {
		t.Errorf("the hint %q does not name pid %s", hint, pid)
	}

	done := make(chan error)
	go func() {
		_, err := postgres.Migrate(context.Background(), dsn, postgres.MigrateOptions{Rolling: true, Logger: quiet()})
		done <- err
	}()
	worst := time.Duration(0)
	for begun := time.Now(); time.Since(begun) < 3*time.Second; {
		one := time.Now()
		mustExec(t, other, "SELECT * FROM sessions WHERE session_token = 'plain-token-live-1'")
		worst = max(worst, time.Since(one))
	}
	if worst > 5*time.Second { // without the limit it would be all of the three seconds and the commit after them
		t.Errorf("a reader waited %v", worst)
	}
	mustExec(t, holder, "commit")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	consistent(t, dsn)
}

func TestViewsInTheWayAreNamed(t *testing.T) {
	t.Parallel()
	dsn := legacy(t, postgrestest.Empty(t))
	c := connect(t, dsn, "")
	mustExec(t, c, "create schema reports")
	mustExec(t, c, "create view reports.live as select * from sessions where is_active")
	mustExec(t, c, "create materialized view popular as select name, created_at from streams")
	before := pgDump(t, dsn)
	_, err := postgres.Migrate(t.Context(), dsn, postgres.MigrateOptions{Logger: quiet()})
	if !errors.Is(err, postgres.ErrDependents) {
		t.Fatalf("Migrate = %v, want ErrDependents", err)
	}
	for _, view := range []string{"reports.live", "popular"} {
		if hint := errs.Of(err).Hint; !strings.Contains(hint, view) {
			t.Errorf("the hint %q does not name %s", hint, view)
		}
	}
	if after := pgDump(t, dsn); !strings.Contains(after, "session_token") || len(after) < len(before) {
		t.Error("the refused upgrade changed the database")
	}
	mustExec(t, c, "drop view reports.live; drop materialized view popular")
	migrate(t, dsn, postgres.MigrateOptions{Rolling: true})
	consistent(t, dsn)
}

func TestATriggerInTheWayIsNamed(t *testing.T) {
	t.Parallel()
	dsn := legacy(t, postgrestest.Empty(t))
	mustExec(t, connect(t, dsn, ""), "create trigger audit_expiry after update of expires_at on sessions for each row execute function touch_row()")
	_, err := postgres.Migrate(t.Context(), dsn, postgres.MigrateOptions{Logger: quiet()})
	if !errors.Is(err, postgres.ErrDependents) || !strings.Contains(errs.Of(err).Hint, "audit_expiry") {
		t.Errorf("Migrate = %v, want ErrDependents with a hint about audit_expiry", err)
	}
}

func TestTablesThatAreMissingAreMade(t *testing.T) {
	t.Parallel()
	for _, missing := range []string{
		"recordings, usage_logs, billing_accounts", "event_log, snapshots, recordings, stream_sessions, usage_logs, streams",
		"sessions", "sessions, streams, stream_sessions, recordings, usage_logs, billing_accounts, event_log, users",
	} {
		dsn := legacy(t, postgrestest.Empty(t))
		mustExec(t, connect(t, dsn, ""), "drop table "+missing)
		migrate(t, dsn, postgres.MigrateOptions{})
		c := connect(t, dsn, "")
		for _, table := range legacyTables {
			if got := value[int](t, c, "select count(*) from "+table); strings.Contains(", "+missing+", ", " "+table+",") && got != 0 {
				t.Errorf("without %s: %s has %d rows", missing, table, got)
			}
		}
		for _, table := range []string{"users", "streams", "billing_accounts"} {
			if got := value[int](t, c, `select count(*) from pg_trigger where tgrelid = $1::text::regclass and not tgisinternal
				and pg_get_functiondef(tgfoid) ilike '%NEW.updated_at = %'`, table); got != 1 {
				t.Errorf("without %s: %d triggers set updated_at of %s", missing, got, table)
			}
		}
		if got := value[string](t, c, "select format_type(atttypid, 0) from pg_attribute where attrelid = 'sessions'::regclass and attname = 'id'"); got != "bigint" {
			t.Errorf("without %s: sessions.id is %s", missing, got)
		}
	}
}

func TestSequencesOfAnyKindBecomeBigint(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"not owned": "alter sequence session_numbers owned by none",
		"identity": `alter table sessions alter id drop default; drop sequence session_numbers;
			alter table sessions alter id add generated by default as identity (sequence name session_numbers start 100)`,
	} {
		dsn := legacy(t, postgrestest.Empty(t))
		mustExec(t, connect(t, dsn, ""), change)
		migrate(t, dsn, postgres.MigrateOptions{Rolling: true})
		c := connect(t, dsn, "")
		if got := value[string](t, c, "select data_type::text from pg_sequences where sequencename = 'session_numbers'"); got != "bigint" {
			t.Errorf("%s: the sequence is %s", name, got)
		}
		mustExec(t, c, "select setval('session_numbers', 2147483647)")
		mustExec(t, c, "INSERT INTO sessions (user_id, session_token, expires_at) VALUES (1, 't', NOW() + INTERVAL '1 day')")
		if got := value[int64](t, c, "select id from sessions where session_token = 't'"); got != 2147483648 {
			t.Errorf("%s: the session after 2147483647 is %d", name, got)
		}
	}
}

func TestATimeZoneMustBeKnown(t *testing.T) {
	t.Parallel()
	dsn := legacy(t, postgrestest.Empty(t))
	before := pgDump(t, dsn)
	for _, zone := range []string{"garbage", "garbage1", "EST5EDT4,nonsense", "'; drop table users; --", "America/New York", "-5", " "} {
		_, err := postgres.Migrate(t.Context(), dsn, postgres.MigrateOptions{LegacyTimezone: zone, Logger: quiet()})
		if !errors.Is(err, postgres.ErrBadTimezone) {
			t.Errorf("zone %q = %v, want ErrBadTimezone", zone, err)
		}
	}
	if after := pgDump(t, dsn); after != before {
		t.Error("a refused zone changed the database")
	}
}

func TestTheServersZoneCountsNotTheCallers(t *testing.T) {
	t.Parallel()
	for _, tail := range []string{"&TimeZone=Asia/Tokyo", "&options=-c%20geqo%3Doff%20--TimeZone%3DAsia/Tokyo%20-c%20work_mem%3D8MB"} {
		dsn := legacy(t, postgrestest.Empty(t))
		migrate(t, dsn+tail, postgres.MigrateOptions{Rolling: true})
		if got := value[string](t, connect(t, dsn, ""), "select value from adoption_facts where name = 'legacy_timezone'"); got != newYork {
			t.Errorf("with %s the zone on record is %s, want %s", tail, got, newYork)
		}
	}
}

func TestAFreshDatabaseHasNoZoneToKeep(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.DSN(t)
	for _, zone := range []string{"Europe/Paris", "", newYork} {
		migrate(t, dsn, postgres.MigrateOptions{Rolling: true, LegacyTimezone: zone})
	}
}

func TestANewerSchemaIsLeftAlone(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"goose_db_version", "goose_contract_version"} {
		dsn := rolling(t)
		migrate(t, dsn, postgres.MigrateOptions{})
		mustExec(t, connect(t, dsn, ""), "insert into "+table+" (version_id, is_applied) values (999, true)")
		for _, opt := range []postgres.MigrateOptions{{Rolling: true}, {}} {
			if _, err := postgres.Migrate(t.Context(), dsn, opt); !errors.Is(err, postgres.ErrNewerSchema) {
				t.Errorf("%s: Migrate(%+v) = %v, want ErrNewerSchema", table, opt, err)
			}
		}
	}
}

func TestOnlyTheOwnerMayMigrate(t *testing.T) {
	t.Parallel()
	dsn := legacy(t, postgrestest.Empty(t))
	role := fmt.Sprintf("guest_%d", time.Now().UnixNano())
	c := connect(t, dsn, "")
	mustExec(t, c, "create role "+role+" login password 'guest'")
	t.Cleanup(func() {
		_, _ = c.Exec(context.Background(), "drop owned by "+role+"; drop role "+role)
	})
	at := strings.Index(dsn, "@")
	guest := "postgres://" + role + ":guest" + dsn[at:]
	if _, err := postgres.Migrate(t.Context(), guest, postgres.MigrateOptions{Logger: quiet()}); !errors.Is(err, postgres.ErrNotOwner) {
		t.Errorf("Migrate = %v, want ErrNotOwner", err)
	}
	mustExec(t, c, "grant create on schema public to "+role)
	if _, err := postgres.Migrate(t.Context(), guest, postgres.MigrateOptions{Logger: quiet()}); !errors.Is(err, postgres.ErrNotOwner) {
		t.Errorf("Migrate with a schema of its own = %v, want ErrNotOwner", err)
	}
}

func TestStatusOfAnUntouchedDatabaseOnlyReads(t *testing.T) {
	t.Parallel()
	dsn := legacy(t, postgrestest.Empty(t))
	before := pgDump(t, dsn)
	steps, err := postgres.MigrationStatus(t.Context(), dsn)
	if err != nil || len(steps) < 9 {
		t.Fatalf("MigrationStatus = %d steps, %v", len(steps), err)
	}
	for _, s := range steps {
		if s.AppliedAt != nil {
			t.Errorf("%s counts as applied", s.Name)
		}
	}
	if pgDump(t, dsn) != before {
		t.Error("asking for the status changed the database")
	}
}

func TestALargeDatabaseUpgradesInOneGo(t *testing.T) {
	t.Parallel()
	dsn := legacy(t, postgrestest.Empty(t))
	c := connect(t, dsn, "")
	mustExec(t, c, `INSERT INTO users (username, email, password_hash)
		SELECT 'many' || n, 'many' || n || '@example.org', 'x' FROM generate_series(1, 5000) n`)
	mustExec(t, c, `INSERT INTO sessions (user_id, session_token, expires_at)
		SELECT 11 + n % 5000, 'plain-token-many-' || n, NOW() + INTERVAL '7 days' FROM generate_series(1, 20000) n`)
	mustExec(t, c, `INSERT INTO event_log (aggregate_type, aggregate_id, event_type, event_data, version, user_id)
		SELECT 'User', 11 + n % 5000, 'UserLoggedIn', '{}', n / 5000, 11 + n % 5000 FROM generate_series(1, 20000) n`)
	begun := time.Now()
	migrate(t, dsn, postgres.MigrateOptions{})
	t.Logf("20,000 sessions and as many events: %v", time.Since(begun).Round(time.Millisecond))
	for _, check := range []string{
		"select count(*) = 20000 from sessions where id > 11 and session_token = 'h1:' || encode(token_hash, 'hex')",
		"select count(*) = 1 from sessions where token_hash = sha256('plain-token-many-777')",
		"select count(*) = 20011 from events",
		"select count(*) = 0 from event_log where imported_at is null",
	} {
		if !value[bool](t, c, check) {
			t.Errorf("not: %s", check)
		}
	}
}
