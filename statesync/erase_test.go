package statesync_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"

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
		_, err := statesync.Erase(t.Context(), tx, r)
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
		if _, err := statesync.Erase(t.Context(), tx, r); err != nil {
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
