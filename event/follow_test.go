package event_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// TestTheDatabaseRefusesVersionsThatDoNotFollow has others than the log write into it.
func TestTheDatabaseRefusesVersionsThatDoNotFollow(t *testing.T) {
	t.Parallel()
	insert := func(versions string) string {
		return `insert into events (shard, seq, aggregate_type, aggregate_id, version, name)
			select event_shard($1), 100 + v, 'thing', $1, v, 'thing.told' from unnest(array[` + versions + `]) v`
	}
	for name, tt := range map[string]struct {
		before, sql string
		refused     bool
	}{
		"the next":                     {"", insert("4"), false},
		"the next two":                 {"", insert("4, 5"), false},
		"the next two, the last first": {"", insert("5, 4"), false},
		"a hole":                       {"", insert("5"), true},
		"a hole within a statement":    {"", insert("4, 6"), true},
		"the first of all":             {"delete from events", insert("1"), false},
		"the first three":              {"delete from events", insert("3, 1, 2"), false},
		"not the first":                {"delete from events", insert("2"), true},
		"after what is kept":           {"delete from events where version < 3", insert("4"), false},
		"the first again":              {"delete from events where version < 3", insert("1"), true},
		"before what is kept":          {"delete from events where version < 3", insert("2"), true},
		"moved away":                   {"", "update events set version = 9 where version = 3 and aggregate_id = $1", true},
		"moved by one":                 {"", "update events set version = 4 where version = 3 and aggregate_id = $1", true},
		"moved to another entity":      {"", "update events set aggregate_type = 'other' where version = 3 and aggregate_id = $1", true},
		"erased":                       {"", "update events set data = '{}' where aggregate_id = $1", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := postgrestest.New(t)
			r := newRef("thing")
			for range 3 {
				mustAppend(t, db, anyOf(r))
			}
			if tt.before != "" {
				execute(t, db, tt.before)
			}
			_, err := db.Exec(t.Context(), tt.sql, r.ID)
			fault, ok := errors.AsType[*pgconn.PgError](err)
			if refused := ok && fault.ConstraintName == "events_follow"; refused != tt.refused || (err != nil) != tt.refused {
				t.Errorf("%v, want a refusal: %v", err, tt.refused)
			}
			if err = appendAll(db, anyOf(r)); err != nil {
				t.Errorf("the log does not go on: %v", err)
			}
			found, err := event.NewStore(db).Verify(t.Context(), nil)
			if tt.before == "" && (err != nil || len(found.Gaps) > 1) { // the numbers of the shard
				t.Errorf("Verify = %+v, %v", found, err)
			}
		})
	}
}

// TestWhoeverElseTakesTheNextNumberHoldsTheLogUpButDoesNotFailIt has others write without waiting for their turn.
func TestWhoeverElseTakesTheNextNumberHoldsTheLogUpButDoesNotFailIt(t *testing.T) {
	t.Parallel()
	l, db := newLog(t)
	r, other := onShard(3), onShard(3)
	if _, err := l.Append(t.Context(), anyOf(r), anyOf(r)); err != nil {
		t.Fatal(err)
	}
	for _, unit := range [][]event.New{{anyOf(r)}, {anyOf(r), anyOf(r)}} {
		var wg sync.WaitGroup
		err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
			_, err := tx.Exec(t.Context(), `insert into events (shard, seq, aggregate_type, aggregate_id, version, name)
				select 3, max(seq) + 1, $1, $2, (select count(*) + 1 from events where aggregate_id = $2), 'stream.told'
				from events where shard = 3`, other.Type, other.ID)
			wg.Go(func() {
				if _, failed := l.Append(context.Background(), unit...); failed != nil {
					t.Errorf("%d events: %v", len(unit), failed)
				}
			})
			eventually(t, func() bool { return waitsFor(t, db, "transactionid") })
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		wg.Wait()
	}
	mustVerify(t, db)
}

// waitsFor reports whether anybody waits for a lock of a kind.
func waitsFor(t *testing.T, db *postgres.DB, kind string) (waits bool) {
	t.Helper()
	err := db.QueryRow(t.Context(), `select exists (select from pg_locks l join pg_stat_activity a using (pid)
		where l.locktype = $1 and not l.granted and a.datname = current_database())`, kind).Scan(&waits)
	if err != nil {
		t.Fatal(err)
	}
	return waits
}
