package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	pgxuuid "github.com/vgarvardt/pgx-google-uuid/v5"

	"rootstream/errs"
)

// Config says how to reach a database. Zero values mean the defaults.
type Config struct {
	DSN              string        // URL or keyword=value string, as libpq reads it
	MaxConns         int           // pool size; 0 means 20
	AcquireTimeout   time.Duration // longest wait for a free connection; 0 means 5s
	ConnectTimeout   time.Duration // longest wait for a new one; 0 means 3s
	StatementTimeout time.Duration // longest statement; 0 means 30s
	LockTimeout      time.Duration // longest wait for a lock; 0 means 5s
	OnCommit         func(*Tx)     // told of every acknowledged commit of InTx, after its AfterCommit; must be quick
	Registerer       prometheus.Registerer
	Logger           *slog.Logger // nil means slog.Default
}

func (c Config) withDefaults() Config {
	if c.MaxConns == 0 {
		c.MaxConns = 20
	}
	if c.AcquireTimeout == 0 {
		c.AcquireTimeout = 5 * time.Second
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 3 * time.Second
	}
	if c.StatementTimeout == 0 {
		c.StatementTimeout = 30 * time.Second
	}
	if c.LockTimeout == 0 {
		c.LockTimeout = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// Querier is what reads need: a pool or a transaction.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// DB is a pool of connections to one database. It is safe for concurrent use.
type DB struct {
	pool *pgxpool.Pool
	cfg  Config
}

// Open prepares a pool. It does not wait for the server: see [DB.Ping].
func Open(ctx context.Context, cfg Config) (*DB, error) {
	cfg = cfg.withDefaults()
	pc, err := pgxpool.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, ErrBadDSN.WithCause(redactDSN(err))
	}
	pc.MaxConns = int32(cfg.MaxConns) //nolint:gosec // a pool size
	pc.MaxConnIdleTime = 5 * time.Minute
	pc.MaxConnLifetime = time.Hour
	pc.MaxConnLifetimeJitter = 5 * time.Minute
	pc.HealthCheckPeriod = 15 * time.Second
	pc.ConnConfig.ConnectTimeout = cfg.ConnectTimeout
	if pc.ConnConfig.RuntimeParams["application_name"] == "" {
		pc.ConnConfig.RuntimeParams["application_name"] = "rootstream"
	}
	if cfg.Registerer != nil {
		if pc.ConnConfig.Tracer, err = newTracer(cfg.Registerer); err != nil {
			return nil, err
		}
	}
	pc.AfterConnect = func(ctx context.Context, c *pgx.Conn) error { return prepareSession(ctx, c, cfg) }
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("open the connection pool: %w", redactDSN(err))
	}
	if cfg.Registerer != nil {
		if err := registerPool(cfg.Registerer, pool); err != nil {
			pool.Close()
			return nil, err
		}
	}
	return &DB{pool: pool, cfg: cfg}, nil
}

// prepareSession sets what every connection of ours has, whatever the server's defaults are: an acknowledged commit is
// on disk, and every statement sees what was committed before it.
func prepareSession(ctx context.Context, c *pgx.Conn, cfg Config) error {
	pgxuuid.Register(c.TypeMap())
	_, err := c.Exec(ctx, `select set_config('rootstream.writer', 'on', false), set_config('TimeZone', 'UTC', false),
		set_config('statement_timeout', $1, false), set_config('lock_timeout', $2, false),
		set_config('idle_in_transaction_session_timeout', '30s', false),
		set_config('default_transaction_isolation', 'read committed', false),
		set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), false)`,
		milliseconds(cfg.StatementTimeout), milliseconds(cfg.LockTimeout))
	if err != nil {
		return fmt.Errorf("prepare a connection: %w", err)
	}
	return nil
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%dms", d.Milliseconds()) }

// Close waits for connections in use and closes them all.
func (db *DB) Close() { db.pool.Close() }

// Ping asks the server for an answer on a connection of the pool.
func (db *DB) Ping(ctx context.Context) error {
	_, err := db.Exec(ctx, "select 1")
	return err
}

// Stat returns the connections in use and the size of the pool.
func (db *DB) Stat() (inUse, maxConns int) {
	s := db.pool.Stat()
	return int(s.AcquiredConns()), int(s.MaxConns())
}

// acquire takes a connection, waiting no longer than AcquireTimeout.
func (db *DB) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	wait, cancel := context.WithTimeout(ctx, db.cfg.AcquireTimeout)
	defer cancel()
	c, err := db.pool.Acquire(wait)
	switch {
	case err == nil:
		return c, nil
	case ctx.Err() != nil:
		return nil, classify(ctx.Err())
	case errors.Is(err, context.DeadlineExceeded) && db.pool.Stat().AcquiredConns() >= db.pool.Stat().MaxConns():
		return nil, ErrPoolExhausted.WithRetryAfter(time.Second)
	default:
		return nil, classify(redactDSN(err))
	}
}

