package event_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

func newRef(kind string) event.Ref { return event.Ref{Type: kind, ID: uuid.New()} }

// appendAll appends events in one transaction.
func appendAll(db *postgres.DB, events ...event.New) error {
	return db.InTx(context.Background(), func(tx *postgres.Tx) error {
		for _, e := range events {
			if err := event.Append(tx, e); err != nil {
				return err
			}
		}
		return nil
	})
}

func mustAppend(t testing.TB, db *postgres.DB, events ...event.New) { //nolint:thelper // for benchmarks too
	t.Helper()
	if err := appendAll(db, events...); err != nil {
		t.Fatal(err)
	}
}

func anyOf(ref event.Ref) event.New {
	return event.New{Aggregate: ref, Name: "user.updated", Expect: event.Any}
}

func mustVerify(t *testing.T, db *postgres.DB) {
	t.Helper()
	found, err := event.NewStore(db).Verify(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !found.OK() {
		t.Errorf("verification found %+v", found)
	}
}

func TestParallelWritersLeaveNoGap(t *testing.T) {
	t.Parallel()
	db := postgrestest.Open(t, postgres.Config{DSN: postgrestest.DSN(t), MaxConns: 32})
	const writers, turns = 64, 25
	refs := make([]event.Ref, 40)
	for i := range refs {
		refs[i] = newRef("user")
	}
	var wg sync.WaitGroup
	var runs, committed atomic.Int64
	boom := errors.New("boom")
	for range writers {
		wg.Go(func() {
			for range turns {
				n := 1 + rand.IntN(6)
				fails := rand.IntN(4) == 0
				err := db.InTx(context.Background(), func(tx *postgres.Tx) error {
					runs.Add(1)
					for range n {
						if err := event.Append(tx, anyOf(refs[rand.IntN(len(refs))])); err != nil {
							return err
						}
					}
					if fails { // after the numbers were given
						tx.AtLast(func(context.Context) error { return boom })
					}
					return nil
				})
				switch {
				case fails && !errors.Is(err, boom), !fails && err != nil:
					t.Error(err)
				case err == nil:
					committed.Add(int64(n))
				}
			}
		})
	}
	wg.Wait()
	mustVerify(t, db)
	var rows int64
	if err := db.QueryRow(t.Context(), "select count(*) from events").Scan(&rows); err != nil || rows != committed.Load() {
		t.Errorf("%d events are there, %v; %d were acknowledged", rows, err, committed.Load())
	}
	if runs.Load() != writers*turns {
		t.Errorf("%d runs of %d transactions: some lost a deadlock", runs.Load(), writers*turns)
	}
}

// TestWhoeverReadsSeesNoNumberBeforeThoseBelowIt looks on while many write, in both ways.
func TestWhoeverReadsSeesNoNumberBeforeThoseBelowIt(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.DSN(t)
	db := postgrestest.Open(t, postgres.Config{DSN: dsn, MaxConns: 32})
	l := runLog(t, event.LogConfig{DB: db, MaxBatch: 16})
	refs := []event.Ref{onShard(1), onShard(1), onShard(2), onShard(3)}
	ctx, stop := context.WithCancel(t.Context())
	var looking, writing sync.WaitGroup
	for range 2 {
		reader := postgrestest.Open(t, postgres.Config{DSN: dsn})
		looking.Go(func() {
			for looks := 0; ctx.Err() == nil || looks == 0; looks++ {
				var holes int
				err := reader.QueryRow(context.Background(), `select count(*) from (
					select from events group by shard having max(seq) <> count(*) union all
					select from events group by aggregate_type, aggregate_id having max(version) <> count(*)) e`).Scan(&holes)
				if err != nil || holes != 0 {
					t.Errorf("%d shards or entities have a hole at the moment, %v", holes, err)
					return
				}
			}
		})
	}
	for i := range 24 {
		writing.Go(func() {
			for turn := range 40 {
				unit := []event.New{anyOf(refs[(i+turn)%4]), anyOf(refs[rand.IntN(4)])}
				var err error
				if i%2 == 0 {
					_, err = l.Append(context.Background(), unit...)
				} else {
					err = appendAll(db, unit...)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	writing.Wait()
	stop()
	looking.Wait()
}

func TestOneOfManyExpectingTheSameVersionWins(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	ref := newRef("stream")
	mustAppend(t, db, anyOf(ref), anyOf(ref))
	var wg sync.WaitGroup
	var won, lost atomic.Int64
	for range 200 {
		wg.Go(func() {
			err := appendAll(db, event.New{Aggregate: ref, Name: "stream.updated", Expect: 2})
			conflict, ok := errors.AsType[*event.VersionError](err)
			switch {
			case err == nil:
				won.Add(1)
			case ok && conflict.Actual == 3 && conflict.Expected == 2 && conflict.Entity == ref:
				lost.Add(1)
			default:
				t.Errorf("append = %v, want success or a VersionError", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || lost.Load() != 199 {
		t.Errorf("%d won and %d lost, want 1 and 199", won.Load(), lost.Load())
	}
	mustVerify(t, db)
}

func TestAnUnexpectedVersionFailsTheWholeTransaction(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	ref, other := newRef("user"), newRef("user")
	mustAppend(t, db, event.New{Aggregate: ref, Name: "user.created", Expect: 0, IdempotencyKey: "used"})
	for name, events := range map[string][]event.New{
		"new, but it is there":      {{Aggregate: ref, Name: "user.created", Expect: 0}},
		"a later version":           {{Aggregate: ref, Name: "user.updated", Expect: 7}},
		"after another's":           {anyOf(other), {Aggregate: ref, Name: "user.updated", Expect: 0}, anyOf(other)},
		"after its own":             {anyOf(ref), {Aggregate: ref, Name: "user.updated", Expect: 1}},
		"with a duplicate after it": {{Aggregate: ref, Name: "user.updated", Expect: 7}, {Aggregate: other, Name: "user.updated", Expect: event.Any, IdempotencyKey: "used"}},
	} {
		err := appendAll(db, events...)
		conflict, ok := errors.AsType[*event.VersionError](err)
		if !ok || !errors.Is(err, event.ErrVersion) || errs.KindOf(err) != errs.Conflict {
			t.Errorf("%s: %v, want a VersionError of kind Conflict", name, err)
			continue
		}
		if want := map[bool]int64{true: 2, false: 1}[name == "after its own"]; conflict.Actual != want || !strings.Contains(err.Error(), ref.String()) {
			t.Errorf("%s: %v, want version %d told of %s", name, err, want, ref)
		}
	}
	// Consecutive versions in one transaction are what several changes of one entity expect.
	mustAppend(t, db, event.New{Aggregate: ref, Name: "user.updated", Expect: 1}, event.New{Aggregate: ref, Name: "user.updated", Expect: 2})
	if v, err := event.NewStore(db).Version(t.Context(), ref); err != nil || v != 3 {
		t.Errorf("Version = %d, %v; want 3", v, err)
	}
	if v, err := event.NewStore(db).Version(t.Context(), other); err != nil || v != 0 {
		t.Errorf("the other's Version = %d, %v; want 0: nothing of a failed transaction stays", v, err)
	}
	mustVerify(t, db)
}

func TestAnIdempotencyKeyIsUsedOnce(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	var wg sync.WaitGroup
	var won atomic.Int64
	for range 50 {
		wg.Go(func() { // on many entities, so on many shards
			err := appendAll(db, event.New{Aggregate: newRef("user"), Name: "user.updated", Expect: event.Any, IdempotencyKey: "order-7"})
			if err == nil {
				won.Add(1)
			} else if !errors.Is(err, event.ErrDuplicate) {
				t.Errorf("append = %v, want ErrDuplicate", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d appends with one key succeeded", won.Load())
	}
	mustVerify(t, db)
}

func TestAppendedTellsTheNumbersAfterTheCommit(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	ref, other := newRef("user"), newRef("stream")
	actor := uuid.New()
	mustAppend(t, db, anyOf(ref))
	var told []event.Event
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		if got := event.Appended(tx); got != nil {
			t.Errorf("before any event: %v", got)
		}
		tx.AfterCommit(func() { told = event.Appended(tx) })
		tx.BeforeCommit(func(context.Context) error { // a statement that brings another event
			return event.Append(tx, event.New{Aggregate: other, Name: "stream.created", Data: map[string]any{"n": 1}, ActorID: &actor})
		})
		tx.AtLast(func(context.Context) error { return event.Append(tx, anyOf(other)) }) // and one after the numbers were given
		return event.Append(tx, event.New{Aggregate: ref, Name: "user.updated", Expect: 1, UserID: &ref.ID})
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(told) != 3 {
		t.Fatalf("Appended tells of %d events, want 3", len(told))
	}
	store := event.NewStore(db)
	for i, r := range []event.Ref{ref, other, other} {
		stored, err := store.Read(t.Context(), event.Page{Entity: r, FromVersion: told[i].Version, Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		same := cmpopts.AcyclicTransformer("json", func(b []byte) string { return strings.ReplaceAll(string(b), " ", "") })
		if diff := cmp.Diff(stored[0], told[i], same, cmpopts.EquateApproxTime(time.Nanosecond)); diff != "" {
			t.Errorf("event %d (-stored +told):\n%s", i, diff)
		}
	}
	mustVerify(t, db)
}

func TestInvalidEventsAreRefusedAtOnce(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	good := anyOf(newRef("user"))
	with := func(change func(*event.New)) event.New { e := good; change(&e); return e }
	for name, tt := range map[string]struct {
		event event.New
		field string
	}{
		"no type":         {with(func(e *event.New) { e.Aggregate.Type = "" }), "aggregate_type"},
		"upper case":      {with(func(e *event.New) { e.Aggregate.Type = "User" }), "aggregate_type"},
		"no id":           {with(func(e *event.New) { e.Aggregate.ID = uuid.Nil }), "aggregate_id"},
		"no name":         {with(func(e *event.New) { e.Name = "" }), "name"},
		"a strange name":  {with(func(e *event.New) { e.Name = "user updated; drop" }), "name"},
		"a long name":     {with(func(e *event.New) { e.Name = strings.Repeat("n", 51) }), "name"},
		"a long first":    {with(func(e *event.New) { e.Name = strings.Repeat("n", 51) + ".x" }), "name"},
		"a long second":   {with(func(e *event.New) { e.Name = "n." + strings.Repeat("n", 50) }), "name"},
		"no second":       {with(func(e *event.New) { e.Name = "user." }), "name"},
		"no first":        {with(func(e *event.New) { e.Name = ".updated" }), "name"},
		"three words":     {with(func(e *event.New) { e.Name = "user.is.updated" }), "name"},
		"a digit first":   {with(func(e *event.New) { e.Name = "1user.updated" }), "name"},
		"a line feed":     {with(func(e *event.New) { e.Name = "user.updated\n" }), "name"},
		"a low version":   {with(func(e *event.New) { e.Expect = -2 }), "expect"},
		"a long key":      {with(func(e *event.New) { e.IdempotencyKey = strings.Repeat("k", 201) }), "idempotency_key"},
		"not JSON":        {with(func(e *event.New) { e.Data = map[string]any{"x": math.NaN()} }), "data"},
		"a channel":       {with(func(e *event.New) { e.Data = map[string]any{"x": make(chan int)} }), "data"},
		"64 KiB and more": {with(func(e *event.New) { e.Data = map[string]any{"x": strings.Repeat("x", 64<<10-7)} }), "data"},
	} {
		err := appendAll(db, good, tt.event)
		if faults := errs.FieldsOf(err); errs.KindOf(err) != errs.Invalid || len(faults) != 1 || faults[0].Field != tt.field {
			t.Errorf("%s: %v, want one fault of %s", name, err, tt.field)
		}
	}
	if err := appendAll(db, with(func(e *event.New) { e.Data = map[string]any{"x": "a\x00b"} })); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a NUL byte: %v, want kind Invalid", err)
	}
	var n int
	if err := db.QueryRow(t.Context(), "select count(*) from events").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d events were written, %v", n, err)
	}
	mustAppend(t, db, with(func(e *event.New) { e.Data = map[string]any{"x": strings.Repeat("x", 64<<10-8)} }))
}

func TestATransactionHoldsAllSessionsOfAnAccount(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	events := make([]event.New, 200_001)
	for i := range events {
		events[i] = anyOf(newRef("session"))
	}
	mustAppend(t, db, events[:5000]...)
	if err := appendAll(db, events...); errs.KindOf(err) != errs.Invalid {
		t.Errorf("without bound: %v, want kind Invalid", err)
	}
	mustVerify(t, db)
}

func TestSQLAndGoAgreeOnShards(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id")
		ref := event.Ref{Type: "user", ID: uuid.UUID(raw)}
		var shard int
		if err := db.QueryRow(context.Background(), "select event_shard($1)", ref.ID).Scan(&shard); err != nil {
			t.Fatal(err)
		}
		if shard != ref.Shard() || shard < 0 || shard >= event.Shards {
			t.Fatalf("%s is on shard %d in SQL, %d in Go", ref.ID, shard, ref.Shard())
		}
	})
}

// BenchmarkAppend compares appending one event a transaction with its floor:
// a bare insert of the same row, numbered by a sequence, in a transaction.
func BenchmarkAppend(b *testing.B) {
	for _, parallel := range []int{1, 8} {
		for _, which := range []string{"append", "floor"} {
			b.Run(fmt.Sprintf("%s/writers=%d", which, 2*parallel), func(b *testing.B) {
				db := postgrestest.New(b)
				if _, err := db.Exec(b.Context(), "create sequence floor"); err != nil {
					b.Fatal(err)
				}
				one := appendOne
				if which == "floor" {
					one = insertOne
				}
				b.SetParallelism(parallel)
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := one(db, newRef("user")); err != nil {
							b.Error(err)
						}
					}
				})
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			})
		}
	}
}

func appendOne(db *postgres.DB, ref event.Ref) error { return appendAll(db, anyOf(ref)) }

func insertOne(db *postgres.DB, ref event.Ref) error {
	ctx := context.Background()
	return db.InTx(ctx, func(tx *postgres.Tx) error {
		_, err := tx.Exec(ctx, `insert into events (shard, seq, aggregate_type, aggregate_id, version, name)
			values ($1, nextval('floor'), $2, $3, 1, 'user.updated')`, ref.Shard(), ref.Type, ref.ID)
		return err
	})
}
