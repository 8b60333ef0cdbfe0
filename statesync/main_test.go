package statesync_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"rootstream/cache"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/statesync"
	"rootstream/statesync/feed/feedtest"
	"rootstream/statesync/merge"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait")) // the tests' server lives as long as the process
}

const patience = 30 * time.Second

// types of the tests: a plain one, one with everything, one that its own room changes, two volatile ones.
func types() []statesync.Type {
	return []statesync.Type{
		{Name: "thing"},
		{Name: "once", Once: true},
		{Name: "held", Hold: true, Rebase: statesync.PerField(map[string]statesync.FieldRule{
			"peak": statesync.MaxField, "total": statesync.AddField, "status": statesync.LatticeField("offline", "live", "ended"),
		})},
		{Name: "mine", Rebase: statesync.KeepMine, MaxBytes: 1000},
		{Name: "theirs", Rebase: statesync.DropMine},
		{Name: "strict", Rebase: func(_, _, _ map[string]any) (map[string]any, statesync.Verdict) { return nil, statesync.Reject }},
		{Name: "stream", Reserved: []string{"status"}, Fold: foldStream},
		{Name: "session", ReadOnly: true, Fold: foldStream},
		{Name: "viewers", Class: statesync.Volatile, Join: merge.Sum()},
		{Name: "cursor", Class: statesync.Volatile},
	}
}

func foldStream(state map[string]any, e event.Event) (map[string]any, error) {
	switch e.Name {
	case "stream.started":
		state["status"] = "live"
	case "stream.ended":
		state["status"] = "ended"
	}
	return state, nil
}

type instance struct {
	*statesync.Manager
	db   *postgres.DB
	log  *event.Log
	stop func()
	slow atomic.Pointer[func()] // what its own commits are held up by once they are told
}

// start runs a manager with a log of its own, as a process would.
func start(t *testing.T, db *postgres.DB, c *cache.Client, change ...func(*statesync.Config)) *instance {
	t.Helper()
	n := &instance{db: db}
	var err error
	n.log, err = event.NewLog(event.LogConfig{
		DB: db, SnapshotEvery: 10, Logger: slog.New(slog.DiscardHandler), OnCommit: func(e []event.Event) {
			n.Offer(e)
			if hold := n.slow.Load(); hold != nil {
				(*hold)()
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg := statesync.Config{DB: db, Log: n.log, Cache: c, Auth: feedtest.Key("secret"), Logger: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&cfg)
	}
	if n.Manager, err = statesync.New(cfg); err != nil {
		t.Fatal(err)
	}
	for _, typ := range types() {
		if err := n.Register(typ); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{n.log.Run, n.Run} {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	n.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(n.stop)
	<-n.Ready()
	return n
}

func ref(kind string) event.Ref { return event.Ref{Type: kind, ID: uuid.New()} }

// set makes a field of an entity something.
func (n *instance) set(t *testing.T, r event.Ref, field string, value any) statesync.Result {
	t.Helper()
	res, err := n.Update(t.Context(), r, func(d *statesync.Doc) error {
		d.Data[field] = value
		return nil
	}, statesync.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return res
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

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
