package event_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// oldWriter is a connection that knows nothing of us.
func oldWriter(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func mustExec(t *testing.T, c *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// users makes n users as an old writer does and returns their public ids by number.
func users(t *testing.T, c *pgx.Conn, n int) map[int]uuid.UUID {
	t.Helper()
	mustExec(t, c, `INSERT INTO users (username, email, password_hash)
		SELECT 'u' || n, 'u' || n || '@example.org', 'x' FROM generate_series(1, $1) n`, n)
	rows, _ := c.Query(t.Context(), "select id, public_id from users")
	ids := map[int]uuid.UUID{}
	var id int
	var public uuid.UUID
	if _, err := pgx.ForEachRow(rows, []any{&id, &public}, func() error { ids[id] = public; return nil }); err != nil {
		t.Fatal(err)
	}
	return ids
}

func mustImport(t *testing.T, db *postgres.DB, want int) {
	t.Helper()
	if n, err := (event.Importer{DB: db}).Import(t.Context()); err != nil || n != want {
		t.Fatalf("Import = %d, %v; want %d", n, err, want)
	}
}

func TestImportRenumbersRepeatedAndMissingVersions(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.DSN(t)
	db := postgrestest.Open(t, postgres.Config{DSN: dsn})
	c := oldWriter(t, dsn)
	ids := users(t, c, 1)
	ref := event.Ref{Type: "user", ID: ids[1]}
	mustAppend(t, db, event.New{Aggregate: ref, Name: "user.updated"}) // ours came first
	for _, version := range []any{1, 1, nil, 7, nil, 3} {
		mustExec(t, c, `INSERT INTO event_log (aggregate_type, aggregate_id, event_type, event_data, version, user_id)
			VALUES ('User', 1, 'UserUpdated', jsonb_build_object('was', $1::int), $1, 1)`, version)
	}
	mustImport(t, db, 6)
	mustImport(t, db, 0)
	events, err := event.NewStore(db).Read(t.Context(), event.Page{Entity: ref})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range events {
		got = append(got, fmt.Sprint(e.Version, " ", e.Name, " ", string(e.Data)))
	}
	want := []string{
		"1 user.updated {}", `2 UserUpdated {"was": 1}`, `3 UserUpdated {"was": 1}`, `4 UserUpdated {"was": null}`,
		`5 UserUpdated {"was": 7}`, `6 UserUpdated {"was": null}`, `7 UserUpdated {"was": 3}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("events:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	trail, err := event.NewStore(db).Audit(t.Context(), ids[1], event.Position{}, 0)
	if err != nil || len(trail) != 6 {
		t.Errorf("the user's trail has %d events, %v; want the 6 imported", len(trail), err)
	}
	mustVerify(t, db)
}

func TestImportKeepsTheHistoryOfADeletedUserTogether(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.DSN(t)
	db := postgrestest.Open(t, postgres.Config{DSN: dsn})
	c := oldWriter(t, dsn)
	ids := users(t, c, 2)
	log := func(id int, name string) {
		mustExec(t, c, `INSERT INTO event_log (aggregate_type, aggregate_id, event_type, event_data) VALUES ('User', $1, $2, '{}')`, id, name)
	}
	log(1, "UserCreated")
	mustImport(t, db, 1)
	mustExec(t, c, "DELETE FROM users WHERE id IN (1, 2)")
	log(1, "UserDeleted")
	log(2, "UserCreated") // nothing of it was imported while it was there
	log(2, "UserDeleted")
	mustImport(t, db, 3)
	if v, err := event.NewStore(db).Version(t.Context(), event.Ref{Type: "user", ID: ids[1]}); err != nil || v != 2 {
		t.Errorf("user 1 has version %d, %v; want 2", v, err)
	}
	var entities, versions int
	if err := db.QueryRow(t.Context(), `select count(distinct e.aggregate_id), max(e.version) from events e
		join event_log l on l.id = e.legacy_id where l.aggregate_id = 2`).Scan(&entities, &versions); err != nil || entities != 1 || versions != 2 {
		t.Errorf("user 2 became %d entities of up to %d versions, %v; want 1 of 2", entities, versions, err)
	}
	mustVerify(t, db)
}

func TestImportersOldWritersAndAppendersAtOnce(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.DSN(t)
	db := postgrestest.Open(t, postgres.Config{DSN: dsn})
	ids := users(t, oldWriter(t, dsn), 5)
	const turns = 60
	ctx, stop := context.WithCancel(t.Context())
	var importers, writers sync.WaitGroup
	for range 3 {
		importers.Go(func() {
			err := event.Importer{DB: db, Interval: time.Millisecond, Logger: slog.New(slog.DiscardHandler)}.Run(ctx)
			if err != nil {
				t.Errorf("Run = %v, want nil when it is stopped", err)
			}
		})
	}
	for w := range 4 {
		c := oldWriter(t, dsn)
		writers.Go(func() {
			for i := range turns {
				_, err := c.Exec(context.Background(), `INSERT INTO event_log (aggregate_type, aggregate_id, event_type, event_data, version, user_id)
					VALUES ('User', $1, 'Old', jsonb_build_object('writer', $2::int, 'turn', $3::int), 1, $1)`, 1+(i+w)%5, w, i)
				if err != nil {
					t.Error(err)
				}
			}
		})
		writers.Go(func() {
			for i := range turns {
				if err := appendAll(db, anyOf(event.Ref{Type: "user", ID: ids[1+i%5]}), anyOf(newRef("user"))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	stop()
	importers.Wait()
	if _, err := (event.Importer{DB: db}).Import(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustVerify(t, db)
	var old, once, inOrder int
	err := db.QueryRow(t.Context(), `select count(*), count(distinct legacy_id),
		count(*) filter (where (select count(*) from events o where o.aggregate_id = e.aggregate_id and o.data->>'writer' = e.data->>'writer'
			and (o.data->>'turn')::int > (e.data->>'turn')::int and o.version < e.version) = 0)
		from events e where name = 'Old'`).Scan(&old, &once, &inOrder)
	if err != nil || old != 4*turns || once != old || inOrder != old {
		t.Errorf("%d old events, %d of them once, %d in their writer's order, %v; want all %d", old, once, inOrder, err, 4*turns)
	}
}

func TestImportDoesNotWaitForADeletionThatWaitsForIt(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.DSN(t)
	db := postgrestest.Open(t, postgres.Config{DSN: dsn})
	c := oldWriter(t, dsn)
	users(t, c, 2)
	mustExec(t, c, `INSERT INTO event_log (aggregate_type, aggregate_id, event_type, event_data, user_id) VALUES ('User', 1, 'A', '{}', 1), ('User', 2, 'B', '{}', 2)`)
	mustExec(t, c, "begin")
	mustExec(t, c, "DELETE FROM users WHERE id = 1") // holds the first row: its user_id becomes null
	mustImport(t, db, 1)                             // the other
	mustExec(t, c, "commit")
	mustImport(t, db, 1)
	mustVerify(t, db)
}
