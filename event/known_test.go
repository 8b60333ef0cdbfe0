package event_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// believed returns how many events were stored without a look at their entities' versions.
func believed(t *testing.T, reg *prometheus.Registry) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "rootstream_event_log_believed_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatal("there is no such metric")
	return 0
}

// untold has statements run unseen by what tells writers that events were rewritten, as restoring an older state is.
func untold(t *testing.T, db *postgres.DB, do func()) {
	t.Helper()
	execute(t, db, "alter table events disable trigger events_rewritten")
	do()
	execute(t, db, "alter table events enable always trigger events_rewritten")
}

// TestNothingThatWasKnownIsBelievedOnceItIsNotSo has a log that knows the newest versions of two entities of a shard, and
// something happen behind its back. Each time it then stores what follows on what is really there, or says what that is.
func TestNothingThatWasKnownIsBelievedOnceItIsNotSo(t *testing.T) {
	t.Parallel()
	type scene struct {
		t     *testing.T
		db    *postgres.DB
		a, b  event.Ref // the last of a's events comes before the last of b's, which is the newest of their shard
		other event.Ref // of the same shard
	}
	for name, tt := range map[string]struct {
		happens  func(s scene)
		moved    int64 // a's version, from what it was
		believed bool
	}{
		"nothing":                     {func(scene) {}, 0, true},
		"an append to another shard":  {func(s scene) { mustAppend(s.t, s.db, anyOf(onShard(s.a.Shard()^1))) }, 0, true},
		"an append to the entity":     {func(s scene) { mustAppend(s.t, s.db, anyOf(s.a)) }, 1, false},
		"an append to another entity": {func(s scene) { mustAppend(s.t, s.db, anyOf(s.other)) }, 0, false},
		"an import":                   {func(s scene) { imported(s.t, s.db, s.a) }, 1, false},
		"an erasure":                  {func(s scene) { erased(s.t, s.db, s.a) }, 1, false},
		"old events are removed":      {func(s scene) { execute(s.t, s.db, "delete from events where version = 1") }, 0, false},
		"the newest of an entity is removed": {func(s scene) {
			execute(s.t, s.db, "delete from events where aggregate_id = $1 and version = 4", s.a.ID)
		}, -1, false},
		"the newest of an entity is removed by a session that fires no triggers": {func(s scene) {
			if err := s.db.InTx(s.t.Context(), func(tx *postgres.Tx) error {
				if _, err := tx.Exec(s.t.Context(), "set local session_replication_role = replica"); err != nil {
					return err
				}
				_, err := tx.Exec(s.t.Context(), "delete from events where aggregate_id = $1 and version = 4", s.a.ID)
				return err
			}); err != nil {
				s.t.Fatal(err)
			}
		}, -1, false},
		"all are removed": {func(s scene) { execute(s.t, s.db, "truncate events") }, -4, false},
		"the newest of an entity is made another's": {func(s scene) {
			execute(s.t, s.db, "update events set aggregate_id = $2, version = 1 where aggregate_id = $1 and version = 4", s.a.ID, s.other.ID)
		}, -1, false},
		"an event is put before the end of the shard": {func(s scene) {
			execute(s.t, s.db, `insert into events (shard, seq, aggregate_type, aggregate_id, version, name)
				values (event_shard($2), -1, $1, $2, 5, 'user.updated')`, s.a.Type, s.a.ID)
		}, 1, true},
		"an older state comes back": {func(s scene) {
			untold(s.t, s.db, func() { execute(s.t, s.db, "delete from events where version = 4") })
		}, -1, false},
		"numbers are given out again after an older state came back": {func(s scene) {
			untold(s.t, s.db, func() {
				execute(s.t, s.db, "delete from events where version = 4")
				mustAppend(s.t, s.db, anyOf(s.other))
				mustAppend(s.t, s.db, anyOf(s.b)) // of the same number, entity and version as the newest that is gone
			})
		}, -1, false},
		"a number is given to another entity at the same time": {func(s scene) {
			untold(s.t, s.db, func() {
				execute(s.t, s.db, `create table gone as select shard, seq, at from events where version = 4;`)
				execute(s.t, s.db, "delete from events where version = 4")
				mustAppend(s.t, s.db, anyOf(s.b))
				mustAppend(s.t, s.db, anyOf(s.other))
				execute(s.t, s.db, "update events e set at = gone.at from gone where (gone.shard, gone.seq) = (e.shard, e.seq)")
			})
		}, -1, false},
	} {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, the log stores others first: %v", name, late), func(t *testing.T) {
				t.Parallel()
				reg := prometheus.NewRegistry()
				s := scene{t: t, db: postgrestest.New(t)}
				l := runLog(t, event.LogConfig{DB: s.db, Registerer: reg})
				s.a = userOf(t, s.db)
				s.b, s.other = onShard(s.a.Shard()), onShard(s.a.Shard())
				both := func(first event.Ref, expect int64, second event.Ref) error {
					a := anyOf(first)
					a.Expect = expect
					_, err := l.Append(context.Background(), a, anyOf(second))
					return err
				}
				for version := range int64(4) {
					if err := both(s.a, version, s.b); err != nil {
						t.Fatal(err)
					}
				}
				if n := believed(t, reg); n != 6 {
					t.Fatalf("%v of the first 8 events were believed, want all but the 2 that came first", n)
				}
				tt.happens(s)
				if late {
					if err := both(onShard(s.a.Shard()), 0, s.b); err != nil {
						t.Fatal(err)
					}
				}
				before := believed(t, reg)
				err := both(s.a, 4, s.b)
				lost, ok := errors.AsType[*event.VersionError](err)
				switch {
				case tt.moved == 0 && err != nil:
					t.Errorf("what follows is refused: %v", err)
				case tt.moved != 0 && (!ok || lost.Entity != s.a || lost.Actual != 4+tt.moved):
					t.Errorf("%v, want that the entity is at version %d", err, 4+tt.moved)
				}
				if was := believed(t, reg) > before; was != (tt.believed && tt.moved == 0) {
					t.Errorf("it was believed: %v", was)
				}
				before = believed(t, reg)
				for range 2 {
					if err := both(s.a, event.Any, s.b); err != nil {
						t.Fatal(err)
					}
				}
				if believed(t, reg) < before+2 {
					t.Error("it never believes anything again")
				}
				var holes int
				if err := s.db.QueryRow(t.Context(), `select count(*) from (select max(version) - min(version) + 1 - count(*) as missing
					from events group by aggregate_type, aggregate_id) e where missing <> 0`).Scan(&holes); err != nil || holes != 0 {
					t.Errorf("%d entities have holes, %v", holes, err)
				}
			})
		}
	}
}

// userOf makes a user as an old writer does.
func userOf(t *testing.T, db *postgres.DB) event.Ref {
	t.Helper()
	r := event.Ref{Type: "user"}
	if err := db.QueryRow(t.Context(), `insert into users (username, email, password_hash)
		values ('u', 'u@example.org', 'x') returning public_id`).Scan(&r.ID); err != nil {
		t.Fatal(err)
	}
	return r
}

// imported has an old writer log an event of a user, and imports it.
func imported(t *testing.T, db *postgres.DB, r event.Ref) {
	t.Helper()
	execute(t, db, `insert into event_log (aggregate_type, aggregate_id, event_type, event_data, version)
		select 'User', id, 'UserUpdated', '{}', 1 from users where public_id = $1`, r.ID)
	mustImport(t, db, 1)
}

func erased(t *testing.T, db *postgres.DB, r event.Ref) {
	t.Helper()
	if err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		_, err := event.Erase(t.Context(), tx, r, nil)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
