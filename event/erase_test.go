package event_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

func TestErasureLeavesNoValueAnywhere(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	l := runLog(t, event.LogConfig{DB: db, SnapshotEvery: 2})
	store, ctx := event.NewStore(db), t.Context()
	user, other, shared := newRef("user"), newRef("user"), newRef("stream")
	secret := func(ref event.Ref, name string, who event.Ref) event.New {
		return event.New{Aggregate: ref, Name: name, Expect: event.Any, UserID: &who.ID, Data: map[string]any{"email": "secret-" + who.ID.String(), "n": map[string]any{"deep": 1}}}
	}
	for _, e := range []event.New{
		secret(user, "user.created", user), secret(shared, "stream.created", user), secret(shared, "stream.changed", other), secret(other, "user.created", other),
		secret(user, "user.changed", user), secret(shared, "stream.changed", user), secret(shared, "stream.changed", other),
		{Aggregate: user, Name: "user.empty", Expect: event.Any},
	} {
		if _, err := l.Append(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() bool { return snapshots(t, db, user) == 1 && snapshots(t, db, shared) == 2 })
	erase := func(ref event.Ref) (n int) {
		err := db.InTx(ctx, func(tx *postgres.Tx) (err error) {
			n, err = event.Erase(ctx, tx, ref, nil)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := erase(user); n != 4 {
		t.Errorf("%d events erased, want 4", n)
	}
	var left int
	err := db.QueryRow(ctx, `select (select count(*) from events where data::text like $1)
		+ (select count(*) from event_snapshots where aggregate_id in ($2, $3))`, "%secret-"+user.ID.String()+"%", user.ID, shared.ID).Scan(&left)
	if err != nil || left != 0 {
		t.Errorf("%d places still hold values, %v", left, err)
	}
	events, err := store.Read(ctx, event.Page{Entity: user})
	if err != nil || len(events) != 4 || string(events[0].Data) != `{"erased": true, "fields": ["email", "n"]}` || !events[0].Erased() ||
		string(events[2].Data) != "{}" || events[3].Name != "user.erased" || events[3].Erased() {
		t.Errorf("the user's history is %+v, %v", events, err)
	}
	if s, err := store.State(ctx, user, event.At{}); err != nil || len(s.Data) != 0 || s.Version != 4 {
		t.Errorf("the user's state is %+v, %v", s, err)
	}
	if s, err := store.State(ctx, shared, event.At{}); err != nil || s.Data["email"] != "secret-"+other.ID.String() {
		t.Errorf("the shared state is %+v, %v", s, err)
	}
	if n := erase(user); n != 0 {
		t.Errorf("erased again: %d events, want none", n)
	}
	if n := erase(shared); n != 2 {
		t.Errorf("the stream: %d events erased, want the other's 2", n)
	}
	mustVerify(t, db)
}

func TestErasureTakesWhatIsBeingCommittedBesideIt(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	store, ctx := event.NewStore(db), t.Context()
	user, stream := newRef("user"), newRef("stream")
	begun, end := make(chan struct{}), make(chan struct{})
	commit := sync.OnceFunc(func() { close(end) })
	defer commit()
	var beside errgroup.Group
	beside.Go(func() error { // numbered, and not committed yet
		return db.InTx(ctx, func(tx *postgres.Tx) error {
			if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock(7205, $1)", stream.Shard()); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `insert into events (shard, seq, aggregate_type, aggregate_id, version, name, data, user_id)
				values ($1, 1, 'stream', $2, 1, 'stream.created', '{"email": "secret"}', $3)`, stream.Shard(), stream.ID, user.ID)
			close(begun)
			<-end
			return err
		})
	})
	<-begun
	told := false
	beside.Go(func() error {
		return db.InTx(ctx, func(tx *postgres.Tx) error {
			_, err := event.Erase(ctx, tx, user, func(context.Context) error {
				told = true
				return nil
			})
			return err
		})
	})
	eventually(t, func() (waits bool) {
		err := db.QueryRow(ctx, `select exists (select from pg_locks where locktype = 'advisory' and not granted
			and database = (select oid from pg_database where datname = current_database()))`).Scan(&waits)
		return err == nil && waits
	})
	commit()
	if err := beside.Wait(); err != nil || !told {
		t.Fatalf("%v, told %v", err, told)
	}
	if events, err := store.Read(ctx, event.Page{Entity: stream}); err != nil || len(events) != 1 || !events[0].Erased() {
		t.Errorf("the stream's events are %+v, %v", events, err)
	}
	mustVerify(t, db)
}

func TestErasureOfWhatWasPrunedStartsAnew(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	l := runLog(t, event.LogConfig{DB: db, SnapshotEvery: 5})
	store, ctx := event.NewStore(db), t.Context()
	ref, user := history(t, l, db, 11, 5), newRef("user")
	if _, err := store.Prune(ctx, time.Now().Add(time.Hour), false); err != nil {
		t.Fatal(err)
	}
	execute(t, db, "update events set user_id = $1 where version = 11", user.ID)
	err := db.InTx(ctx, func(tx *postgres.Tx) error {
		_, err := event.Erase(ctx, tx, user, nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.State(ctx, ref, event.At{Version: 11}); !errors.Is(err, event.ErrPruned) {
		t.Errorf("what cannot be told: %v, want ErrPruned", err)
	}
	if s, err := store.State(ctx, ref, event.At{}); err != nil || s.Version != 12 || len(s.Data) != 0 {
		t.Errorf("from there on: %+v, %v", s, err)
	}
	mustVerify(t, db)
}

func TestARedactionIsAVersionThatChangesNothing(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	l := runLog(t, event.LogConfig{DB: db})
	store, ctx := event.NewStore(db), t.Context()
	user, thing := newRef("user"), newRef("thing")
	for n, whose := range []event.Ref{user, newRef("user")} {
		_, err := l.Append(ctx, event.New{
			Aggregate: thing, Name: "thing.changed", Expect: int64(n), UserID: &whose.ID, Data: map[string]any{string(rune('a' + n)): "value"},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	erase := func() (n int, told []event.Event) {
		err := db.InTx(ctx, func(tx *postgres.Tx) (err error) {
			tx.AfterCommit(func() { told = event.Appended(tx) })
			n, err = event.Erase(ctx, tx, user, func(context.Context) error { return event.Redact(tx, thing, user.ID) })
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n, told
	}
	n, told := erase()
	if n != 1 || len(told) != 2 || !told[0].Erases() || told[0].Redacts() || !told[1].Redacts() || told[1].Erases() || !told[1].Erased() {
		t.Errorf("%d events erased, told %+v", n, told)
	}
	if events, err := store.Read(ctx, event.Page{Entity: thing}); err != nil || len(events) != 3 ||
		string(events[2].Data) != string(told[1].Data) || events[2].Name != event.RedactionOf("thing") {
		t.Errorf("the history is %+v, %v", events, err)
	}
	if s, err := store.State(ctx, thing, event.At{}); err != nil || s.Version != 3 || len(s.Data) != 1 || s.Data["b"] != "value" {
		t.Errorf("the state is %+v, %v", s, err)
	}
	err := db.InTx(ctx, func(tx *postgres.Tx) error {
		if _, err := event.Erase(ctx, tx, thing, nil); err != nil {
			return err
		}
		return event.Redact(tx, thing, user.ID)
	})
	if v, failed := store.Version(ctx, thing); err != nil || failed != nil || v != 4 {
		t.Errorf("erased and redacted: version %d, %v, %v", v, err, failed)
	}
	if n, _ = erase(); n != 0 {
		t.Errorf("erased again: %d events, want none", n)
	}
	mustVerify(t, db)
}
