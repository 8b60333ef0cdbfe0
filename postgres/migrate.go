package postgres

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"

	"rootstream/errs"
)

//go:embed migrations/*.sql
var expandFiles embed.FS

//go:embed contract/*.sql
var contractFiles embed.FS

// The advisory lock under which one process at a time changes the schema.
const migrationLock = 7205_2430

// Errors of migrating.
var (
	ErrNewerSchema = errs.New(errs.Conflict, "schema_newer", "the database was migrated by a newer version of rootstream")
	ErrTooOld      = errs.New(errs.Conflict, "server_too_old", "PostgreSQL 14 or newer is needed")
	ErrBadTimezone = errs.New(errs.Invalid, "bad_timezone", "PostgreSQL does not know that time zone")
)

// MigrateOptions says how far to go. The zero value applies everything.
type MigrateOptions struct {
	Rolling        bool   // only expand: writers of Phase 24.2 keep working
	LegacyTimezone string // zone of the local times in a 24.2 database; "" means the database's own default
	Logger         *slog.Logger
}

// Migration is one step of the schema.
type Migration struct {
	Version   int64      `json:"version"`
	Name      string     `json:"name"`
	Kind      string     `json:"kind"` // expand or contract
	AppliedAt *time.Time `json:"applied_at"`
}

// Migrate brings the database's schema up to date and returns the steps it applied.
func Migrate(ctx context.Context, dsn string, opt MigrateOptions) ([]Migration, error) {
	db, err := openForMigration(dsn, opt.LegacyTimezone)
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }()
	if err := checkServer(ctx, db); err != nil {
		return nil, err
	}
	applied, err := up(ctx, db, expand)
	if err != nil || opt.Rolling {
		return applied, err
	}
	more, err := up(ctx, db, contract)
	return append(applied, more...), err
}

// MigrationStatus lists all steps, applied or not, in order.
func MigrationStatus(ctx context.Context, dsn string) ([]Migration, error) {
	db, err := openForMigration(dsn, "")
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }()
	var all []Migration
	for _, t := range []track{expand, contract} {
		p, err := provider(db, t)
		if err != nil {
			return nil, err
		}
		states, err := p.Status(ctx)
		if err != nil {
			return nil, fmt.Errorf("read the state of the schema: %w", classify(err))
		}
		for _, s := range states {
			m := Migration{Version: s.Source.Version, Name: s.Source.Path, Kind: t.kind}
			if s.State == goose.StateApplied {
				m.AppliedAt = &s.AppliedAt
			}
			all = append(all, m)
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

func provider(db *sql.DB, t track) (*goose.Provider, error) {
	files := fs.FS(expandFiles)
	if t.dir == "contract" {
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
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(migrationLock), lock.WithLockTimeout(1, 300))
	if err != nil {
		return nil, fmt.Errorf("prepare the migration lock: %w", err)
	}
	p, err := goose.NewProvider("", db, sub, goose.WithStore(store), goose.WithSessionLocker(locker),
		goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, fmt.Errorf("read the embedded migrations: %w", err)
	}
	return p, nil
}

func up(ctx context.Context, db *sql.DB, t track) ([]Migration, error) {
	p, err := provider(db, t)
	if err != nil {
		return nil, err
	}
	_, target, err := p.GetVersions(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the state of the schema: %w", classify(err))
	}
	results, err := p.Up(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrate the schema: %w", classify(err))
	}
	current, err := p.GetDBVersion(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the state of the schema: %w", classify(err))
	}
	if current > target {
		return nil, ErrNewerSchema.WithHint("update this program, or restore the backup made before the newer one ran")
	}
	now := time.Now().UTC()
	applied := make([]Migration, 0, len(results))
	for _, r := range results {
		applied = append(applied, Migration{Version: r.Source.Version, Name: r.Source.Path, Kind: t.kind, AppliedAt: &now})
	}
	return applied, nil
}

// openForMigration keeps the server's own time zone: 24.2's local times were stored in it.
func openForMigration(dsn, legacyZone string) (*sql.DB, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, ErrBadDSN.WithCause(redactDSN(err))
	}
	for name := range cfg.RuntimeParams {
		if strings.EqualFold(name, "timezone") {
			delete(cfg.RuntimeParams, name)
		}
	}
	cfg.ConnectTimeout = 5 * time.Second
	cfg.RuntimeParams["application_name"] = "rootstream migrate"
	return stdlib.OpenDB(*cfg, stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		if _, err := c.Exec(ctx, `select set_config('rootstream.writer', 'on', false),
			set_config('rootstream.legacy_timezone', $1, false), set_config('lock_timeout', '60s', false)`, legacyZone); err != nil {
			return err
		}
		if legacyZone == "" {
			return nil
		}
		if _, err := c.Exec(ctx, "select now() at time zone $1", legacyZone); err != nil {
			return ErrBadTimezone.WithCause(err).WithHint("use a name like America/New_York")
		}
		return nil
	})), nil
}

func checkServer(ctx context.Context, db *sql.DB) error {
	var version int
	err := db.QueryRowContext(ctx, "select current_setting('server_version_num')::int").Scan(&version)
	if err != nil {
		return fmt.Errorf("ask the server's version: %w", classify(err))
	}
	if version < 140000 {
		return ErrTooOld.WithHint(fmt.Sprintf("this server is %d", version/10000))
	}
	return nil
}
