package event_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/postgres/postgrestest"
)

func TestReadStartsAtAVersion(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	store, ref := event.NewStore(db), newRef("user")
	for range 120 {
		mustAppend(t, db, anyOf(ref), anyOf(newRef("user")))
	}
	for _, tt := range []struct {
		page        event.Page
		first, size int
	}{
		{event.Page{}, 1, 100},
		{event.Page{FromVersion: 1}, 1, 100},
		{event.Page{FromVersion: 101}, 101, 20},
		{event.Page{FromVersion: 5, Limit: 2}, 5, 2},
		{event.Page{Limit: 1000}, 1, 120},
		{event.Page{FromVersion: 121}, 0, 0},
	} {
		tt.page.Entity = ref
		got, err := store.Read(t.Context(), tt.page)
		if err != nil || len(got) != tt.size {
			t.Errorf("Read(%+v) = %d events, %v; want %d", tt.page, len(got), err, tt.size)
			continue
		}
		for i, e := range got {
			if e.Version != int64(tt.first+i) || e.AggregateID != ref.ID || string(e.Data) != "{}" || time.Since(e.At) > time.Minute {
				t.Errorf("Read(%+v)[%d] = %+v", tt.page, i, e)
			}
		}
	}
	for _, limit := range []int{-1, 1001} {
		_, readErr := store.Read(t.Context(), event.Page{Entity: ref, Limit: limit})
		_, auditErr := store.Audit(t.Context(), ref.ID, event.Position{}, limit)
		_, shardErr := store.Shard(t.Context(), 0, 0, limit)
		for _, err := range []error{readErr, auditErr, shardErr} {
			if errs.KindOf(err) != errs.Invalid {
				t.Errorf("limit %d: %v, want kind Invalid", limit, err)
			}
		}
	}
}

func TestAuditIsNewestFirst(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	store, user, other := event.NewStore(db), uuid.New(), uuid.New()
	for i := range 10 {
		who := &user
		if i%5 == 4 {
			who = &other
		}
		mustAppend(t, db, event.New{Aggregate: newRef("session"), Name: fmt.Sprintf("session.n%d", i), Expect: event.Any, UserID: who})
	}
	var seen []string
	for _, e := range trail(t, store, user, 3) {
		seen = append(seen, e.Name)
		if *e.UserID != user {
			t.Errorf("%s is %s's", e.Name, e.UserID)
		}
	}
	if got, want := fmt.Sprint(seen), "[session.n8 session.n7 session.n6 session.n5 session.n3 session.n2 session.n1 session.n0]"; got != want {
		t.Errorf("the trail is %s\nwant %s", got, want)
	}
}

// trail reads a user's trail by pages.
func trail(t *testing.T, store *event.Store, user uuid.UUID, limit int) (all []event.Event) {
	t.Helper()
	for last := (event.Position{}); ; last = all[len(all)-1].Position() {
		page, err := store.Audit(t.Context(), user, last, limit)
		if err != nil {
			t.Fatal(err)
		}
		if all = append(all, page...); len(page) < limit {
			return all
		}
	}
}

func TestATrailLosesNothingBetweenPages(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	store, user := event.NewStore(db), uuid.New()
	for range 20 {
		mustAppend(t, db, event.New{Aggregate: newRef("session"), Name: "session.created", UserID: &user})
	}
	execute(t, db, "update events set at = date_trunc('day', at) - seq % 2 * interval '1 microsecond'") // many at the same time
	for _, limit := range []int{1, 3, 7, 20, 21} {
		seen := map[event.Position]bool{}
		all := trail(t, store, user, limit)
		for i, e := range all {
			seen[e.Position()] = true
			if i > 0 && e.At.After(all[i-1].At) {
				t.Errorf("by %d: an event of %v comes after one of %v", limit, e.At, all[i-1].At)
			}
		}
		if len(all) != 20 || len(seen) != 20 {
			t.Errorf("by %d: %d events, %d different ones; want 20", limit, len(all), len(seen))
		}
		newest, err := store.Trail(t.Context(), user, limit)
		if diff := cmp.Diff(all[:min(limit, 20)], newest); diff != "" || err != nil {
			t.Errorf("the newest %d (-pages +trail): %v\n%s", limit, err, diff)
		}
	}
}

