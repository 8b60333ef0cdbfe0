package event_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/google/uuid"

	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

func appendEvents(t *testing.T, db *postgres.DB, n int) {
	t.Helper()
	for range n {
		err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
			return event.Append(tx, event.New{Aggregate: event.Ref{Type: "stream", ID: uuid.New()}, Name: "stream.started", Expect: 0})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestConsumerBeginsAtTheEndAndSeesEveryLaterEventOnce(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	appendEvents(t, db, 5)
	var mu sync.Mutex
	seen := map[uuid.UUID]int{}
	handle := func(_ context.Context, _ *postgres.Tx, events []event.Event) error {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range events {
			seen[e.AggregateID]++
		}
		return nil
	}
	a := event.Consumer{DB: db, Name: "test", Handle: handle}
	b := event.Consumer{DB: db, Name: "test", Handle: handle}
	if n, err := a.Consume(t.Context()); err != nil || n != 0 {
		t.Fatalf("a new consumer got %d old events, %v", n, err)
	}
	appendEvents(t, db, 40)
	var wg sync.WaitGroup
	for _, c := range []event.Consumer{a, b, a, b} {
		wg.Go(func() {
			if _, err := c.Consume(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := a.Consume(t.Context()); err != nil { // what a skipped shard left
		t.Fatal(err)
	}
	if len(seen) != 40 {
		t.Errorf("%d events were consumed, not 40", len(seen))
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s was consumed %d times", id, n)
		}
	}
}

func TestConsumerKeepsItsPlaceWhenHandlingFails(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	fail := true
	handled := 0
	c := event.Consumer{DB: db, Name: "test", Handle: func(_ context.Context, _ *postgres.Tx, events []event.Event) error {
		if fail {
			return errors.New("not now")
		}
		handled += len(events)
		return nil
	}}
	if _, err := c.Consume(t.Context()); err != nil {
		t.Fatal(err)
	}
	appendEvents(t, db, 10)
	if n, err := c.Consume(t.Context()); err == nil || n != 0 {
		t.Fatalf("Consume = %d, %v; want the handler's error", n, err)
	}
	fail = false
	if n, err := c.Consume(t.Context()); err != nil || n != 10 || handled != 10 {
		t.Fatalf("Consume = %d, %v, handled %d; want all 10", n, err, handled)
	}
}
