package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

	"rootstream/errs"
	"rootstream/internal/wait"
)

//go:embed migrations/*.sql
var expandFiles embed.FS

//go:embed contract/*.sql
var contractFiles embed.FS

// Errors of migrating.
var (
	ErrNewerSchema      = errs.New(errs.Conflict, "schema_newer", "the database was migrated by a newer version of rootstream")
	ErrTooOld           = errs.New(errs.Conflict, "server_too_old", "PostgreSQL 14 or newer is needed")
	ErrBadTimezone      = errs.New(errs.Invalid, "bad_timezone", "PostgreSQL does not know that time zone")
	ErrTimezoneRecorded = errs.New(errs.Conflict, "timezone_recorded", "the old times were converted already, in another time zone")
	ErrDependents       = errs.New(errs.Conflict, "schema_dependents", "something else depends on columns that must change")
	ErrNotOwner         = errs.New(errs.Forbidden, "schema_not_owner", "the user of this connection may not change the schema")
	ErrMigrating        = errs.New(errs.Unavailable, "schema_busy", "the schema could not be changed in time")
)

// MigrateOptions says how far to go. The zero value applies everything.
type MigrateOptions struct {
	Rolling        bool          // only expand: writers of Phase 24.2 keep working
	LegacyTimezone string        // zone of the local times in a 24.2 database; "" means the database's own default
	Patience       time.Duration // longest wait for other processes and transactions; 0 means 5 min
	Logger         *slog.Logger  // nil means slog.Default
}

func (o MigrateOptions) withDefaults() MigrateOptions {
	if o.Patience == 0 {
		o.Patience = 5 * time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// Migration is one step of the schema.
type Migration struct {
	Version   int64      `json:"version"`
	Name      string     `json:"name"`
	Kind      string     `json:"kind"` // expand or contract
	AppliedAt *time.Time `json:"applied_at"`
}

// Migrate brings the database's schema up to date and returns the steps it
// applied, also when a later one fails. Each step is one transaction: whatever
// interrupts it, the next call goes on where it stopped. It takes the tables
// it must for 900 ms at a time and gives up with [ErrMigrating] after
// opt.Patience.
func Migrate(ctx context.Context, dsn string, opt MigrateOptions) ([]Migration, error) {
	opt = opt.withDefaults()
	db, err := openForMigration(dsn, opt.LegacyTimezone)
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }()
	m := migrator{db: db, opt: opt, deadline: time.Now().Add(opt.Patience)}
	if err = m.check(ctx); err != nil {
		return nil, err
	}
	applied, err := m.up(ctx, expand)
	if err == nil {
		err = m.checkRecordedZone(ctx)
	}
	if err == nil {
		err = m.importEvents(ctx)
	}
	if err != nil || opt.Rolling {
		return applied, err
	}
	more, err := m.up(ctx, contract)
	if len(more) > 0 {
		m.forgetStatistics(ctx)
	}
	return append(applied, more...), err
}

// MigrationStatus lists all steps, applied or not, in order. It only reads.
func MigrationStatus(ctx context.Context, dsn string) ([]Migration, error) {
	db, err := openForMigration(dsn, "")
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }()
	var all []Migration
	for _, t := range []track{expand, contract} {
		p, err := provider(db, t, nil)
		if err != nil {
			return nil, err
		}
		when, err := appliedVersions(ctx, db, t)
		if err != nil {
			return nil, err
		}
		for _, s := range p.ListSources() {
			step := Migration{Version: s.Version, Name: s.Path, Kind: t.kind}
			if at, ok := when[s.Version]; ok {
				step.AppliedAt = &at
			}
			all = append(all, step)
		}
	}
	return all, nil
}

// track is a series of steps with a table of its own that records them.
type track struct{ kind, dir, table string }

//nolint:gochecknoglobals // two constants of a struct type
var (
	expand   = track{"expand", "migrations", "goose_db_version"}
	contract = track{"contract", "contract", "goose_contract_version"}
)

func provider(db *sql.DB, t track, lock *schemaLock) (*goose.Provider, error) {
	files := fs.FS(expandFiles)
	if t.dir == contract.dir {
		files = contractFiles
	}
	sub, err := fs.Sub(files, t.dir)
	if err != nil {
		return nil, fmt.Errorf("open the embedded migrations: %w", err)
	}
	store, err := database.NewStore(database.DialectPostgres, t.table)
	if err != nil {
		return nil, fmt.Errorf("prepare the table of migrations: %w", err)
	}
	options := []goose.ProviderOption{goose.WithStore(store), goose.WithDisableGlobalRegistry(true)}
	if lock != nil {
		options = append(options, goose.WithSessionLocker(lock))
	}
	p, err := goose.NewProvider("", db, sub, options...)
	if err != nil {
		return nil, fmt.Errorf("read the embedded migrations: %w", err)
	}
	return p, nil
}

