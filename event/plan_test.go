package event_test

import (
	"sync"
	"testing"

	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// TestManyAppendsNeverReadTheWholeTable plans the statement while the table is empty and known to be: reading all of it
// costs nothing then, and the plan stays.
func TestManyAppendsNeverReadTheWholeTable(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.DSN(t)
	db, pool := postgrestest.Open(t, postgres.Config{DSN: dsn}), postgrestest.Open(t, postgres.Config{DSN: dsn})
	if _, err := db.Exec(t.Context(), "vacuum analyze events"); err != nil {
		t.Fatal(err)
	}
	scans := func() (n int64) {
		if err := db.QueryRow(t.Context(), "select seq_scan from pg_stat_user_tables where relname = 'events'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := scans()
	l := runLog(t, event.LogConfig{DB: pool})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				unit := make([]event.New, 8)
				for i := range unit {
					unit[i] = event.New{Aggregate: newRef("stream"), Name: "stream.updated", Expect: 0}
				}
				if _, err := l.Append(t.Context(), unit...); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	pool.Close() // what a connection has counted is known once it has ended
	if after := scans(); after != before {
		t.Errorf("the table was read from end to end %d times", after-before)
	}
}
