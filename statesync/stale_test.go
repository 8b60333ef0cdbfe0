package statesync_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
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

func TestAnUpdateThatChangesNothingIsJudgedByTheNewestState(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	one, other := start(t, db, nil), start(t, db, nil) // they tell each other every 20 ms
	for i := range 30 {
		r := ref("thing")
		one.set(t, r, "status", "live")
		other.set(t, r, "status", "ended")
		if i%2 == 0 {
			one.set(t, r, "status", "live")
			if d, err := other.Get(t.Context(), r, statesync.Latest()); err != nil || d.Data["status"] != "live" || d.Version != 3 {
				t.Fatalf("an acknowledged update is lost: %+v, %v", d, err)
			}
			continue
		}
		res, err := one.Update(t.Context(), r, func(d *statesync.Doc) error {
			d.Data["status"] = "live"
			return nil
		}, statesync.UpdateOptions{Expect: new(int64(1))})
		if v, lost := errors.AsType[*event.VersionError](err); !lost || v.Actual != 2 {
			t.Fatalf("version 1 is still taken for the newest: %+v, %v", res, err)
		}
	}
}

func TestAnUpdateOfAVersionYetToComeIsNotMadeOfAnOlderOne(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	one, other := start(t, db, nil), start(t, db, nil)
	r := ref("thing")
	count := func(d *statesync.Doc) error {
		have, _ := d.Data["n"].(json.Number)
		n, _ := have.Int64()
		d.Data["n"] = n + 1
		return nil
	}
	update := func(n *instance, fn func(*statesync.Doc) error, o statesync.UpdateOptions) {
		if _, err := n.Update(t.Context(), r, fn, o); err != nil && !errors.Is(err, event.ErrVersion) {
			t.Fatal(err)
		}
	}
	update(one, count, statesync.UpdateOptions{})
	update(one, func(d *statesync.Doc) error {
		if d.Version == 1 {
			update(other, count, statesync.UpdateOptions{})
		}
		return count(d)
	}, statesync.UpdateOptions{Expect: new(int64(2)), IdempotencyKey: "early"})
	d, err := other.Get(t.Context(), r, statesync.Latest())
	if n, _ := d.Data["n"].(json.Number); err != nil || n.String() != asJSON(t, d.Version) {
		t.Errorf("version %d counts %v updates, %v", d.Version, d.Data["n"], err)
	}
}

func TestAClockThatIsSetBackDoesNotMakeWhatIsOldLookNew(t *testing.T) {
	t.Parallel()
	pg, redis := postgrestest.Server(t), cachetest.Server(t)
	db := postgrestest.Open(t, postgres.Config{DSN: pg.DSN(), AcquireTimeout: time.Second})
	var ahead atomic.Int64
	a := start(t, db, redis.Client(t, cache.Config{}), func(c *statesync.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	r := ref("thing")
	a.set(t, r, "n", 1)
	eventually(t, "Redis is relied on", func() bool { return a.Status().Redis == "ok" })
	for _, by := range []time.Duration{time.Hour, -time.Hour} {
		ahead.Store(int64(by))
		if s := a.Status(); s.Redis != "ok" || !s.Postgres {
			t.Errorf("a clock set by %v: Redis is %s, PostgreSQL answers: %v", by, s.Redis, s.Postgres)
		}
	}
	pg.Pause()
	defer pg.Resume()
	redis.Pause()
	defer redis.Resume()
	eventually(t, "what is in memory is not taken for current", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := a.Get(ctx, r, statesync.Local())
		return errs.KindOf(err) == errs.Unavailable
	})
}

// TestWhoIsSlowToPutWhatItHasWrittenDoesNotHideWhatCameAfter holds an instance up between its commit and its memory, until
// another has changed the same and the memory was cleared.
func TestWhoIsSlowToPutWhatItHasWrittenDoesNotHideWhatCameAfter(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	a, b := start(t, db, nil), start(t, db, nil)
	r := ref("thing")
	a.set(t, r, "n", 1)
	var later statesync.Result
	hold := func() {
		a.slow.Store(nil)
		later = b.set(t, r, "n", 3)
		if _, err := db.Exec(t.Context(), "update sync_epoch set epoch = epoch + 1"); err != nil {
			t.Error(err)
		}
		eventually(t, "the instance starts over behind both changes", func() bool {
			s := a.Status()
			return s.Epoch == 2 && s.Applied[r.Shard()] == 3
		})
	}
	a.slow.Store(&hold)
	if earlier := a.set(t, r, "n", 2); earlier.Version != 2 || later.Version != 3 {
		t.Fatalf("versions %d and %d", earlier.Version, later.Version)
	}
	for name, read := range map[string]statesync.Read{"any": statesync.Local(), "not older": statesync.AtLeast(a.Token())} {
		if d, err := a.Get(t.Context(), r, read); err != nil || d.Version != 3 {
			t.Errorf("%s: version %d, %v; want 3", name, d.Version, err)
		}
	}
}