// appliedVersions reads what a track's table records; no table means nothing.
func appliedVersions(ctx context.Context, db *sql.DB, t track) (map[int64]time.Time, error) {
	var exists bool
	if err := db.QueryRowContext(ctx, "select to_regclass($1) is not null", t.table).Scan(&exists); err != nil || !exists {
		return nil, wrap("read the state of the schema", err)
	}
	//nolint:gosec // the table's name is one of our two constants
	rows, err := db.QueryContext(ctx, "select version_id, tstamp at time zone current_setting('TimeZone') from "+t.table+" where is_applied")
	if err != nil {
		return nil, wrap("read the state of the schema", err)
	}
	defer func() { _ = rows.Close() }()
	when := map[int64]time.Time{}
	for rows.Next() {
		var version int64
		var at time.Time
		if err := rows.Scan(&version, &at); err != nil {
			return nil, wrap("read the state of the schema", err)
		}
		when[version] = at.UTC()
	}
	return when, wrap("read the state of the schema", rows.Err())
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, classify(err))
}

// migrator is one call of Migrate.
type migrator struct {
	db       *sql.DB
	opt      MigrateOptions
	deadline time.Time
}

// up applies a track's steps, again and again while tables it needs are in use.
func (m *migrator) up(ctx context.Context, t track) ([]Migration, error) {
	p, err := provider(m.db, t, &schemaLock{deadline: m.deadline})
	if err != nil {
		return nil, err
	}
	var applied []Migration
	for {
		results, err := p.Up(ctx)
		if partial, ok := errors.AsType[*goose.PartialError](err); ok {
			results = partial.Applied
		}
		for _, r := range results {
			now := time.Now().UTC()
			applied = append(applied, Migration{Version: r.Source.Version, Name: r.Source.Path, Kind: t.kind, AppliedAt: &now})
			m.opt.Logger.InfoContext(ctx, "migrated the schema", "step", r.Source.Path, "kind", t.kind, "took", r.Duration)
		}
		switch {
		case err == nil:
			return applied, nil
		case !inUse(err):
			return applied, fmt.Errorf("migrate the schema: %w", m.explain(ctx, err))
		case time.Now().After(m.deadline):
			return applied, ErrMigrating.WithCause(err).WithHint(m.holders(ctx))
		}
		m.opt.Logger.WarnContext(ctx, "a table is in use, trying again", "err", err)
		if err := wait.For(ctx, 300*time.Millisecond); err != nil {
			return applied, err
		}
	}
}

// newest returns the highest version this program knows.
func newest(p *goose.Provider) int64 {
	sources := p.ListSources()
	return slices.MaxFunc(sources, func(a, b *goose.Source) int { return int(a.Version - b.Version) }).Version
}

// importEvents copies the history of 24.2 before anything new can follow it.
func (m *migrator) importEvents(ctx context.Context) error {
	total := 0
	for {
		var n int
		// Not called when nothing waits: with nothing to do, a read-only server is good enough.
		err := m.db.QueryRowContext(ctx, `select case when exists (select from event_log where imported_at is null)
			then import_event_log(2000) else 0 end`).Scan(&n)
		switch {
		case err != nil && inUse(err) && time.Now().Before(m.deadline):
			if err = wait.For(ctx, 300*time.Millisecond); err != nil {
				return err
			}
		case err != nil:
			return wrap("import event_log", err)
		case n == 0:
			return nil
		default:
			total += n
			m.opt.Logger.InfoContext(ctx, "imported event_log", "events", total)
		}
	}
}

// forgetStatistics rewrites the planner's statistics, where samples of the
// plain tokens may linger. Not being allowed to is no reason to fail.
func (m *migrator) forgetStatistics(ctx context.Context) {
	if _, err := m.db.ExecContext(ctx, "vacuum (full) pg_catalog.pg_statistic"); err != nil {
		m.opt.Logger.InfoContext(ctx, "old statistics stay until the next vacuum of pg_statistic", "err", err)
	}
}
