package statesync_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/uuid"

	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/statesync"
)

var errLeft = errors.New("it changed its mind")

// occupy keeps updates of r waiting until release.
func (n *instance) occupy(t *testing.T, r event.Ref) (release func()) {
	t.Helper()
	entered, leave, left := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := n.Update(t.Context(), r, func(*statesync.Doc) error {
			close(entered)
			<-leave
			return errLeft
		}, statesync.UpdateOptions{})
		left <- err
	}()
	<-entered
	return func() {
		close(leave)
		if err := <-left; !errors.Is(err, errLeft) {
			t.Error(err)
		}
	}
}

// erase erases r, once nobody reads the table any more, if one is named.
func (n *instance) erase(t *testing.T, r event.Ref, table string) {
	t.Helper()
	err := n.db.InTx(t.Context(), func(tx *postgres.Tx) error {
		if table != "" {
			if _, err := tx.Exec(t.Context(), "lock table "+table+" in access exclusive mode"); err != nil {
				return err
			}
		}
		_, err := n.Erase(t.Context(), tx, r)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (n *instance) wantErased(t *testing.T, r event.Ref) {
	t.Helper()
	if d, err := n.Get(t.Context(), r, statesync.Latest()); err != nil || len(d.Data) != 0 {
		t.Errorf("what was erased is %v, %v", d.Data, err)
	}
	var holds int
	err := n.db.QueryRow(t.Context(), "select count(*) from events where aggregate_id = $1 and data::text like '%secret%'", r.ID).Scan(&holds)
	if err != nil || holds != 0 {
		t.Errorf("%d events hold what was erased, %v", holds, err)
	}
}

func TestWhatIsErasedDuringARestoreStaysErased(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	first, second := ref("thing"), ref("thing")
	first.ID[0], second.ID[0] = 1, 2
	a.set(t, first, "word", "old")
	a.set(t, second, "word", "secret")
	shot, err := a.SnapshotFull(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a.set(t, first, "word", "new")
	a.set(t, second, "word", "other secret")
	release := a.occupy(t, second)
	done := make(chan error, 1)
	go func() {
		n, err := a.RestoreSnapshot(t.Context(), shot.ID, nil, false)
		if err == nil && n != 1 {
			t.Errorf("%d were restored, want 1", n)
		}
		done <- err
	}()
	eventually(t, "the first is restored", func() bool {
		d, err := a.Get(t.Context(), first, statesync.Latest())
		return err == nil && d.Data["word"] == "old"
	})
	a.erase(t, second, "")
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	a.wantErased(t, second)
}

func TestALoserThatIsErasedIsNotRestored(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	r, id := ref("thing"), uuid.New()
	a.set(t, r, "word", "secret")
	if _, err := a.db.Exec(t.Context(), `insert into sync_conflicts (id, aggregate_type, aggregate_id, rule, winner, loser, token)
		values ($1, $2, $3, 'orphan', null, '{"word": "lost secret"}', 'x')`, id, r.Type, r.ID); err != nil {
		t.Fatal(err)
	}
	release := a.occupy(t, r)
	done := make(chan error, 1)
	err := a.db.InTx(t.Context(), func(tx *postgres.Tx) error {
		if _, err := tx.Exec(t.Context(), "lock table sync_conflicts in access exclusive mode"); err != nil {
			return err
		}
		go func() {
			_, err := a.RestoreLoser(t.Context(), id, nil)
			done <- err
		}()
		eventually(t, "the conflict is about to be read", func() bool {
			var waits bool
			err := a.db.QueryRow(t.Context(), "select exists (select from pg_locks where relation = 'sync_conflicts'::regclass and not granted)").Scan(&waits)
			return err == nil && waits
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	a.erase(t, r, "sync_conflicts")
	release()
	if err := <-done; !errors.Is(err, statesync.ErrNoConflict) {
		t.Errorf("it was restored: %v", err)
	}
	a.wantErased(t, r)
}

// TestADecisionAboutWhatIsBeingErasedIsNotKept has an erasure be about to commit while a change is decided against.
func TestADecisionAboutWhatIsBeingErasedIsNotKept(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	r := ref("theirs")
	a.set(t, r, "word", "none")
	a.set(t, r, "word", "secret")
	done := make(chan error, 1)
	err := a.db.InTx(t.Context(), func(tx *postgres.Tx) error {
		if _, err := a.Erase(t.Context(), tx, r); err != nil {
			return err
		}
		_, err := event.Erase(t.Context(), tx, ref("thing"), func(context.Context) error { // when r is erased, and nobody can append
			go func() {
				_, err := a.Update(t.Context(), r, func(d *statesync.Doc) error {
					d.Data["word"] = "mine"
					return nil
				}, statesync.UpdateOptions{Expect: new(int64(1))})
				done <- err
			}()
			eventually(t, "it is decided, or waits", func() bool {
				var waits bool
				err := a.db.QueryRow(t.Context(), `select exists (select from pg_locks where locktype = 'advisory' and classid = 7205 and not granted
					and database = (select oid from pg_database where datname = current_database()))`).Scan(&waits)
				return err == nil && (waits || len(done) > 0)
			})
			return nil
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err = <-done; err != nil {
		t.Error(err)
	}
	list, _, err := a.Conflicts(t.Context(), statesync.ConflictPage{Ref: &r})
	if err != nil || len(list) != 0 {
		t.Errorf("the conflict log holds %s, %v", asJSON(t, list), err)
	}
	a.wantErased(t, r)
}

// make makes fields of r something, in the audit trail of whose.
func (n *instance) make(t *testing.T, r event.Ref, whose *uuid.UUID, fields map[string]any) statesync.Result {
	t.Helper()
	res, err := n.Update(t.Context(), r, func(d *statesync.Doc) error {
		maps.Copy(d.Data, fields)
		return nil
	}, statesync.UpdateOptions{User: whose})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// TestErasingAUserReachesWhatInstancesKeepOfOtherEntities has a user's values be in an entity that others change too.
func TestErasingAUserReachesWhatInstancesKeepOfOtherEntities(t *testing.T) {
	t.Parallel()
	db, redis := postgrestest.New(t), cachetest.Server(t)
	a, b := start(t, db, redis.Client(t, cache.Config{})), start(t, db, redis.Client(t, cache.Config{}))
	user, other, r, their := ref("user"), uuid.New(), ref("thing"), ref("held")
	slow, release := b.watchSlowly(t, statesync.SubOptions{}, "thing.*")
	a.make(t, r, &other, map[string]any{"word": "first"})
	slow.await(t, 1)
	for n := range 11 { // there is a snapshot of it
		a.make(t, r, &user.ID, map[string]any{"mine": fmt.Sprint("secret-", n)})
	}
	last := a.make(t, r, &other, map[string]any{"word": "kept"})
	a.make(t, their, &other, map[string]any{"word": "kept"})
	shot, failed := a.SnapshotFull(t.Context())
	if failed != nil {
		t.Fatal(failed)
	}
	for _, n := range []*instance{a, b} {
		if d, err := n.Get(t.Context(), r, statesync.AtLeast(last.Token)); err != nil || d.Data["mine"] != "secret-10" {
			t.Fatalf("before: %v, %v", d, err)
		}
	}
	a.erase(t, user, "")
	for _, n := range []*instance{a, b} {
		eventually(t, "what is in memory is without what was erased", func() bool {
			d, err := n.Get(t.Context(), r, statesync.Local())
			return err == nil && d.Data["mine"] == nil && d.Data["word"] == "kept"
		})
		if d, err := n.Get(t.Context(), their, statesync.Local()); err != nil || d.Version != 1 {
			t.Errorf("another's: %v, %v", d, err)
		}
	}
	eventually(t, "Redis has forgotten", func() bool {
		return !strings.Contains(fmt.Sprint(redis.Do("XRANGE", cache.Sync, "-", "+")), "secret")
	})
	release()
	seen := slow.await(t, 14)
	for _, c := range seen {
		if strings.Contains(string(c.Data), "secret") {
			t.Errorf("told after it was erased: %s %d %s", c.Name, c.Version, c.Data)
		}
	}
	if c := seen[13]; c.Name != "thing.redacted" || c.Version != 14 {
		t.Errorf("told last: %+v", c)
	}
	if _, err := a.Patch(t.Context(), r, []byte(`{"mine": "secret"}`), statesync.UpdateOptions{Expect: &last.Version}); !errors.Is(err, event.ErrVersion) {
		t.Errorf("a change to what was erased: %v", err)
	}
	if _, err := a.SnapshotFull(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := a.LoadSnapshot(t.Context(), shot.ID)
	if text := asJSON(t, s); err != nil || strings.Contains(text, "secret") || !strings.Contains(text, "kept") {
		t.Errorf("the snapshot holds %s, %v", text, err)
	}
}

// TestWhatIsErasedIsNotWrittenAgain has an instance that has not heard of an erasure write a whole document.
func TestWhatIsErasedIsNotWrittenAgain(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	a, b := start(t, db, nil), start(t, db, nil) // without Redis one hears of the other late
	for range 5 {
		user, r := ref("user"), ref("thing")
		token := a.make(t, r, &user.ID, map[string]any{"mine": "secret"}).Token
		if d, err := b.Get(t.Context(), r, statesync.AtLeast(token)); err != nil || d.Data["mine"] != "secret" {
			t.Fatalf("before: %v, %v", d, err)
		}
		a.erase(t, user, "")
		if res := b.make(t, r, nil, map[string]any{"no patch": map[string]any{"": nil}}); len(res.Doc.Data) != 1 || res.Version != 3 {
			t.Errorf("after: %+v", res)
		}
		for _, e := range b.history(t, r) {
			if strings.Contains(string(e.Data), "secret") {
				t.Errorf("version %d holds %s", e.Version, e.Data)
			}
		}
	}
}

// history is all that has happened to r.
func (n *instance) history(t *testing.T, r event.Ref) []event.Event {
	t.Helper()
	events, err := event.NewStore(n.db).Read(t.Context(), event.Page{Entity: r})
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// TestErasingAUserReachesWhatNobodyElseChanges is about entities that get no new version.
func TestErasingAUserReachesWhatNobodyElseChanges(t *testing.T) {
	t.Parallel()
	db, redis := postgrestest.New(t), cachetest.Server(t)
	a, b := start(t, db, redis.Client(t, cache.Config{})), start(t, db, redis.Client(t, cache.Config{}))
	user, theirs, others := ref("user"), ref("session"), ref("session")
	for r, whose := range map[event.Ref]uuid.UUID{theirs: user.ID, others: uuid.New()} {
		_, err := a.log.Append(t.Context(), event.New{
			Aggregate: r, Name: "session.changed", Data: map[string]any{"patch": map[string]any{"word": "value"}}, UserID: &whose, Expect: 0,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []*instance{a, b} {
		if d, err := n.Get(t.Context(), theirs, statesync.AtLeast(a.Token())); err != nil || d.Data["word"] != "value" {
			t.Fatalf("before: %v, %v", d, err)
		}
	}
	a.erase(t, user, "")
	for _, n := range []*instance{a, b} {
		eventually(t, "what is in memory is without what was erased", func() bool {
			d, err := n.Get(t.Context(), theirs, statesync.Local())
			return err == nil && len(d.Data) == 0 && d.Version == 1
		})
		if d, err := n.Get(t.Context(), others, statesync.Local()); err != nil || d.Data["word"] != "value" {
			t.Errorf("another's: %v, %v", d, err)
		}
	}
}

func TestWhatAUserEndedStaysEndedWhenTheyAreErased(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	user, other, silently, why := ref("user"), uuid.New(), ref("thing"), ref("once")
	for _, r := range []event.Ref{silently, why} {
		a.make(t, r, &other, map[string]any{"word": "kept"})
	}
	if _, err := a.Delete(t.Context(), silently, statesync.UpdateOptions{User: &user.ID}); err != nil {
		t.Fatal(err)
	}
	_, err := a.log.Append(t.Context(), event.New{
		Aggregate: why, Name: "once.deleted", Data: map[string]any{"why": "secret"}, UserID: &user.ID, Expect: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	a.erase(t, user, "")
	for _, r := range []event.Ref{silently, why} {
		if d, err := a.Get(t.Context(), r, statesync.Latest()); !errors.Is(err, statesync.ErrNotFound) {
			t.Errorf("it is back: %+v, %v", d, err)
		}
	}
	if d, err := a.GetAt(t.Context(), why, event.At{}); err != nil || !d.Deleted || d.Version != 3 || len(d.Data) != 0 {
		t.Errorf("it ended as %+v, %v", d, err)
	}
}

// TestRedisForgetsAlsoWhatWasToldLate has an instance that was slow tell Redis what had been erased meanwhile.
func TestRedisForgetsAlsoWhatWasToldLate(t *testing.T) {
	t.Parallel()
	redis := cachetest.Server(t)
	a := start(t, postgrestest.New(t), redis.Client(t, cache.Config{}))
	eventually(t, "Redis is relied on", func() bool { return a.Status().Redis == "ok" })
	holds := func(what string) bool {
		return strings.Contains(fmt.Sprint(redis.Do("XRANGE", cache.Sync, "-", "+")), what)
	}
	r := ref("thing")
	a.set(t, r, "word", "secret")
	eventually(t, "it is told", func() bool { return holds("secret") })
	a.erase(t, r, "")
	eventually(t, "Redis has forgotten", func() bool { return !holds("secret") })
	redis.Do("XADD", cache.Sync, "*", "d", "a late secret")
	if err := a.LookForErased(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "Redis has forgotten again", func() bool { return !holds("secret") })
}
