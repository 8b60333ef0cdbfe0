package event_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// runLog runs a log on cfg.DB until the test ends.
func runLog(t testing.TB, cfg event.LogConfig) *event.Log { //nolint:thelper // for benchmarks too
	t.Helper()
	l, err := event.NewLog(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stop(); wg.Wait() })
	return l
}

func newLog(t testing.TB) (*event.Log, *postgres.DB) { //nolint:thelper // for benchmarks too
	t.Helper()
	db := postgrestest.New(t)
	return runLog(t, event.LogConfig{DB: db}), db
}

// onShard makes an entity whose events are on a shard.
func onShard(shard int) event.Ref {
	ref := newRef("stream")
	ref.ID[15] = ref.ID[15]&0xf0 | byte(shard)
	return ref
}

func allEvents(t *testing.T, db *postgres.DB) []event.Event {
	t.Helper()
	var all []event.Event
	var after [event.Shards]int64
	for {
		page, err := event.NewStore(db).Since(t.Context(), after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
		for _, e := range page {
			after[e.Shard] = e.Seq
		}
	}
}

var sameEvents = cmp.Options{
	cmpopts.AcyclicTransformer("json", func(b []byte) string {
		return strings.ReplaceAll(string(b), " ", "")
	}),
	cmpopts.EquateApproxTime(time.Microsecond),
}

func TestManyAppendersOfFewEntitiesLeaveNoGap(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	heard := map[[2]int64]event.Event{}
	db := postgrestest.New(t)
	l := runLog(t, event.LogConfig{DB: db, MaxBatch: 32, OnCommit: func(events []event.Event) {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range events {
			heard[[2]int64{int64(e.Shard), e.Seq}] = e
		}
	}})
	refs := make([]event.Ref, 7)
	for i := range refs {
		refs[i] = newRef("stream")
	}
	const appenders, turns = 200, 10
	var wg sync.WaitGroup
	var stored, refused atomic.Int64
	for a := range appenders {
		wg.Go(func() {
			for turn := range turns {
				unit := make([]event.New, 1+rand.IntN(3))
				for i := range unit {
					unit[i] = event.New{Aggregate: refs[rand.IntN(len(refs))], Name: "stream.updated", Expect: event.Any, Data: map[string]any{"by": fmt.Sprintf("%d/%d/%d", a, turn, i)}}
				}
				if rand.IntN(2) == 0 {
					unit[0].Expect = rand.Int64N(500)
				}
				got, err := l.Append(context.Background(), unit...)
				conflict, lost := errors.AsType[*event.VersionError](err)
				switch {
				case err == nil && len(got) == len(unit):
					stored.Add(int64(len(got)))
					if unit[0].Expect != event.Any && unit[0].Expect != got[0].Version-1 {
						t.Errorf("expected %d, got version %d", unit[0].Expect, got[0].Version)
					}
				case lost && conflict.Expected == unit[0].Expect && conflict.Actual != conflict.Expected:
					refused.Add(1)
				default:
					t.Errorf("Append = %d events, %v", len(got), err)
				}
			}
		})
	}
	wg.Wait()
	mustVerify(t, db)
	all := allEvents(t, db)
	if len(all) != int(stored.Load()) || refused.Load() == 0 || stored.Load() == 0 {
		t.Errorf("%d events are there, %d were acknowledged, %d units refused", len(all), stored.Load(), refused.Load())
	}
	for _, e := range all {
		if diff := cmp.Diff(e, heard[[2]int64{int64(e.Shard), e.Seq}], sameEvents); diff != "" {
			t.Fatalf("OnCommit was told otherwise (-stored +told):\n%s", diff)
		}
	}
}

func TestAUnitIsStoredWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	l, db := newLog(t)
	ctx := t.Context()
	near, far := onShard(2), onShard(7) // of different workers
	for name, other := range map[string]event.Ref{"one worker's": onShard(4), "several workers'": far} {
		before := len(allEvents(t, db))
		_, err := l.Append(ctx, anyOf(near), event.New{Aggregate: other, Name: "stream.updated", Expect: 9}, anyOf(near))
		if conflict, ok := errors.AsType[*event.VersionError](err); !ok || conflict.Entity != other || conflict.Actual != 0 || conflict.Expected != 9 {
			t.Errorf("%s: %v, want a VersionError of the second event", name, err)
		}
		if now := len(allEvents(t, db)); now != before {
			t.Errorf("%s: %d events of a refused unit are there", name, now-before)
		}
		got, err := l.Append(ctx, anyOf(near), event.New{Aggregate: other, Name: "stream.created"}, event.New{Aggregate: other, Name: "stream.updated", Expect: 1})
		if err != nil || len(got) != 3 || got[1].Version != 1 || got[2].Version != 2 || got[1].Shard != other.Shard() {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	mustVerify(t, db)
}

// held makes appends wait behind a lock of their shard until release is called, so that they are committed together.
func held(t *testing.T, db *postgres.DB, shard int) (release func()) {
	t.Helper()
	locked, free := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := db.InTx(context.Background(), func(tx *postgres.Tx) error {
			_, err := tx.Exec(context.Background(), "select pg_advisory_xact_lock(7205, $1)", shard)
			close(locked)
			<-free
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-locked
	return func() { close(free); wg.Wait() }
}

func locksWaitedFor(t *testing.T, db *postgres.DB) (n int) {
	t.Helper()
	err := db.QueryRow(t.Context(), `select count(*) from pg_locks where locktype = 'advisory' and not granted
		and database = (select oid from pg_database where datname = current_database())`).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// waiting returns how many units wait to be committed.
func waiting(t *testing.T, reg *prometheus.Registry) int {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "rootstream_event_log_waiting" {
			return int(f.GetMetric()[0].GetGauge().GetValue())
		}
	}
	t.Fatal("there is no such metric")
	return 0
}

// together runs calls of Append so that all but the first are committed in one batch, in their order.
func together(t *testing.T, cfg event.LogConfig, calls ...func(l *event.Log)) {
	t.Helper()
	reg := prometheus.NewRegistry()
	cfg.Registerer = reg
	l := runLog(t, cfg)
	release := held(t, cfg.DB, 0)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := l.Append(context.Background(), anyOf(onShard(0))); err != nil {
			t.Error(err)
		}
	})
	eventually(t, func() bool { return locksWaitedFor(t, cfg.DB) == 1 })
	for i, call := range calls {
		wg.Go(func() { call(l) })
		eventually(t, func() bool { return waiting(t, reg) == i+1 })
	}
	release()
	wg.Wait()
}

func eventually(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatal("it never came to be")
}

func TestAConflictingUnitFailsAlone(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	a, b := onShard(0), onShard(4)
	mustAppend(t, db, event.New{Aggregate: b, Name: "stream.created", IdempotencyKey: "k"})
	expect := func(ref event.Ref, version int64) event.New {
		return event.New{Aggregate: ref, Name: "stream.updated", Expect: version}
	}
	bad := func(n event.New) event.New { n.Data = map[string]any{"text": "a\x00b"}; return n }
	keyed := func(n event.New, key string) event.New { n.IdempotencyKey = key; return n }
	var errOf [9]error
	var got [9][]event.Event
	var calls []func(*event.Log)
	for i, unit := range [][]event.New{
		{expect(a, 0)},
		{expect(a, 4)},               // a conflict
		{expect(a, 1), expect(b, 1)}, // the first expects what is there once the conflict is out
		{bad(anyOf(a))},              // refused by the server, whatever else is there
		{expect(a, 2)},               //
		{keyed(expect(b, 0), "k")},   // a used key for another event: its name differs
		{expect(a, 0), anyOf(b)},     // a conflict
		{keyed(event.New{Aggregate: b, Name: "stream.created"}, "k")}, // a repeat
		{expect(b, 2)},
	} {
		calls = append(calls, func(l *event.Log) { got[i], errOf[i] = l.Append(context.Background(), unit...) })
	}
	together(t, event.LogConfig{DB: db}, calls...)
	for i, want := range []error{nil, event.ErrVersion, nil, postgres.ErrText, nil, event.ErrDuplicate, event.ErrVersion, nil, nil} {
		if !errors.Is(errOf[i], want) {
			t.Errorf("unit %d: %v, want %v", i, errOf[i], want)
		}
	}
	if len(got[7]) != 1 || got[7][0].Version != 1 || got[8][0].Version != 3 || got[4][0].Version != 3 {
		t.Errorf("the repeat is %+v, the last of b %+v, the last of a %+v", got[7], got[8], got[4])
	}
	mustVerify(t, db)
}

func TestARepeatedKeyReturnsTheOriginal(t *testing.T) {
	t.Parallel()
	l, db := newLog(t)
	a, b, user := onShard(1), onShard(2), uuid.New()
	unit := func() []event.New {
		return []event.New{
			{Aggregate: a, Name: "stream.created", Data: map[string]any{"n": 1}, UserID: &user, IdempotencyKey: "order-7"},
			{Aggregate: b, Name: "stream.created", Expect: 0},
			{Aggregate: a, Name: "stream.updated", Expect: 1},
		}
	}
	var wg sync.WaitGroup
	answers := make([][]event.Event, 50)
	for i := range answers {
		wg.Go(func() {
			var err error
			if answers[i], err = l.Append(context.Background(), unit()...); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, got := range answers {
		if diff := cmp.Diff(answers[0], got, sameEvents); diff != "" || len(got) != 3 {
			t.Fatalf("answers differ:\n%s", diff)
		}
	}
	if all := allEvents(t, db); len(all) != 3 {
		t.Errorf("%d events are there, want 3", len(all))
	}
	for name, other := range map[string][]event.New{
		"another name":   {{Aggregate: a, Name: "stream.updated", Expect: event.Any, IdempotencyKey: "order-7"}},
		"another entity": {{Aggregate: newRef("stream"), Name: "stream.created", IdempotencyKey: "order-7"}},
		"more events":    append(unit(), anyOf(a)),
		"fewer of them":  unit()[:2],
	} {
		got, err := l.Append(t.Context(), other...)
		if want := map[bool]error{true: nil, false: event.ErrDuplicate}[name == "fewer of them"]; !errors.Is(err, want) {
			t.Errorf("%s: %+v, %v; want %v", name, got, err, want)
		}
	}
	inTx := event.New{Aggregate: a, Name: "stream.created", Expect: event.Any, IdempotencyKey: "order-7"}
	if err := appendAll(db, inTx); !errors.Is(err, event.ErrDuplicate) {
		t.Errorf("in a transaction: %v, want ErrDuplicate", err)
	}
	if err := appendAll(db, anyOf(a), inTx); !errors.Is(err, event.ErrDuplicate) {
		t.Errorf("among others in a transaction: %v, want ErrDuplicate", err)
	}
	if _, err := l.Append(t.Context(), anyOf(a), event.New{Aggregate: a, Name: "stream.updated", IdempotencyKey: "x"}); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a key in the middle: %v, want kind Invalid", err)
	}
	mustVerify(t, db)
}

func TestOneKeyOnManyShardsIsStoredOnce(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	logs := []*event.Log{runLog(t, event.LogConfig{DB: db, Workers: 16}), runLog(t, event.LogConfig{DB: db, Workers: 3})}
	var wg sync.WaitGroup
	var won, lost atomic.Int64
	for i := range 96 {
		wg.Go(func() {
			unit := []event.New{{Aggregate: newRef("user"), Name: "user.created", IdempotencyKey: fmt.Sprint("key-", i%6)}, anyOf(newRef("user"))}
			switch _, err := logs[i%2].Append(context.Background(), unit[:1+i%2]...); {
			case err == nil:
				won.Add(1)
			case errors.Is(err, event.ErrDuplicate):
				lost.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 6 || lost.Load() != 90 {
		t.Errorf("%d won, %d lost; want 6 and 90", won.Load(), lost.Load())
	}
	mustVerify(t, db)
}

func TestAServerKilledWhileItCommitsLeavesTheOutcomeUnknownAndTheKeyTellsIt(t *testing.T) {
	t.Parallel()
	srv := postgrestest.Server(t)
	db := postgrestest.Open(t, postgres.Config{DSN: srv.DSN()})
	l := runLog(t, event.LogConfig{DB: db})
	ctx := context.Background()
	if _, err := l.Append(ctx, anyOf(newRef("stream"))); err != nil { // so that the statement is prepared
		t.Fatal(err)
	}
	refs := make([]event.Ref, 40)
	var wg sync.WaitGroup
	var unknown, acknowledged atomic.Int64
	one := func(i int) error {
		_, err := l.Append(ctx, event.New{Aggregate: refs[i], Name: "stream.created", IdempotencyKey: refs[i].String()}, anyOf(refs[i]))
		return err
	}
	started := make(chan struct{}, len(refs))
	for i := range refs {
		refs[i] = newRef("stream")
		wg.Go(func() {
			for try := 0; ; try++ {
				switch err := one(i); {
				case err == nil:
					acknowledged.Add(1)
					started <- struct{}{}
					return
				case errors.Is(err, postgres.ErrCommitUnknown):
					unknown.Add(1)
				case errs.KindOf(err) != errs.Unavailable:
					t.Errorf("Append = %v, want kind Unavailable", err)
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
		if i == 10 {
			<-started
		}
		if i == 20 {
			srv.Pause() // what is sent from here on has no answer
		}
	}
	time.Sleep(100 * time.Millisecond)
	srv.Kill()
	srv.Restart()
	wg.Wait()
	if unknown.Load() == 0 || acknowledged.Load() != int64(len(refs)) {
		t.Errorf("%d outcomes were unknown, %d units acknowledged in the end", unknown.Load(), acknowledged.Load())
	}
	for _, ref := range refs {
		if v, err := event.NewStore(db).Version(ctx, ref); err != nil || v != 2 {
			t.Errorf("%s is at version %d, %v; want 2: exactly one of each", ref, v, err)
		}
	}
	mustVerify(t, db)
}

func TestAnEndedCallersUnitIsStoredOnlyIfItWasUnderWay(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	l := runLog(t, event.LogConfig{DB: db})
	under, waits := onShard(0), onShard(0)
	release := held(t, db, 0)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := l.Append(ctx, anyOf(under)); !errors.Is(err, postgres.ErrCommitUnknown) || !errors.Is(err, context.Canceled) {
			t.Errorf("under way: %v, want ErrCommitUnknown", err)
		}
	})
	eventually(t, func() bool { return locksWaitedFor(t, db) == 1 })
	short, end := context.WithTimeout(context.Background(), time.Millisecond)
	defer end()
	_, err := l.Append(short, anyOf(waits))
	if !errors.Is(err, event.ErrOverloaded) || !errors.Is(err, context.DeadlineExceeded) || errs.RetryAfter(err) == 0 {
		t.Errorf("waiting: %v, want ErrOverloaded", err)
	}
	cancel()
	wg.Wait()
	release()
	if _, err := l.Append(t.Context(), anyOf(onShard(0))); err != nil {
		t.Error(err)
	}
	for ref, want := range map[event.Ref]int64{under: 1, waits: 0} {
		if v, err := event.NewStore(db).Version(t.Context(), ref); err != nil || v != want {
			t.Errorf("version %d, %v; want %d", v, err, want)
		}
	}
}

func TestAStoppedLogRefuses(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	l, err := event.NewLog(event.LogConfig{DB: db})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	var stored, refused atomic.Int64
	for range 300 {
		wg.Go(func() {
			switch _, err := l.Append(context.Background(), anyOf(newRef("stream"))); {
			case err == nil:
				if stored.Add(1) == 20 {
					stop()
				}
			case errors.Is(err, event.ErrStopped):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	if err := l.Run(ctx); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if _, err := l.Append(t.Context(), anyOf(newRef("stream"))); !errors.Is(err, event.ErrStopped) {
		t.Errorf("after its end: %v, want ErrStopped", err)
	}
	if n := len(allEvents(t, db)); n != int(stored.Load()) || stored.Load()+refused.Load() != 300 {
		t.Errorf("%d events are there, %d acknowledged, %d refused", n, stored.Load(), refused.Load())
	}
}

func TestAFullLogMakesCallersWait(t *testing.T) {
	t.Parallel()
	l, err := event.NewLog(event.LogConfig{DB: postgrestest.New(t)}) // it does not run yet
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	unit := slices.Repeat([]event.New{anyOf(newRef("stream"))}, 1000)
	var wg sync.WaitGroup
	var over, n atomic.Int64
	for range 70 { // 65 fit
		wg.Go(func() {
			n.Add(1)
			if _, err := l.Append(ctx, unit...); errors.Is(err, event.ErrOverloaded) {
				over.Add(1)
			}
		})
	}
	eventually(t, func() bool { return n.Load() == 70 })
	cancel()
	wg.Wait()
	if over.Load() != 70 {
		t.Errorf("%d of 70 were told that the log is overloaded", over.Load())
	}
	stopped, stop := context.WithCancel(context.Background())
	stop()
	if err := l.Run(stopped); err != nil {
		t.Error(err)
	}
}

func TestASnapshotHeldOpenElsewhereDoesNotDisturb(t *testing.T) {
	t.Parallel()
	l, db := newLog(t)
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		if _, err := tx.Exec(t.Context(), "set transaction isolation level repeatable read"); err != nil {
			return err
		}
		if _, err := tx.Exec(t.Context(), "select count(*) from events"); err != nil {
			return err
		}
		ref := newRef("stream")
		for i := range int64(50) {
			got, err := l.Append(t.Context(), event.New{Aggregate: ref, Name: "stream.updated", Expect: i}, anyOf(newRef("stream")))
			if err != nil || got[0].Version != i+1 {
				t.Errorf("Append = %+v, %v", got, err)
			}
		}
		if v, err := event.NewStore(tx).Version(t.Context(), ref); err != nil || v != 0 {
			t.Errorf("the old snapshot sees version %d, %v", v, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var updated int64
	if err := db.QueryRow(t.Context(), "select coalesce(sum(n_tup_upd), 0) from pg_stat_user_tables where relname like 'event%'").Scan(&updated); err != nil || updated != 0 {
		t.Errorf("%d rows were updated, %v; want none", updated, err)
	}
	mustVerify(t, db)
}

func TestBothWaysOfWritingAreHeard(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var heard []event.Event
	var l *event.Log
	db := postgrestest.Open(t, postgres.Config{DSN: postgrestest.DSN(t), OnCommit: func(tx *postgres.Tx) { l.Committed(event.Appended(tx)) }})
	l = runLog(t, event.LogConfig{DB: db, OnCommit: func(events []event.Event) {
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, events...)
	}})
	ref := newRef("stream")
	if _, err := l.Append(t.Context(), anyOf(ref)); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, db, anyOf(ref))
	if _, err := db.Exec(t.Context(), "select 1"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), anyOf(ref)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(allEvents(t, db), heard, sameEvents); diff != "" {
		t.Errorf("(-stored +heard):\n%s", diff)
	}
}

func TestALogsConfigIsChecked(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	for name, cfg := range map[string]event.LogConfig{
		"no database": {}, "a large batch": {DB: db, MaxBatch: 1001}, "many workers": {DB: db, Workers: 17},
		"every -1": {DB: db, SnapshotEvery: -1}, "keep -1": {DB: db, KeepSnapshots: -1},
	} {
		if _, err := event.NewLog(cfg); errs.KindOf(err) != errs.Invalid || len(errs.FieldsOf(err)) != 1 {
			t.Errorf("%s: %v, want one fault", name, err)
		}
	}
	reg := prometheus.NewRegistry()
	if _, err := event.NewLog(event.LogConfig{DB: db, Registerer: reg}); err != nil {
		t.Error(err)
	}
	if _, err := event.NewLog(event.LogConfig{DB: db, Registerer: reg}); err == nil {
		t.Error("metrics registered twice are no fault")
	}
	l, _ := newLog(t)
	for name, unit := range map[string][]event.New{
		"nothing": {}, "a thousand and one": slices.Repeat([]event.New{anyOf(newRef("stream"))}, 1001), "no name": {{Aggregate: newRef("stream")}},
	} {
		if _, err := l.Append(t.Context(), unit...); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v, want kind Invalid", name, err)
		}
	}
}