// bound gives ctx a deadline a little past the statement timeout, so that a
// server which does not answer at all cannot hold a caller.
func (db *DB) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, db.cfg.StatementTimeout+2*time.Second)
}

// Exec runs one statement.
func (db *DB) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	ctx, cancel := db.bound(ctx)
	defer cancel()
	c, err := db.acquire(ctx)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	defer c.Release()
	tag, err := c.Exec(ctx, sql, args...)
	return tag, classify(err)
}

// Query runs one statement that returns rows. The connection is held until they are closed.
func (db *DB) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	ctx, cancel := db.bound(ctx)
	c, err := db.acquire(ctx)
	if err != nil {
		cancel()
		return &heldRows{Rows: noRows{err: err}}, err
	}
	rows, err := c.Query(ctx, sql, args...)
	if err != nil {
		c.Release()
		cancel()
		return &heldRows{Rows: rows}, classify(err)
	}
	return &heldRows{Rows: rows, release: func() { c.Release(); cancel() }}, nil
}

// QueryRow runs one statement that returns at most one row.
func (db *DB) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := db.Query(ctx, sql, args...)
	return oneRow{rows: rows, err: err}
}

// SendBatch pipelines statements in one implicit transaction.
func (db *DB) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	ctx, cancel := db.bound(ctx)
	c, err := db.acquire(ctx)
	if err != nil {
		cancel()
		return failedBatch{err: err}
	}
	return &heldBatch{BatchResults: c.SendBatch(ctx, b), release: func() { c.Release(); cancel() }}
}

// Acquire lends one connection for work that needs a session of its own, such
// as an advisory lock; the caller must release it.
func (db *DB) Acquire(ctx context.Context) (*pgxpool.Conn, error) { return db.acquire(ctx) }

// CopyFrom bulk-loads rows into a table.
func (db *DB) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	ctx, cancel := db.bound(ctx)
	defer cancel()
	c, err := db.acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Release()
	n, err := c.CopyFrom(ctx, table, columns, src)
	return n, classify(err)
}

var _ Querier = (*DB)(nil)

// Errors of the connection and the server; those of kind Unavailable can be retried.
var (
	ErrUnavailable   = errs.New(errs.Unavailable, "database_unavailable", "the database cannot be reached")
	ErrReadOnly      = errs.New(errs.Unavailable, "database_read_only", "the database accepts no writes")
	ErrPoolExhausted = errs.New(errs.Unavailable, "database_pool_exhausted", "all database connections are in use")
	ErrBusy          = errs.New(errs.Unavailable, "database_busy", "the database took too long")
	ErrCommitUnknown = errs.New(errs.Unavailable, "commit_unknown", "the database did not say whether the change was stored")
	ErrFull          = errs.New(errs.Unavailable, "database_full", "the database is out of disk, memory or connections")
	ErrText          = errs.New(errs.Invalid, "invalid_text", "a text holds a character that cannot be stored")
	ErrBadDSN        = errs.New(errs.Invalid, "bad_dsn", "the PostgreSQL address cannot be read")
)
