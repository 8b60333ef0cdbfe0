package event_test

import (
	"errors"
	"testing"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// turns appends n events to each of entities, in turns.
func turns(t *testing.T, db *postgres.DB, n int, entities ...event.Ref) {
	t.Helper()
	for range n {
		for _, r := range entities {
			mustAppend(t, db, anyOf(r))
		}
	}
}

func TestWhatEntitiesMissedIsReadWithoutTheRestOfTheLog(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	store := event.NewStore(db)
	one, two, elsewhere, fresh := onShard(3), onShard(3), onShard(9), onShard(9)
	turns(t, db, 5, one, two, elsewhere, onShard(3))
	after, err := store.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	turns(t, db, 4, two, onShard(9), one, elsewhere, fresh)
	upTo, err := store.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	turns(t, db, 3, one, fresh) // too late
	entities := []event.Ref{fresh, one, two, elsewhere, onShard(0)}
	for _, limit := range []int{1, 3, 5, 16, 100} {
		missed, err := store.Missed(t.Context(), entities, after, upTo, 25)
		if err != nil {
			t.Fatal(err)
		}
		seen, last := map[event.Ref][]int64{}, event.Event{}
		for {
			page, err := missed.Next(t.Context(), limit)
			if err != nil || len(page) > limit {
				t.Fatalf("%d events of at most %d, %v", len(page), limit, err)
			}
			if len(page) == 0 {
				break
			}
			for _, e := range page {
				if e.Shard < last.Shard || e.Shard == last.Shard && e.Seq <= last.Seq || e.Seq <= after[e.Shard] || e.Seq > upTo[e.Shard] {
					t.Errorf("by %d: %d of shard %d comes after %d of shard %d", limit, e.Seq, e.Shard, last.Seq, last.Shard)
				}
				last = e
				seen[e.Ref()] = append(seen[e.Ref()], e.Version)
			}
		}
		for r, first := range map[event.Ref]int64{one: 6, two: 6, elsewhere: 6, fresh: 1} {
			if v := seen[r]; len(v) != 4 || v[0] != first || v[3] != first+3 {
				t.Errorf("by %d: %s has versions %v", limit, r, v)
			}
		}
	}
}

func TestWhatIsTooMuchOrGoneIsNotMissedUnseen(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	store := event.NewStore(db)
	r, quiet := onShard(2), onShard(2)
	turns(t, db, 2, quiet)
	turns(t, db, 10, r)
	upTo, err := store.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := func(seq int64) (after [event.Shards]int64) {
		after[2] = seq
		return after
	}
	missed := func(most, after int64, entities ...event.Ref) error {
		_, failed := store.Missed(t.Context(), entities, at(after), upTo, most)
		return failed
	}
	for _, tt := range []struct {
		most, after int64
		want        error
	}{{10, 2, nil}, {9, 2, event.ErrTooMany}, {1, 11, nil}, {0, 11, event.ErrTooMany}, {0, 12, nil}, {12, 0, nil}, {11, 0, event.ErrTooMany}} {
		if err = missed(tt.most, tt.after, quiet, r); !errors.Is(err, tt.want) {
			t.Errorf("at most %d after %d: %v, want %v", tt.most, tt.after, err, tt.want)
		}
	}
	execute(t, db, "delete from events where aggregate_id = $1 and version <= 4", r.ID) // as retention does
	for _, tt := range []struct {
		most, after int64
		want        error
	}{{100, 5, event.ErrPruned}, {100, 6, event.ErrPruned}, {6, 7, nil}, {4, 5, event.ErrTooMany}} {
		if err = missed(tt.most, tt.after, r); !errors.Is(err, tt.want) {
			t.Errorf("pruned, at most %d after %d: %v, want %v", tt.most, tt.after, err, tt.want)
		}
	}
	if err = missed(100, 2, quiet); err != nil {
		t.Errorf("what another entity lost: %v", err)
	}
	theirs, err := store.Missed(t.Context(), []event.Ref{quiet}, at(0), upTo, 100)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = theirs.Next(t.Context(), 1001); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a bad limit: %v", err)
	}
	db.Close()
	_, err = theirs.Next(t.Context(), 1)
	if again := missed(1, 1, quiet); errs.KindOf(err) != errs.Unavailable || errs.KindOf(again) != errs.Unavailable {
		t.Errorf("without a database: %v, %v", err, again)
	}
}
