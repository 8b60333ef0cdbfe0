package statesync_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/statesync"
)

func TestManyEntitiesThatAreNotInMemoryAreReadTogether(t *testing.T) {
	t.Parallel()
	const entities = 300
	dsn, counts := postgrestest.DSN(t), prometheus.NewRegistry()
	db := postgrestest.Open(t, postgres.Config{DSN: dsn})
	before := start(t, db, nil)
	refs := make([]event.Ref, entities)
	for i := range refs {
		refs[i] = ref("thing")
		before.set(t, refs[i], "n", fmt.Sprint(i))
	}
	before.stop()
	n := start(t, postgrestest.Open(t, postgres.Config{DSN: dsn, Registerer: counts}), nil)
	batches := func() uint64 { return readings(t, counts) }
	had := batches()
	var wg, asked sync.WaitGroup
	asked.Add(entities)
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error { // nobody is answered until all have asked
		if _, err := tx.Exec(t.Context(), "lock table events in access exclusive mode"); err != nil {
			return err
		}
		for i, r := range refs {
			wg.Go(func() {
				asked.Done()
				d, err := n.Get(t.Context(), r, statesync.Local())
				if err != nil || d.Version != 1 || d.Data["n"] != fmt.Sprint(i) {
					t.Errorf("entity %d: %+v, %v", i, d, err)
				}
			})
		}
		asked.Wait()
		eventually(t, "somebody waits", func() bool {
			var waiting int
			err := db.QueryRow(t.Context(), `select count(*) from pg_locks where not granted and relation = 'events'::regclass
				and database = (select oid from pg_database where datname = current_database())`).Scan(&waiting)
			return err == nil && waiting >= 2
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if got := batches() - had; got == 0 || got > entities/4 {
		t.Errorf("%d entities took %d readings", entities, got)
	}
}

// readings tells how many batches of statements were sent to the database of which r counts.
func readings(t *testing.T, r prometheus.Gatherer) (n uint64) {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == "rootstream_database_query_seconds" && m.GetLabel()[0].GetValue() == "batch" {
				n += m.GetHistogram().GetSampleCount()
			}
		}
	}
	return n
}

func TestWhatIsHeldIsReadTogether(t *testing.T) {
	t.Parallel()
	const entities = 600
	dsn, counts := postgrestest.DSN(t), prometheus.NewRegistry()
	db := postgrestest.Open(t, postgres.Config{DSN: dsn})
	if _, err := db.Exec(t.Context(), `insert into events (shard, seq, aggregate_type, aggregate_id, version, name, data)
		select event_shard(id), row_number() over (partition by event_shard(id)), 'held', id, 1, 'held.changed', jsonb_build_object('patch', jsonb_build_object('n', n))
		from (select n, gen_random_uuid() as id from generate_series(1, $1::int) n) e`, entities); err != nil {
		t.Fatal(err)
	}
	n := start(t, postgrestest.Open(t, postgres.Config{DSN: dsn, Registerer: counts}), nil)
	eventually(t, "all is held", func() bool { return n.Status().Documents == entities })
	if got := readings(t, counts); got == 0 || got > entities/4 {
		t.Errorf("%d entities took %d readings", entities, got)
	}
	var sum int64
	rows, err := db.Query(t.Context(), "select aggregate_id from events")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		d, err := n.Get(t.Context(), event.Ref{Type: "held", ID: id}, statesync.Local())
		if err != nil {
			t.Fatal(err)
		}
		v, err := d.Data["n"].(json.Number).Int64()
		if err != nil {
			t.Fatal(err)
		}
		sum += v
	}
	if sum != entities*(entities+1)/2 {
		t.Errorf("the documents are others: they add up to %d", sum)
	}
}

func TestWhoseReadingTakesTooLongIsToldSo(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	n := start(t, db, nil)
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		if _, err := tx.Exec(t.Context(), "lock table events in access exclusive mode"); err != nil {
			return err
		}
		var wg sync.WaitGroup
		for range 10 { // most of them wait for the readings of others
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				if _, err := n.Get(ctx, ref("thing"), statesync.Latest()); errs.KindOf(err) != errs.Unavailable {
					t.Errorf("without a reading: %v", err)
				}
			})
		}
		wg.Wait()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
