package postgres

import (
	"context"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// ServerFacts is what an operator wants to know about a server.
type ServerFacts struct {
	Version        string        `json:"version"`     // such as 15.14
	VersionNum     int           `json:"version_num"` // such as 150014
	Standby        bool          `json:"standby"`     // follows a primary and takes no writes
	ReadOnly       bool          `json:"read_only"`   // new transactions take no writes, for whatever reason
	Connections    int           `json:"connections"` // of clients, to all databases
	MaxConnections int           `json:"max_connections"`
	ClockOffset    time.Duration `json:"clock_offset"` // how far the server's clock is ahead of ours, ± half a round trip
}

// Inspect asks the server behind db about itself. It only reads.
func Inspect(ctx context.Context, db *DB) (ServerFacts, error) {
	var f ServerFacts
	err := db.QueryRow(ctx, `select split_part(current_setting('server_version'), ' ', 1), current_setting('server_version_num')::int,
		pg_is_in_recovery(), current_setting('transaction_read_only')::bool, current_setting('max_connections')::int,
		(select count(*) from pg_stat_activity where backend_type = 'client backend')`).
		Scan(&f.Version, &f.VersionNum, &f.Standby, &f.ReadOnly, &f.MaxConnections, &f.Connections)
	if err != nil {
		return ServerFacts{}, wrap("ask PostgreSQL about itself", err)
	}
	var server time.Time
	before := time.Now() // the connection is there by now, so this is one round trip
	if err := db.QueryRow(ctx, "select clock_timestamp()").Scan(&server); err != nil {
		return ServerFacts{}, wrap("ask PostgreSQL for the time", err)
	}
	f.ClockOffset = server.Sub(before.Add(time.Since(before) / 2))
	return f, nil
}

// ContentFacts is what an operator wants to know about the database. What has no table yet is zero.
type ContentFacts struct {
	LiveSessions  int64      `json:"live_sessions"`
	OutboxPending int64      `json:"outbox_pending"` // not sent and not given up
	OutboxOldest  *time.Time `json:"outbox_oldest"`  // when the oldest of them was due first
	Keysets       []string   `json:"keysets"`        // their names
	SealedFactors int64      `json:"sealed_factors"` // second factors whose secret a keyset sealed
	OldestSealed  *time.Time `json:"oldest_sealed"`
}

// InspectContent counts what the tables hold. It only reads.
func InspectContent(ctx context.Context, db *DB) (ContentFacts, error) {
	var f ContentFacts
	for _, part := range []struct {
		table, sql string
		into       []any
	}{
		{
			"session_invalidations", // beside it, sessions has the columns asked for
			"select count(*) from sessions where is_active and expires_at > now()", []any{&f.LiveSessions},
		},
		{
			"outbox",
			"select count(*), min(created_at) from outbox where sent_at is null and abandoned_at is null",
			[]any{&f.OutboxPending, &f.OutboxOldest},
		},
		{"keysets", "select array_agg(name order by name) from keysets", []any{&f.Keysets}},
		{"user_mfa", "select count(*), min(created_at) from user_mfa where secret is not null", []any{&f.SealedFactors, &f.OldestSealed}},
	} {
		var there bool
		if err := db.QueryRow(ctx, "select to_regclass($1) is not null", part.table).Scan(&there); err != nil {
			return ContentFacts{}, wrap("look for the table "+part.table, err)
		}
		if !there {
			continue
		}
		if err := db.QueryRow(ctx, part.sql).Scan(part.into...); err != nil {
			return ContentFacts{}, wrap("count what is in "+part.table, err)
		}
	}
	return f, nil
}

// CheckSchema reports why this program could not bring the database at dsn up to date: an old server, a schema of a
// newer program. It changes nothing.
func CheckSchema(ctx context.Context, dsn string) error {
	db, err := openForMigration(dsn, "")
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	return (&migrator{db: db}).check(ctx)
}

// Address returns where a DSN leads, without its password: user@host:port/database.
func Address(dsn string) string {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return "an address that cannot be read"
	}
	return cfg.User + "@" + net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port))) + "/" + cfg.Database
}