// TestATrailLongerThanAPageIsReadWhole has all of it happen at once, as what a transaction of another program wrote.
func TestATrailLongerThanAPageIsReadWhole(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	user := uuid.New()
	execute(t, db, `insert into events (shard, seq, aggregate_type, aggregate_id, version, name, user_id, at)
		select event_shard($1), n, 'user', $1, n, 'user.updated', $1, now() from generate_series(1, 2500) n`, user)
	for _, most := range []int{999, 1000, 1001, 2499, 2500, 1 << 62} {
		all, err := event.NewStore(db).Trail(t.Context(), user, most)
		if err != nil || len(all) != min(most, 2500) || all[0].Seq != 2500 || all[len(all)-1].Seq != 2501-int64(len(all)) {
			t.Errorf("of at most %d there are %d, %v", most, len(all), err)
		}
	}
}

func TestAShardIsReadInOrder(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	store := event.NewStore(db)
	ref := newRef("user")
	for range 5 {
		mustAppend(t, db, anyOf(ref), anyOf(ref))
	}
	var next int64
	for range 10 {
		page, err := store.Shard(t.Context(), ref.Shard(), next, 1)
		if err != nil || len(page) != 1 || page[0].Seq != next+1 {
			t.Fatalf("Shard after %d = %+v, %v", next, page, err)
		}
		next = page[0].Seq
	}
	if page, err := store.Shard(t.Context(), ref.Shard(), next, 0); err != nil || len(page) != 0 {
		t.Errorf("Shard after its end = %+v, %v", page, err)
	}
}

func TestVerifyFindsWhatIsMissing(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		sql  string
		gaps int
	}{
		"nothing":         {"select 1", 0},
		"in the middle":   {"delete from events where version = 3", 2},
		"at the front":    {"delete from events where version = 1", 2},
		"two in a row":    {"delete from events where version in (2, 3)", 2},
		"a shard's jump":  {"update events set seq = 100 where version = 5", 1},
		"a version's one": {"select set_config('rootstream.numbered', 'on', true); update events set version = 100 where version = 5", 1},
	} {
		db := postgrestest.New(t)
		ref := newRef("user")
		for range 5 {
			mustAppend(t, db, anyOf(ref))
		}
		if _, err := db.Exec(t.Context(), tt.sql); err != nil {
			t.Fatal(err)
		}
		found, err := event.NewStore(db).Verify(t.Context(), nil)
		if err != nil || len(found.Gaps) != tt.gaps || len(found.Mismatches) != 0 {
			t.Errorf("%s: Verify = %+v, %v; want %d gaps", name, found, err, tt.gaps)
		}
		for _, g := range found.Gaps {
			if g.Place != ref.String() && g.Place != fmt.Sprintf("shard %d", ref.Shard()) || g.Next <= g.After+1 {
				t.Errorf("%s: a gap is %+v", name, g)
			}
		}
	}
}

func TestReadingFailsClearlyWithoutADatabase(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	db.Close()
	store, ref := event.NewStore(db), newRef("user")
	_, readErr := store.Read(t.Context(), event.Page{Entity: ref})
	_, verifyErr := store.Verify(t.Context(), nil)
	_, versionErr := store.Version(t.Context(), ref)
	_, importErr := event.Importer{DB: db}.Import(t.Context())
	for _, err := range []error{readErr, verifyErr, versionErr, importErr, appendAll(db, anyOf(ref))} {
		if errs.KindOf(err) != errs.Unavailable {
			t.Errorf("%v, want kind Unavailable", err)
		}
	}
}
