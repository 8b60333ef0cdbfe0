package cache_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"rootstream/cache"
	"rootstream/cache/cachetest"
)

// closesWithin is more than Close may take and less than whoever stops us waits.
const closesWithin = 15 * time.Second

func closes(t *testing.T, what string, end func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		end()
	}()
	select {
	case <-done:
	case <-time.After(closesWithin):
		t.Fatalf("%s does not end", what)
	}
}

func TestCloseEndsInTimeWhileTheOldMasterIsSilent(t *testing.T) {
	t.Parallel()
	set := cachetest.Sentinel(t)
	for range 2 {
		ctx, stop := context.WithCancel(t.Context())
		var busy sync.WaitGroup
		var clients []*cache.Client
		for range 4 {
			c := set.Client(t, cache.Config{OnInvalidate: func([]string) {}})
			clients = append(clients, c)
			busy.Go(func() {
				for ctx.Err() == nil {
					_, _, _ = c.Get(ctx, "k")
				}
			})
			busy.Go(func() {
				_ = c.Tail(ctx, cache.TailConfig{Positions: map[string]string{"s": "$"}, OnEntries: func(string, []cache.Entry) {}})
			})
		}
		set.Settle()
		old := set.Master()
		old.Pause()
		closes(t, "a client of a master that has just become silent", clients[0].Close)
		set.PauseMaster()
		for _, c := range clients[1:] {
			closes(t, "a client whose old master is silent", c.Close)
		}
		closes(t, "a client that is opened and closed meanwhile", func() {
			c, err := cache.Open(t.Context(), set.Config())
			must(t, err)
			c.Close()
		})
		stop()
		closes(t, "what used the clients", busy.Wait)
		old.Resume()
	}
}

// A reader that is held up is the one way to have rueidis wait for ever that can be brought about at will.
func TestWhatRueidisNeverEndsIsLeftBehind(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	held, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	var once sync.Once
	hold := func() {
		once.Do(func() { close(held) })
		<-release
	}
	c := srv.Client(t, cache.Config{OnInvalidate: func(keys []string) {
		if keys != nil {
			hold()
		}
	}})
	must(t, c.Set(t.Context(), cache.SessionViewPrefix+"k", "v", time.Minute))
	<-held
	closes(t, "a client whose tracking connection is held up", c.Close)
}
