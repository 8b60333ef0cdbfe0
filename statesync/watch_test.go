package statesync_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/errs"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/statesync"
)

// watcher collects changes.
type watcher struct {
	mu   sync.Mutex
	seen []statesync.Change
	done chan error
	stop context.CancelFunc
	hold chan struct{} // while it is not closed, the callback waits
}

func (n *instance) watch(t *testing.T, o statesync.SubOptions, patterns ...string) *watcher {
	t.Helper()
	w := &watcher{done: make(chan error, 1), hold: make(chan struct{})}
	close(w.hold)
	w.run(t, n, o, patterns)
	return w
}

// watchSlowly is watch, but the first change is held up until release.
func (n *instance) watchSlowly(t *testing.T, o statesync.SubOptions, patterns ...string) (w *watcher, release func()) {
	t.Helper()
	w = &watcher{done: make(chan error, 1), hold: make(chan struct{})}
	w.run(t, n, o, patterns)
	release = sync.OnceFunc(func() { close(w.hold) })
	t.Cleanup(release)
	return w, release
}

func (w *watcher) run(t *testing.T, n *instance, o statesync.SubOptions, patterns []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w.stop = cancel
	ready := make(chan struct{})
	o.OnReady = func(statesync.Token) { close(ready) }
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		w.done <- n.Subscribe(ctx, patterns, o, func(c statesync.Change) error {
			w.mu.Lock()
			w.seen = append(w.seen, c)
			w.mu.Unlock()
			<-w.hold
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-finished
	})
	<-ready
}

func (w *watcher) changes() []statesync.Change {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

func (w *watcher) await(t *testing.T, n int) []statesync.Change {
	t.Helper()
	told := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.seen)
	}
	for end := time.Now().Add(patience); told() < n; <-time.After(2 * time.Millisecond) {
		select {
		case err := <-w.done:
			if told() < n {
				t.Fatalf("the watch ended after %d of %d changes: %v", told(), n, err)
			}
		default:
			if time.Now().After(end) {
				t.Fatalf("%d of %d changes were told within %v", told(), n, patience)
			}
		}
	}
	return w.changes()
}

func TestSubscribersHearWhatTheyAskedFor(t *testing.T) {
	t.Parallel()
	db, redis := postgrestest.New(t), cachetest.Server(t)
	a, b := start(t, db, redis.Client(t, cache.Config{})), start(t, db, redis.Client(t, cache.Config{}))
	one, two := ref("thing"), event.Ref{Type: "held", ID: uuid.New()}
	twin := event.Ref{Type: "held", ID: one.ID}
	for _, tt := range []struct {
		patterns []string
		want     []event.Ref
	}{
		{[]string{"*.*"}, []event.Ref{one, two, twin}},
		{[]string{"thing.*"}, []event.Ref{one}},
		{[]string{"held." + two.ID.String()}, []event.Ref{two}},
		{[]string{"*." + one.ID.String()}, []event.Ref{one, twin}},
		{[]string{"held.*", "*." + twin.ID.String(), "thing.*", "thing." + one.ID.String()}, []event.Ref{one, two, twin}},
		{[]string{"stream.*"}, nil},
	} {
		w := b.watch(t, statesync.SubOptions{}, tt.patterns...)
		for _, r := range []event.Ref{one, two, twin} {
			a.set(t, r, "n", uuid.NewString())
		}
		heads, err := event.NewStore(db).Heads(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "everything is applied", func() bool { return b.Status().Applied == heads })
		seen := w.await(t, len(tt.want))
		var got []event.Ref
		for _, c := range seen {
			got = append(got, c.Ref)
			if c.Name != c.Ref.Type+".changed" || c.FirstVersion != c.Version || c.Token.IsZero() || !json.Valid(c.Data) {
				t.Errorf("%+v", c)
			}
		}
		sortRefs(got)
		want := slices.Clone(tt.want)
		sortRefs(want)
		if !slices.Equal(got, want) {
			t.Errorf("%v heard %v, want %v", tt.patterns, got, want)
		}
		w.stop()
		if err = <-w.done; err != nil {
			t.Errorf("a wanted end: %v", err)
		}
	}
	if n := b.Status().Subscribers; n != 0 {
		t.Errorf("%d subscribers are left", n)
	}
}

