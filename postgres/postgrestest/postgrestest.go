// Package postgrestest gives each test a real PostgreSQL database of its own.
//
// The first call in a test process starts a server in a temporary folder (as
// user postgres when the tests run as root) and migrates a template database;
// every database after that is a clone of it. The server ends with the
// process, even when that is killed. A missing server fails the test. A test
// that must break its server starts one of its own with [Server].
package postgrestest

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/postgres"
)

const template = "rootstream_template"

// One server a test process, that is the point.
var (
	server struct {
		once sync.Once
		err  error
		at   address
	}
	migrated struct {
		once sync.Once
		err  error
	}
	cloning sync.Mutex // a template cannot be copied twice at once
	serial  atomic.Int64
)

// New returns a pool on a migrated database that is dropped when the test ends.
func New(tb testing.TB) *postgres.DB {
	tb.Helper()
	return Open(tb, postgres.Config{DSN: DSN(tb)})
}

// Open opens a pool as cfg says and closes it when the test ends.
func Open(tb testing.TB, cfg postgres.Config) *postgres.DB {
	tb.Helper()
	cfg = patient(cfg)
	db, err := postgres.Open(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(db.Close)
	return db
}

// DSN returns the address of a migrated database that is dropped when the test ends.
func DSN(tb testing.TB) string {
	tb.Helper()
	at := running(tb)
	migrated.once.Do(func() { migrated.err = makeTemplate(at) })
	if migrated.err != nil {
		tb.Fatalf("migrate the template database: %v", migrated.err)
	}
	return create(tb, at, template)
}

// Empty returns the address of a database without any table.
func Empty(tb testing.TB) string {
	tb.Helper()
	return create(tb, running(tb), "template0")
}

// Kept returns the address of an empty database that lives as long as the test process, to be cloned.
func Kept(tb testing.TB) string {
	tb.Helper()
	at, name := running(tb), fmt.Sprintf("kept_%d", serial.Add(1))
	if err := at.exec(context.Background(), "create database "+name+" template template0"); err != nil {
		tb.Fatalf("create a database for the tests: %v", err)
	}
	return at.dsn(name)
}

// Clone returns the address of a copy of the database at dsn, which must be of
// this package's making and have no connection, dropped when the test ends.
func Clone(tb testing.TB, dsn string) string {
	tb.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		tb.Fatal(err)
	}
	return create(tb, running(tb), cfg.Database)
}

// patient gives what is left open more time than a server of one's own needs:
// tests share few cores with many, and none of them is about that.
func patient(cfg postgres.Config) postgres.Config {
	cfg.AcquireTimeout = cmp.Or(cfg.AcquireTimeout, time.Minute)
	cfg.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, 30*time.Second)
	cfg.StatementTimeout = cmp.Or(cfg.StatementTimeout, 2*time.Minute)
	cfg.LockTimeout = cmp.Or(cfg.LockTimeout, time.Minute)
	return cfg
}

// AdminDSN returns the address of the server's maintenance database, as superuser.
func AdminDSN(tb testing.TB) string {
	tb.Helper()
	return running(tb).dsn("postgres")
}

func running(tb testing.TB) address {
	tb.Helper()
	server.once.Do(func() { server.at, server.err = startShared() })
	if server.err != nil {
		tb.Fatalf("start PostgreSQL for the tests (apt-get install postgresql): %v", server.err)
	}
	return server.at
}

// startShared trades durability for speed: nobody kills this server.
func startShared() (address, error) {
	p, err := newProcess()
	if err != nil {
		return address{}, err
	}
	return p.at, p.start("synchronous_commit=off", "full_page_writes=off", "max_connections=400",
		"shared_buffers=64MB", "max_wal_size=1GB", "autovacuum_naptime=5s")
}

func makeTemplate(at address) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := at.exec(ctx, "create database "+template); err != nil {
		return err
	}
	_, err := postgres.Migrate(ctx, at.dsn(template), postgres.MigrateOptions{Rolling: true, Logger: slog.New(slog.DiscardHandler)})
	return err
}

func create(tb testing.TB, at address, from string) string {
	tb.Helper()
	name := fmt.Sprintf("test_%d", serial.Add(1))
	cloning.Lock()
	err := at.exec(context.Background(), fmt.Sprintf("create database %s template %s", name, from))
	cloning.Unlock()
	if err != nil {
		tb.Fatalf("create a database for the test: %v", err)
	}
	tb.Cleanup(func() {
		if err := at.exec(context.Background(), fmt.Sprintf("drop database if exists %s with (force)", name)); err != nil &&
			!strings.Contains(err.Error(), "refused") {
			tb.Logf("drop the test's database: %v", err)
		}
	})
	return at.dsn(name)
}

// address is where the server listens and its superuser's password.
type address struct {
	host     string
	port     int
	password string
}

func (a address) dsn(database string) string {
	return fmt.Sprintf("postgres://postgres:%s@%s:%d/%s?sslmode=disable", a.password, a.host, a.port, database)
}

// exec runs one statement in the maintenance database, even if the server is read-only by default.
func (a address) exec(ctx context.Context, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cfg, err := pgx.ParseConfig(a.dsn("postgres"))
	if err != nil {
		return err
	}
	cfg.RuntimeParams["default_transaction_read_only"] = "off"
	c, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = c.Close(ctx) }()
	_, err = c.Exec(ctx, sql)
	return err
}
