package feed_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"rootstream/cache"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/statesync/feed"
	"rootstream/statesync/feed/feedtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait"), // the tests' server lives as long as the process
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"),
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"),
	)
}

const patience = 30 * time.Second

// instance runs a feed and checks that what it hands on has no gap, no repetition and no wrong order.
type instance struct {
	t    *testing.T
	name string
	*feed.Feed
	db   *postgres.DB
	stop func()

	mu      sync.Mutex
	seen    map[int][]event.Event // by shard, since the last reset
	next    [event.Shards]int64
	resets  []feed.Reset
	reached [][event.Shards]int64 // what was handed on when they began
	orphans []event.Event
	casts   []string
}

func start(t *testing.T, name string, db *postgres.DB, c *cache.Client) *instance {
	t.Helper()
	n := &instance{t: t, name: name, db: db, seen: map[int][]event.Event{}}
	var err error
	n.Feed, err = feed.New(feed.Config{
		DB: db, Cache: c, Auth: feedtest.Key("secret"), Address: name, Logger: slog.New(slog.DiscardHandler),
		OnBatch: n.onBatch, OnReset: n.onReset,
		OnOrphans: func(_ context.Context, lost []event.Event) error {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.orphans = append(n.orphans, lost...)
			return nil
		},
		OnBroadcast: func(from feed.Sender, payload []byte) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.casts = append(n.casts, string(payload))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	if s := n.Status(); s.Postgres {
		t.Errorf("%s: %+v", name, s)
	}
	go func() { done <- n.Run(ctx) }()
	_ = n.Status() // anybody may ask while it begins
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: Run: %v", name, err)
		}
	})
	t.Cleanup(n.stop)
	select {
	case <-n.Ready():
	case <-time.After(patience):
		t.Fatalf("%s does not begin", name)
	}
	return n
}

func (n *instance) onBatch(shard int, events []event.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range events {
		if e.Seq != n.next[shard] || e.Shard != shard {
			n.t.Errorf("%s: shard %d goes on with %d, want %d", n.name, shard, e.Seq, n.next[shard])
		}
		n.next[shard] = e.Seq + 1
		n.seen[shard] = append(n.seen[shard], e)
	}
}

func (n *instance) onReset(r feed.Reset) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.resets, n.reached = append(n.resets, r), append(n.reached, n.Applied())
	n.seen = map[int][]event.Event{}
	for i, h := range r.Heads {
		n.next[i] = h + 1
	}
}

func (n *instance) all() []event.Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []event.Event
	for s := range event.Shards {
		out = append(out, n.seen[s]...)
	}
	return out
}

// awaitHeads waits until the instance has everything PostgreSQL has.
func (n *instance) awaitHeads() {
	n.t.Helper()
	heads, err := event.NewStore(n.db).Heads(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	eventually(n.t, n.name+" has everything", func() bool { return n.Applied() == heads })
}

// commit appends one event a ref, each in a transaction of its own, and returns them in order of commit.
func commit(t *testing.T, db *postgres.DB, refs ...event.Ref) []event.Event {
	t.Helper()
	var out []event.Event
	for _, r := range refs {
		user := r.ID
		var done []event.Event
		err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
			tx.AfterCommit(func() { done = event.Appended(tx) })
			return event.Append(tx, event.New{
				Aggregate: r, Name: r.Type + ".changed", Data: map[string]any{"is": "ä", "n": 1}, UserID: &user, ActorID: &user, Expect: event.Any,
			})
		})
		if err != nil {
			t.Error(err)
			return out
		}
		out = append(out, done...)
	}
	return out
}

// write commits at an instance that publishes at once.
func (n *instance) write(refs ...event.Ref) []event.Event {
	n.t.Helper()
	var out []event.Event
	for _, r := range refs {
		events := commit(n.t, n.db, r)
		n.Offer(events)
		out = append(out, events...)
	}
	return out
}

func refs(n int) []event.Ref {
	out := make([]event.Ref, n)
	for i := range out {
		out[i] = event.Ref{Type: "thing", ID: uuid.New()}
	}
	return out
}

// inShard makes a ref whose events are numbered in shard.
func inShard(shard int) event.Ref {
	id := uuid.New()
	id[15] = id[15]&0xf0 | byte(shard)
	return event.Ref{Type: "thing", ID: id}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); <-time.After(2 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("%s: not within %v", what, patience)
}

// same compares but for the text of data, which PostgreSQL writes its own way.
func same(a, b []event.Event) bool {
	return slices.EqualFunc(a, b, func(x, y event.Event) bool {
		return x.Shard == y.Shard && x.Seq == y.Seq && x.AggregateType == y.AggregateType && x.AggregateID == y.AggregateID &&
			x.Version == y.Version && x.Name == y.Name && *x.UserID == *y.UserID && *x.ActorID == *y.ActorID && x.At.Equal(y.At)
	})
}

func count(n *instance, name string) int64 { return n.Status().Counts[name] }

func label(i int) string { return fmt.Sprintf("instance %d", i) }