func sortRefs(refs []event.Ref) {
	slices.SortFunc(refs, func(a, b event.Ref) int { return slices.Compare([]byte(a.String()), []byte(b.String())) })
}

func TestASubscriberResumesWithoutGapOrRepetition(t *testing.T) {
	t.Parallel()
	db, redis := postgrestest.New(t), cachetest.Server(t)
	a, b := start(t, db, redis.Client(t, cache.Config{})), start(t, db, redis.Client(t, cache.Config{}))
	refs := []event.Ref{ref("thing"), ref("thing"), ref("held")}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil && i < 600; i++ {
			a.set(t, refs[i%3], "n", i)
		}
	})
	var seen []statesync.Change
	var token statesync.Token
	enough := errors.New("enough")
	for round := range 12 { // each goes on where the last left off, here or there
		n := []*instance{a, b}[round%2]
		count := 0
		err := n.Subscribe(t.Context(), []string{"thing.*"}, statesync.SubOptions{From: token}, func(c statesync.Change) error {
			seen = append(seen, c)
			if back, err := statesync.ParseToken(c.Token.String()); err != nil || back != c.Token {
				t.Errorf("token %s: %v, %v", c.Token, back, err)
			}
			token = c.Token
			if count++; count == 15 {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) {
			t.Fatal(err)
		}
	}
	cancel()
	wg.Wait()
	next := map[event.Ref]int64{}
	for _, c := range seen {
		if want := next[c.Ref]; c.Reset || want != 0 && c.Version != want {
			t.Fatalf("%v: version %d, want %d (%+v)", c.Ref, c.Version, want, c)
		}
		next[c.Ref] = c.Version + 1
	}
	if len(next) != 2 || len(seen) != 180 {
		t.Errorf("%d changes of %v", len(seen), next)
	}
}

func TestATokenThatIsOfNoUseMeansReadAgain(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	a := start(t, db, nil)
	first := ref("thing")
	old := a.set(t, first, "n", 1).Token
	eventually(t, "it is applied", func() bool { return a.Status().Applied[first.Shard()] == 1 })
	w := a.watch(t, statesync.SubOptions{}, "*.*")
	if _, err := db.Exec(t.Context(), "update sync_epoch set epoch = 5"); err != nil {
		t.Fatal(err)
	}
	c := w.await(t, 1)[0]
	if !c.Reset || c.Reason != "epoch" || asJSON(t, c) != `{"reset":true,"reason":"epoch"}` {
		t.Errorf("%+v", c)
	}
	late := a.watch(t, statesync.SubOptions{From: old}, "*.*")
	if c := late.await(t, 1)[0]; !c.Reset || c.Reason != "epoch" {
		t.Errorf("%+v", c)
	}
	fresh := a.Token()
	r := ref("thing")
	if _, err := db.Exec(t.Context(), `insert into events (shard, seq, aggregate_type, aggregate_id, version, name)
		select $1, $2 + i, 'thing', $3, i, 'thing.told' from generate_series(1, 50001) i`, r.Shard(), a.Status().Applied[r.Shard()], r.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the instance starts over", func() bool { return a.Status().Counts["resets"] == 3 })
	far := a.watch(t, statesync.SubOptions{From: fresh}, "*.*")
	if c := far.await(t, 1)[0]; !c.Reset || c.Reason != "expired" {
		t.Errorf("%+v", c)
	}
}

// told appends n events of one entity, past all instances.
func (n *instance) told(t *testing.T, r event.Ref, events int) {
	t.Helper()
	_, err := n.db.Exec(t.Context(), `insert into events (shard, seq, aggregate_type, aggregate_id, version, name)
		select $1, (select coalesce(max(seq), 0) from events where shard = $1) + i,
			$2, $3, (select coalesce(max(version), 0) from events where aggregate_id = $3) + i, $2 || '.told' from generate_series(1, $4) i`,
		r.Shard(), r.Type, r.ID, events)
	if err != nil {
		t.Fatal(err)
	}
}

// patient is for who reads what the test keeps locked, on a busy machine for long.
func patient(dsn string) postgres.Config {
	return postgres.Config{DSN: dsn, AcquireTimeout: time.Minute, LockTimeout: 30 * time.Second}
}

// TestWhatResumingReadsIsBounded has many come with a token of long ago at once.
func TestWhatResumingReadsIsBounded(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.DSN(t)
	db := postgrestest.Open(t, postgres.Config{DSN: dsn})
	a := start(t, postgrestest.Open(t, patient(dsn)), nil)
	r := ref("thing")
	old := a.set(t, r, "n", 0).Token
	a.told(t, r, 1000)
	near := a.set(t, r, "n", 1).Token
	a.told(t, r, 9000)
	a.set(t, r, "n", 2)
	eventually(t, "all is applied", func() bool { return a.Status().Applied[r.Shard()] == 10_003 })
	if c := a.watch(t, statesync.SubOptions{From: old}, "thing.*").await(t, 1)[0]; !c.Reset || c.Reason != "expired" {
		t.Errorf("10,002 events later: %+v", c)
	}
	const watchers = 8
	reading := func() (n int) {
		err := db.QueryRow(t.Context(), `select count(*) from pg_locks l join pg_stat_activity a using (pid)
			where not l.granted and l.relation = 'events'::regclass and a.query like '%as reached%' and a.datname = current_database()`).Scan(&n)
		if err != nil {
			t.Error(err)
		}
		return n
	}
	var all []*watcher
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error { // nobody is answered meanwhile
		if _, err := tx.Exec(t.Context(), "lock table events in access exclusive mode"); err != nil {
			return err
		}
		for range watchers {
			all = append(all, a.watch(t, statesync.SubOptions{From: near}, "thing.*"))
		}
		eventually(t, "some read", func() bool { return reading() >= 2 })
		for range 50 {
			if n := reading(); n > 2 {
				return fmt.Errorf("%d read at once", n)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range all {
		if c := w.await(t, 9001); c[0].Version != 1003 || c[9000].Version != 10_003 {
			t.Errorf("from version %d to %d", c[0].Version, c[9000].Version)
		}
	}
}

// TestWhoWatchesEntitiesIsNotHurriedByOthers has somebody come back after more than anybody is told of a log.
func TestWhoWatchesEntitiesIsNotHurriedByOthers(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	r, other := ref("thing"), ref("thing")
	old := a.set(t, r, "n", 0).Token
	noise := ref("thing")
	noise.ID[15], other.ID[15] = r.ID[15], r.ID[15] // on the same shard
	a.told(t, noise, 6000)
	a.told(t, r, 1500)
	a.told(t, noise, 6000)
	a.set(t, other, "n", 0)
	eventually(t, "all is applied", func() bool { return a.Status().Applied[r.Shard()] == 13_502 })
	names := []string{"thing." + r.ID.String(), "thing." + other.ID.String(), "nothing." + r.ID.String(), "thing." + r.ID.String()}
	late := a.watch(t, statesync.SubOptions{From: old}, names...)
	seen := late.await(t, 1501)
	for i, c := range seen {
		if c.Reset || i < 1500 && (c.Ref != r || c.Version != int64(i+2)) && c.Ref != other {
			t.Fatalf("change %d is %+v", i, c)
		}
	}
	a.set(t, r, "n", 1)
	if c := late.await(t, 1502); len(c) != 1502 || c[1501].Version != 1502 {
		t.Errorf("then %d changes, the last of version %d", len(c), c[len(c)-1].Version)
	}
	half := a.watch(t, statesync.SubOptions{From: seen[700].Token}, names...)
	eventually(t, "the rest is told", func() bool { return len(half.changes()) >= 801 })
	if c := half.changes(); len(c) != 801 || c[0].Reset {
		t.Errorf("from the middle there are %d changes, the first %+v", len(c), c[0])
	}
	if c := a.watch(t, statesync.SubOptions{From: old}, append(names, "thing.*")...).await(t, 1)[0]; !c.Reset || c.Reason != "expired" {
		t.Errorf("who watches all as well is told %+v", c)
	}
	a.told(t, r, 8600)
	a.set(t, r, "n", 2)
	late.await(t, 1)
	eventually(t, "it is applied", func() bool { c := late.changes(); return c[len(c)-1].Version == 10_103 })
	if c := a.watch(t, statesync.SubOptions{From: old}, names...).await(t, 1)[0]; !c.Reset || c.Reason != "expired" {
		t.Errorf("after 10,000 changes of its own: %+v", c)
	}
}

// TestAClockThatWasSetBackHoldsNobodyUp has more than a page of newer events be older than one that was missed, by the clock.
func TestAClockThatWasSetBackHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.DSN(t)
	db := postgrestest.Open(t, postgres.Config{DSN: dsn})
	a := start(t, postgrestest.Open(t, patient(dsn)), nil)
	r, other := ref("thing"), ref("held")
	other.ID[15] = r.ID[15] ^ 1 // another shard
	old := a.set(t, r, "n", 0).Token
	a.set(t, other, "n", 0)
	if _, err := db.Exec(t.Context(), `insert into events (shard, seq, aggregate_type, aggregate_id, version, name, at)
		values ($1, 2, 'thing', $2, 2, 'thing.told', now() + interval '1 hour')`, r.Shard(), r.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is applied", func() bool { return a.Status().Applied[r.Shard()] == 2 })
	var late *watcher
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error { // nobody reads until much more has happened
		if _, err := tx.Exec(t.Context(), "lock table events in access exclusive mode"); err != nil {
			return err
		}
		late = a.watch(t, statesync.SubOptions{From: old}, "*.*")
		_, err := tx.Exec(t.Context(), `insert into events (shard, seq, aggregate_type, aggregate_id, version, name)
			select $1, 1 + n, 'held', $2, 1 + n, 'held.told' from generate_series(1, 1500) n`, other.Shard(), other.ID)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	versions := func() (of map[event.Ref]int64) {
		of = map[event.Ref]int64{}
		for _, c := range late.changes() {
			of[c.Ref] = c.Version
		}
		return of
	}
	eventually(t, "all is told", func() bool { v := versions(); return v[r] == 2 && v[other] == 1501 })
}

func TestSlowSubscribersHoldNobodyBack(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	r, others := ref("thing"), []event.Ref{ref("thing"), ref("thing")}
	const buffer = 4
	conflated, c := a.watchSlowly(t, statesync.SubOptions{Buffer: buffer}, "thing.*")
	gapped, g := a.watchSlowly(t, statesync.SubOptions{Buffer: buffer, Overflow: statesync.Gap}, "thing."+r.ID.String())
	blocked, b := a.watchSlowly(t, statesync.SubOptions{Buffer: buffer, Overflow: statesync.Block}, "thing."+r.ID.String())
	cut, k := a.watchSlowly(t, statesync.SubOptions{Buffer: 1, Overflow: statesync.Block}, "thing.*")
	crowded, w := a.watchSlowly(t, statesync.SubOptions{Buffer: 2}, "*.*")
	quick := a.watch(t, statesync.SubOptions{}, "thing.*")
	a.set(t, r, "n", 0)
	for _, w := range []*watcher{conflated, gapped, blocked, cut, crowded} {
		w.await(t, 1) // each is busy with the first
	}
	for i := 1; i <= 20; i++ {
		a.set(t, r, "n", i)
	}
	for _, o := range others {
		a.set(t, o, "n", 1)
	}
	quick.await(t, 23)
	c()
	g()
	b()
	k()
	w()
	versions := map[event.Ref]int64{}
	eventually(t, "the newest of each is told", func() bool {
		for _, c := range conflated.changes() {
			versions[c.Ref] = c.Version
		}
		return versions[r] == 21 && len(versions) == 3
	})
	at := int64(0)
	for _, c := range conflated.changes() {
		if c.Ref == r {
			if c.FirstVersion != at+1 {
				t.Errorf("after version %d comes %d to %d", at, c.FirstVersion, c.Version)
			}
			at = c.Version
		}
	}
	if n := len(conflated.changes()); n > 1+buffer+2 {
		t.Errorf("%d changes were not conflated", n)
	}
	last := gapped.await(t, 1+buffer)
	if len(last) != 1+buffer || last[1].Lost != 16 || last[1].Version != 18 || last[2].Lost != 0 {
		t.Errorf("%+v", last)
	}
	if all := blocked.await(t, 21); len(all) != 21 || all[20].Version != 21 {
		t.Errorf("blocked: %+v", all)
	}
	for name, w := range map[string]*watcher{"cut": cut, "crowded": crowded} {
		if err := <-w.done; !errors.Is(err, statesync.ErrSlow) {
			t.Errorf("%s ended with %v", name, err)
		}
	}
}

func TestAConflatedTokenLosesNothing(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	r := ref("thing")
	id := uuid.New()
	id[15] = r.ID[15] // the same shard
	other := event.Ref{Type: "thing", ID: id}
	w, release := a.watchSlowly(t, statesync.SubOptions{Buffer: 2}, "thing.*")
	a.set(t, r, "n", 0)
	w.await(t, 1)
	a.set(t, r, "n", 1)
	a.set(t, other, "n", 1)
	a.set(t, r, "n", 2) // overflow: r 2..3, then other
	eventually(t, "it is applied", func() bool { return a.Status().Applied[r.Shard()] == 4 })
	release()
	seen := w.await(t, 3)
	if seen[1].Ref != r || seen[1].FirstVersion != 2 || seen[1].Version != 3 {
		t.Fatalf("%+v", seen)
	}
	again := a.watch(t, statesync.SubOptions{From: seen[1].Token}, "thing.*")
	if c := again.await(t, 1); !slices.ContainsFunc(again.await(t, len(c)), func(c statesync.Change) bool { return c.Ref == other }) {
		t.Errorf("after resuming: %+v", c)
	}
	if s := asJSON(t, seen[1]); !json.Valid([]byte(s)) || !slices.Contains([]bool{true}, len(s) > 50) {
		t.Error(s)
	}
	end := a.watch(t, statesync.SubOptions{From: seen[2].Token}, "thing.*")
	a.set(t, other, "n", 2)
	if c := end.await(t, 1); c[0].Ref != other || c[0].Version != 2 {
		t.Errorf("after the end: %+v", c)
	}
}

func TestPatternsAndOptionsAreChecked(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	for _, p := range []string{"", "thing", "thing.", ".*", "Thing.*", "thing.x", "thing.*.*", "*", "thing." + uuid.Nil.String(), "thing.{" + uuid.NewString() + "}"} {
		if errs.KindOf(statesync.ParsePattern(p)) != errs.Invalid {
			t.Errorf("%q was taken", p)
		}
		if err := a.Subscribe(t.Context(), []string{p}, statesync.SubOptions{}, nil); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%q: %v", p, err)
		}
	}
	for _, o := range []statesync.SubOptions{{Buffer: -1}, {Buffer: 1 << 20}, {Overflow: 9}} {
		if err := a.Subscribe(t.Context(), []string{"*.*"}, o, nil); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if err := a.Subscribe(t.Context(), nil, statesync.SubOptions{}, nil); errs.KindOf(err) != errs.Invalid {
		t.Errorf("no pattern: %v", err)
	}
}
