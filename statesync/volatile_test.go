package statesync_test

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/errs"
	"rootstream/event"
	"rootstream/postgres/postgrestest"
	"rootstream/statesync"
)

func TestVolatileStateIsWhatLivesAddsUpTo(t *testing.T) {
	t.Parallel()
	db, redis := postgrestest.New(t), cachetest.Server(t)
	nodes := []*instance{
		start(t, db, redis.Client(t, cache.Config{})), start(t, db, redis.Client(t, cache.Config{})), start(t, db, redis.Client(t, cache.Config{})),
	}
	eventually(t, "they know each other", func() bool { return len(nodes[0].Status().Peers) == 2 })
	r := ref("viewers")
	w := nodes[0].watch(t, statesync.SubOptions{}, "viewers.*")
	for i, n := range nodes {
		if err := n.SetVolatile(r, map[string]any{"now": 10 * (i + 1)}); err != nil {
			t.Fatal(err)
		}
	}
	now := func(n *instance) string {
		d, err := n.Get(t.Context(), r, statesync.Local())
		if errors.Is(err, statesync.ErrNotFound) {
			return "none"
		}
		return asJSON(t, d.Data["now"])
	}
	for _, n := range nodes {
		eventually(t, "everybody's viewers count", func() bool { return now(n) == "60" })
	}
	if err := nodes[1].SetVolatile(r, map[string]any{"now": -500}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a count is never below none", func() bool { return now(nodes[0]) == "40" })
	redis.FlushAll()
	redis.Restart()
	if err := nodes[1].SetVolatile(r, map[string]any{"now": 5}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is asserted again after Redis lost it", func() bool { return now(nodes[0]) == "45" && now(nodes[2]) == "45" })
	nodes[2].stop() // without a word
	eventually(t, "what it held is gone with it", func() bool { return now(nodes[0]) == "15" && now(nodes[1]) == "15" })
	nodes[1].DropVolatile(r)
	nodes[1].DropVolatile(r)
	eventually(t, "what is taken back is gone", func() bool { return now(nodes[0]) == "10" })
	nodes[0].DropVolatile(r)
	eventually(t, "nobody contributes", func() bool { return now(nodes[0]) == "none" && now(nodes[1]) == "none" })
	eventually(t, "the watcher heard it to the end", func() bool {
		c := w.changes()
		return len(c) > 0 && string(c[len(c)-1].Data) == "{}"
	})
	for _, c := range w.changes() {
		if !c.Volatile || c.Version != 0 || c.Name != "viewers.set" || !json.Valid(c.Data) {
			t.Errorf("%+v", c)
		}
	}
	if nodes[0].Status().Volatile != 0 {
		t.Errorf("%d entities are left", nodes[0].Status().Volatile)
	}
}

// With Sentinel there may be two masters for a while, since one that was replaced goes on until it is told.
func TestContributionsComeRightAfterTwoMasters(t *testing.T) {
	t.Parallel()
	db, set, elsewhere := postgrestest.New(t), cachetest.Sentinel(t), cachetest.Server(t)
	set.Mislead(set.Sentinels[1], elsewhere)
	through := func(i int) *cache.Client {
		cfg := set.Config()
		cfg.Sentinel.Addrs = cfg.Sentinel.Addrs[i : i+1]
		c, err := cache.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	a, b := start(t, db, through(0)), start(t, db, through(1))
	r := ref("viewers")
	knows := func(n *instance, want string) func() bool {
		return func() bool {
			d, err := n.Get(t.Context(), r, statesync.Local())
			return err == nil && asJSON(t, d.Data["now"]) == want && n.Status().Redis == "ok"
		}
	}
	for n, now := range map[*instance]int{a: 134, b: 4} {
		if err := n.SetVolatile(r, map[string]any{"now": now}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "each hears itself alone", func() bool { return knows(a, "134")() && knows(b, "4")() })
	set.Mislead(set.Sentinels[1], set.Master())
	eventually(t, "both know of all", func() bool { return knows(a, "138")() && knows(b, "138")() })
}

// Whoever says two things at once must itself believe the one that the others will.
func TestOfWhatIsSaidAtOnceAllBelieveTheSame(t *testing.T) {
	t.Parallel()
	db, redis := postgrestest.New(t), cachetest.Server(t)
	a, b := start(t, db, redis.Client(t, cache.Config{})), start(t, db, redis.Client(t, cache.Config{}))
	eventually(t, "they know each other", func() bool { return len(a.Status().Peers) == 1 && len(b.Status().Peers) == 1 })
	var refs []event.Ref
	for range 300 {
		refs = append(refs, ref("cursor"))
	}
	var saying sync.WaitGroup
	for i := range 8 {
		saying.Go(func() {
			for _, r := range refs {
				if err := a.SetVolatile(r, map[string]any{"by": i}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	saying.Wait()
	for _, r := range refs {
		mine, err := a.Get(t.Context(), r, statesync.Local())
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the other one knows the same", func() bool {
			theirs, err := b.Get(t.Context(), r, statesync.Local())
			return err == nil && asJSON(t, theirs.Data) == asJSON(t, mine.Data)
		})
	}
}

func TestWhatAnInstanceSaysIsBounded(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil)
	value := map[string]any{"text": strings.Repeat("x", 60<<10)}
	var refs []event.Ref
	for {
		r := ref("cursor")
		if err := a.SetVolatile(r, value); errors.Is(err, statesync.ErrOverloaded) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if refs = append(refs, r); len(refs) > 2000 {
			t.Fatal("there is no end to it")
		}
	}
	if err := a.SetVolatile(refs[0], value); err != nil {
		t.Errorf("what is said again needs no more room: %v", err)
	}
	a.DropVolatile(refs[1])
	if err := a.SetVolatile(ref("cursor"), value); err != nil {
		t.Errorf("what was taken back leaves room: %v", err)
	}
}

func TestVolatileChangesAreTakenTogether(t *testing.T) {
	t.Parallel()
	a := start(t, postgrestest.New(t), nil) // without Redis it is this instance's alone
	r := ref("cursor")
	w := a.watch(t, statesync.SubOptions{}, "cursor."+r.ID.String())
	for i := range 5000 {
		if err := a.SetVolatile(r, map[string]any{"at": i}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the last one is told", func() bool {
		c := w.changes()
		return len(c) > 0 && string(c[len(c)-1].Data) == `{"at":4999}`
	})
	if n := len(w.changes()); n > 2500 {
		t.Errorf("%d changes were told one by one", n)
	}
	for name, err := range map[string]error{
		"unknown": a.SetVolatile(ref("nothing"), nil), "durable": a.SetVolatile(ref("thing"), nil),
		"not JSON": a.SetVolatile(r, map[string]any{"a": func() {}}), "too long": a.SetVolatile(r, map[string]any{"a": make([]byte, 64<<10)}),
	} {
		if k := errs.KindOf(err); k != errs.Invalid && k != errs.NotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
}
