package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"rootstream/internal/wait"
)

// migrationLock is the advisory lock under which one process at a time changes the schema.
const migrationLock = 7205_2430

// timezoneOption is a time zone inside libpq's options.
var timezoneOption = regexp.MustCompile(`(?i)(-c\s*|--)timezone=(\\.|\S)*`)

// openForMigration keeps the server's own time zone: 24.2's local times were stored in it.
func openForMigration(dsn, legacyZone string) (*sql.DB, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, ErrBadDSN.WithCause(redactDSN(err))
	}
	for name, value := range cfg.RuntimeParams {
		switch {
		case strings.EqualFold(name, "timezone"):
			delete(cfg.RuntimeParams, name)
		case name == "options":
			cfg.RuntimeParams[name] = timezoneOption.ReplaceAllString(value, "")
		}
	}
	cfg.ConnectTimeout = 5 * time.Second
	cfg.RuntimeParams["application_name"] = "rootstream migrate"
	return stdlib.OpenDB(*cfg, stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, `select set_config('rootstream.writer', 'on', false),
			set_config('rootstream.legacy_timezone', $1, false), set_config('lock_timeout', '2s', false),
			set_config('statement_timeout', '0', false), set_config('idle_in_transaction_session_timeout', '0', false)`, legacyZone)
		return err
	})), nil
}

// check refuses what cannot be migrated before anything is changed.
func (m *migrator) check(ctx context.Context) error {
	var version int
	err := m.db.QueryRowContext(ctx, "select current_setting('server_version_num')::int").Scan(&version)
	if err != nil {
		return wrap("ask the server's version", err)
	}
	if version < 140000 {
		return ErrTooOld.WithHint(fmt.Sprintf("this server is %d", version/10000))
	}
	for _, t := range []track{expand, contract} {
		p, err := provider(m.db, t, nil)
		if err != nil {
			return err
		}
		applied, err := appliedVersions(ctx, m.db, t)
		if err != nil {
			return err
		}
		for v := range applied {
			if v > newest(p) {
				return ErrNewerSchema.WithHint("update this program, or restore the backup made before the newer one ran")
			}
		}
	}
	return m.checkZone(ctx)
}

// checkZone accepts names of the server's time zone database only: PostgreSQL
// itself would take "nonsense1" for a zone one hour west of Greenwich.
func (m *migrator) checkZone(ctx context.Context) error {
	if m.opt.LegacyTimezone == "" {
		return nil
	}
	var known bool
	err := m.db.QueryRowContext(ctx, "select exists (select from pg_timezone_names where name = $1)", m.opt.LegacyTimezone).Scan(&known)
	if err != nil {
		return wrap("look the time zone up", err)
	}
	if !known {
		return ErrBadTimezone.WithHint("use a name like America/New_York")
	}
	return nil
}

// checkRecordedZone refuses a zone that comes too late: the times are converted once.
func (m *migrator) checkRecordedZone(ctx context.Context) error {
	if m.opt.LegacyTimezone == "" {
		return nil
	}
	var zone string
	err := m.db.QueryRowContext(ctx, "select value from adoption_facts where name = 'legacy_timezone'").Scan(&zone)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // there were no old times
	}
	if err != nil {
		return wrap("read the recorded time zone", err)
	}
	if m.opt.LegacyTimezone != zone {
		return ErrTimezoneRecorded.WithHint("it is " + zone + "; to convert in another one, restore the backup and migrate again")
	}
	return nil
}

// explain turns the refusals an operator can do something about into errors that say what.
func (m *migrator) explain(ctx context.Context, err error) error {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return classify(err)
	}
	switch pe.Code {
	case "42501":
		return ErrNotOwner.WithCause(err).WithHint("connect as the owner of the tables: " + pe.Message)
	case "0A000":
		hint := pe.Message
		if pe.Detail != "" {
			hint += ": " + pe.Detail
		}
		if views := m.views(ctx); views != "" {
			hint = "drop these views, migrate, and create them again: " + views
		}
		return ErrDependents.WithCause(err).WithHint(hint)
	}
	return classify(err)
}

// views names the views over the tables of 24.2.
func (m *migrator) views(ctx context.Context) string {
	var names sql.NullString
	err := m.db.QueryRowContext(ctx, `select string_agg(distinct r.ev_class::regclass::text, ', ')
		from pg_rewrite r join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
		where d.refclassid = 'pg_class'::regclass and d.refobjid <> r.ev_class and d.refobjsubid > 0
		  and d.refobjid in (select to_regclass(t) from unnest('{users,sessions,streams,stream_sessions,recordings,
		      usage_logs,billing_accounts,event_log,snapshots}'::text[]) t)`).Scan(&names)
	if err != nil {
		return ""
	}
	return names.String
}

// holders names the transactions that have been open longest: they hold the tables.
func (m *migrator) holders(ctx context.Context) string {
	var names sql.NullString
	err := m.db.QueryRowContext(ctx, `select string_agg(format('pid %s (%s, open for %s s)', pid,
		    coalesce(nullif(application_name, ''), usename), extract(epoch from now() - xact_start)::int), ', ')
		from (select * from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
		      and xact_start < now() - interval '1 s' order by xact_start limit 3) a`).Scan(&names)
	if err != nil || !names.Valid {
		return "end the transactions that hold the tables and migrate again"
	}
	return "end the transactions that hold the tables and migrate again; open longest: " + names.String
}

// inUse reports whether a step failed only because others hold what it needs.
func inUse(err error) bool {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pe.Code == "55P03" || pe.Code == "40P01")
}

// schemaLock is goose's session lock with short looks and a deadline.
type schemaLock struct{ deadline time.Time }

// SessionLock waits for the lock on conn.
func (l *schemaLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	for {
		var locked bool
		err := conn.QueryRowContext(ctx, "select pg_try_advisory_lock($1)", int64(migrationLock)).Scan(&locked)
		if err != nil || locked {
			return err
		}
		if time.Now().After(l.deadline) {
			return ErrMigrating.WithHint("another process is migrating; wait for it")
		}
		if err := wait.For(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// SessionUnlock gives the lock back; a dead connection has given it back already.
func (l *schemaLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, "select pg_advisory_unlock($1)", int64(migrationLock))
	if err != nil && classify(err) != err { //nolint:errorlint // was it given a kind?
		return nil
	}
	return err
}
