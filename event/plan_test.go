package event_test

import (
	"sync"
	"testing"

	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// TestNeitherAppendsNorStatesReadTheWholeTable has the statements planned while the table is empty and known to be: reading all of it
// costs nothing then, and a plan stays.
func TestNeitherAppendsNorStatesReadTheWholeTable(t *testing.T) {
	t.Parallel()
	for name, appending := range map[string]func(*postgres.DB) func() error{
		"many at once": func(db *postgres.DB) func() error {
			l := runLog(t, event.LogConfig{DB: db})
			return func() error {
				unit := make([]event.New, 8)
				for i := range unit {
					unit[i] = event.New{Aggregate: newRef("stream"), Name: "stream.updated", Expect: 0}
				}
				_, err := l.Append(t.Context(), unit...)
				return err
			}
		},
		"one in a transaction": func(db *postgres.DB) func() error {
			return func() error {
				return db.InTx(t.Context(), func(tx *postgres.Tx) error {
					return event.Append(tx, event.New{Aggregate: newRef("stream"), Name: "stream.updated", Expect: event.Any})
				})
			}
		},
		"states of many": func(db *postgres.DB) func() error {
			store := event.NewStore(db)
			return func() error {
				_, err := store.States(t.Context(), []event.Ref{newRef("stream"), newRef("stream")})
				return err
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := postgrestest.DSN(t)
			db, pool := postgrestest.Open(t, postgres.Config{DSN: dsn}), postgrestest.Open(t, postgres.Config{DSN: dsn})
			execute(t, db, "vacuum analyze events")
			before := wholeReads(t, db)
			one := appending(pool)
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for range 25 {
						if err := one(); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			pool.Close() // what a connection has counted is known once it has ended
			if after := wholeReads(t, db); after != before {
				t.Errorf("the table was read from end to end %d times", after-before)
			}
		})
	}
}

// wholeReads is how often the table of events was read from end to end.
func wholeReads(t *testing.T, db *postgres.DB) (n int64) {
	t.Helper()
	if err := db.QueryRow(t.Context(), "select seq_scan from pg_stat_user_tables where relname = 'events'").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestWritingSnapshotsReadsNoneOfOtherEntities has many of those, and counts entries of the index that are read.
func TestWritingSnapshotsReadsNoneOfOtherEntities(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.DSN(t)
	db, pool := postgrestest.Open(t, postgres.Config{DSN: dsn}), postgrestest.Open(t, postgres.Config{DSN: dsn})
	const others = 2000
	execute(t, db, `insert into event_snapshots (aggregate_type, aggregate_id, version, fold, codec, sha256, state, at)
		select 'stream', gen_random_uuid(), 100, 0, 1, '', '', now() from generate_series(1, $1)`, others)
	execute(t, db, "vacuum analyze event_snapshots")
	read := func() (n int64) {
		if err := db.QueryRow(t.Context(), `select (select sum(idx_tup_read) from pg_stat_user_indexes where relname = 'event_snapshots')
			+ (select seq_tup_read from pg_stat_user_tables where relname = 'event_snapshots')`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := read()
	l := runLog(t, event.LogConfig{DB: pool, SnapshotEvery: 1, KeepSnapshots: 1})
	for range 10 {
		unit := make([]event.New, 64)
		for i := range unit {
			unit[i] = event.New{Aggregate: newRef("stream"), Name: "stream.updated"}
		}
		if _, err := l.Append(t.Context(), unit...); err != nil {
			t.Fatal(err)
		}
		for _, n := range unit {
			eventually(t, func() bool { return newestSnapshot(t, db, n.Aggregate) == 1 })
		}
	}
	pool.Close() // what a connection has counted is known once it has ended
	var n int64
	eventually(t, func() bool { n = read() - before; return n >= 10*64 })
	if n > 2*others {
		t.Errorf("%d entries were read", n)
	}
}
