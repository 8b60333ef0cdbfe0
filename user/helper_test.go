package user_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/user"
)

// phc is a well-formed hash for accounts that never sign in.
const phc = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"

func newStore(tb testing.TB) (*user.Store, *postgres.DB) {
	tb.Helper()
	db := postgrestest.New(tb)
	return user.NewStore(db), db
}

func inTx(tb testing.TB, db *postgres.DB, fn func(tx *postgres.Tx) error) {
	tb.Helper()
	if err := db.InTx(tb.Context(), fn); err != nil {
		tb.Fatal(err)
	}
}

func create(ctx context.Context, s *user.Store, db *postgres.DB, in user.New) (u user.User, err error) {
	if in.PasswordHash == "" {
		in.PasswordHash = phc
	}
	err = db.InTx(ctx, func(tx *postgres.Tx) error {
		u, err = s.Create(ctx, tx, in)
		return err
	})
	return u, err
}

func mustCreate(tb testing.TB, s *user.Store, db *postgres.DB, name string) user.User {
	tb.Helper()
	u, err := create(tb.Context(), s, db, user.New{Username: name, Email: strings.ToLower(name) + "@example.org"})
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

// legacyInsert writes a row as a program of Phase 24.2 does and returns its id.
func legacyInsert(tb testing.TB, db *postgres.DB, username, email, hash string) int64 {
	tb.Helper()
	var id int64
	inTx(tb, db, func(tx *postgres.Tx) error {
		if _, err := tx.Exec(tb.Context(), "select set_config('rootstream.writer', '', true)"); err != nil {
			return err
		}
		return tx.QueryRow(tb.Context(), "insert into users (username, email, password_hash) values ($1, $2, $3) returning id",
			username, email, hash).Scan(&id)
	})
	return id
}

// told returns the account's events as "name data actor", in order.
func told(tb testing.TB, db *postgres.DB, id uuid.UUID) []string {
	tb.Helper()
	rows, err := db.Query(tb.Context(), `select name, data, actor_id from events
		where aggregate_type = 'user' and aggregate_id = $1 and user_id = $1 order by version`, id)
	if err != nil {
		tb.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var name string
		var data json.RawMessage
		var actor *uuid.UUID
		scanned := row.Scan(&name, &data, &actor)
		line := fmt.Sprintf("%s %s", name, strings.ReplaceAll(string(data), id.String(), "its own"))
		if actor != nil {
			line += " by " + actor.String()
		}
		return line, scanned
	})
	if err != nil {
		tb.Fatal(err)
	}
	return lines
}

func count(tb testing.TB, db *postgres.DB, sql string, args ...any) int {
	tb.Helper()
	var n int
	if err := db.QueryRow(tb.Context(), sql, args...).Scan(&n); err != nil {
		tb.Fatal(err)
	}
	return n
}
