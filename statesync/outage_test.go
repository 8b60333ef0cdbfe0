package statesync_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/errs"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/statesync"
)

// TestWithoutPostgresStateIsReadFromMemoryAndNotChanged takes PostgreSQL away, and then Redis too.
func TestWithoutPostgresStateIsReadFromMemoryAndNotChanged(t *testing.T) {
	t.Parallel()
	pg, redis := postgrestest.Server(t), cachetest.Server(t)
	db := postgrestest.Open(t, postgres.Config{DSN: pg.DSN(), AcquireTimeout: time.Second, ConnectTimeout: time.Second})
	a, b := start(t, db, redis.Client(t, cache.Config{})), start(t, db, redis.Client(t, cache.Config{}))
	r, other, count := ref("thing"), ref("thing"), ref("viewers")
	token := a.set(t, r, "n", 1).Token
	if _, err := b.Get(t.Context(), r, statesync.AtLeast(token)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "Redis is relied on", func() bool { return a.Status().Redis == "ok" && b.Status().Redis == "ok" })
	unavailable := func(what string, err error) {
		t.Helper()
		if errs.KindOf(err) != errs.Unavailable {
			t.Errorf("%s = %v, want that it is unavailable", what, err)
		}
	}
	pg.Kill()
	eventually(t, "its absence is noticed", func() bool { return !b.Status().Postgres })
	if d, err := b.Get(t.Context(), r, statesync.Local()); err != nil || asJSON(t, d.Data) != `{"n":1}` {
		t.Errorf("what is in memory = %v, %v", d.Data, err)
	}
	_, err := b.Get(t.Context(), other, statesync.Local())
	unavailable("what is not in memory", err)
	_, err = b.Get(t.Context(), r, statesync.Latest())
	unavailable("the latest", err)
	_, err = a.Patch(t.Context(), r, []byte(`{"n":2}`), statesync.UpdateOptions{})
	unavailable("a change", err)
	if err := a.SetVolatile(count, map[string]any{"n": 3}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "volatile state goes on", func() bool {
		d, err := b.Get(t.Context(), count, statesync.Local())
		return err == nil && asJSON(t, d.Data) == `{"n":3}`
	})
	redis.Kill()
	eventually(t, "nothing says that memory is current", func() bool {
		_, err := b.Get(t.Context(), r, statesync.Local())
		return errs.KindOf(err) == errs.Unavailable
	})
	pg.Restart()
	eventually(t, "PostgreSQL alone is enough", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		d, err := b.Get(ctx, r, statesync.Local())
		return err == nil && d.Version == 1 // what was not acknowledged did not happen
	})
}

// TestWhatRetentionRemovedIsSaidToBeGone prunes the past of an entity, of which the state stays.
func TestWhatRetentionRemovedIsSaidToBeGone(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	a := start(t, db, nil)
	r := ref("thing")
	old := a.set(t, r, "n", 1).Token
	for i := 2; i <= 12; i++ { // a snapshot is taken every 10
		a.set(t, r, "n", i)
	}
	eventually(t, "there is a snapshot", func() bool {
		var n int
		return db.QueryRow(t.Context(), "select count(*) from event_snapshots where aggregate_id = $1", r.ID).Scan(&n) == nil && n == 1
	})
	gone, err := event.NewStore(db).With(event.NewSchema()).Prune(t.Context(), time.Now().Add(time.Hour), false)
	if err != nil || gone.Events != 10 {
		t.Fatalf("%+v, %v", gone, err)
	}
	if _, err := a.GetAt(t.Context(), r, event.At{Version: 3}); !errors.Is(err, event.ErrPruned) || errs.KindOf(err) != errs.Gone {
		t.Errorf("a version that is gone = %v", err)
	}
	for version, want := range map[int64]string{10: `{"n":10}`, 11: `{"n":11}`} {
		if d, err := a.GetAt(t.Context(), r, event.At{Version: version}); err != nil || asJSON(t, d.Data) != want {
			t.Errorf("version %d = %v, %v", version, d.Data, err)
		}
	}
	late := start(t, db, nil) // that knows nothing yet
	if d, err := late.Get(t.Context(), r, statesync.Local()); err != nil || d.Version != 12 || asJSON(t, d.Data) != `{"n":12}` {
		t.Errorf("now it is %v at %d, %v", d.Data, d.Version, err)
	}
	for _, patterns := range []string{"thing.*", "thing." + r.ID.String()} {
		if c := late.watch(t, statesync.SubOptions{From: old}, patterns).await(t, 1)[0]; !c.Reset || c.Reason != "expired" {
			t.Errorf("who resumes %s from there is told %+v", patterns, c)
		}
	}
}
