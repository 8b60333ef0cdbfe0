package session_test

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rootstream/cache"
	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/session"
)

// node is an instance whose ways to PostgreSQL and Redis fail by themselves.
type node struct {
	m               *session.Manager
	database, redis *proxy
}

func (w *world) node(bound time.Duration) *node {
	w.t.Helper()
	n := &node{}
	var db *postgres.DB
	db, n.database = w.behindProxy()
	u, err := url.Parse(w.redis.URL())
	if err != nil {
		w.t.Fatal(err)
	}
	n.redis = newProxy(w.t, u.Host)
	u.Host = n.redis.listener.Addr().String()
	var manager atomic.Pointer[session.Manager]
	client, err := cache.Open(context.Background(), cache.Config{
		URL: u.String(), Logger: slog.New(slog.DiscardHandler), CommandTimeout: 100 * time.Millisecond,
		OnInvalidate: func(keys []string) {
			if m := manager.Load(); m != nil {
				m.Invalidate(keys)
			}
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(client.Close)
	n.m = w.instance(quiet, func(c *session.Config) {
		c.DB, c.FeedDB, c.Cache, c.MaxBlind, c.PollInterval = db, db, client, bound, 100*time.Millisecond
	})
	manager.Store(n.m)
	return n
}

// life is one session of the test: when its end was acknowledged.
type life struct {
	token string
	s     session.Session
	dying atomic.Bool  // its end was asked for
	ended atomic.Int64 // UnixNano of the acknowledgement; 0 before
}

// Whatever fails, in whatever order, asymmetric cuts included: no instance accepts a session for longer than the bound
// after its end was acknowledged.
func TestNoInstanceAcceptsBeyondTheBound(t *testing.T) {
	t.Parallel()
	const bound = time.Second
	length := 6 * time.Second
	if d, err := time.ParseDuration(os.Getenv("ROOTSTREAM_SOAK")); err == nil {
		length = d
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, for %v", seed, length)
	w := newWorld(t, true)
	nodes := []*node{w.node(bound), w.node(bound), w.node(bound)}
	writer := w.idle(quiet) // reaches both, so its acknowledgements are true
	id, _ := w.user()
	lives := make([]*life, 10)
	for i := range lives {
		token, s := w.loginAs(writer, session.New{UserID: id})
		lives[i] = &life{token: token, s: s}
	}
	var mu sync.RWMutex // over the places of lives
	var accepted, refused, unknown, wrong atomic.Int64
	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	var wg sync.WaitGroup
	for i, n := range nodes {
		for range 2 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(seed, uint64(i)))
				for ctx.Err() == nil {
					mu.RLock()
					l := lives[r.IntN(len(lives))]
					mu.RUnlock()
					asked, ended := time.Now(), l.ended.Load()
					_, err := n.m.Validate(context.Background(), l.token, session.ClientHint{})
					switch {
					case err == nil && ended != 0 && asked.UnixNano()-ended > int64(bound+200*time.Millisecond):
						wrong.Add(1)
						t.Errorf("node %d accepted %v after the end", i, time.Duration(asked.UnixNano()-ended))
					case err == nil:
						accepted.Add(1)
					case errors.Is(err, session.ErrInvalid) && !l.dying.Load():
						t.Errorf("node %d refused a session that stands", i)
					case errors.Is(err, session.ErrInvalid):
						refused.Add(1)
					case errs.KindOf(err) == errs.Unavailable:
						unknown.Add(1)
						<-time.After(time.Millisecond)
					default:
						t.Errorf("node %d: %v", i, err)
					}
				}
			})
		}
		wg.Go(func() { n.misfortune(ctx, rand.New(rand.NewPCG(seed, 100+uint64(i)))) })
	}
	w.endAndBegin(ctx, writer, lives, &mu)
	wg.Wait()
	t.Logf("accepted %d, refused %d, unknown %d", accepted.Load(), refused.Load(), unknown.Load())
	if accepted.Load() == 0 || refused.Load() == 0 || unknown.Load() == 0 {
		t.Error("the test saw too little")
	}
	for _, n := range nodes { // and everything heals
		eventually(t, 15*time.Second, func() bool {
			for _, l := range lives {
				_, err := n.m.Validate(context.Background(), l.token, session.ClientHint{})
				if (err == nil) != (l.ended.Load() == 0) {
					return false
				}
			}
			return true
		})
	}
}

// misfortune cuts and stalls one or both ways, for moments shorter and longer than the bound.
func (n *node) misfortune(ctx context.Context, r *rand.Rand) {
	for ctx.Err() == nil {
		pause(ctx, time.Duration(100+r.IntN(500))*time.Millisecond)
		way := []*proxy{n.database, n.redis}[r.IntN(2)]
		fault := []func(*proxy, bool){(*proxy).Cut, (*proxy).Stall}[r.IntN(2)]
		fault(way, true)
		if r.IntN(4) == 0 {
			other := []*proxy{n.database, n.redis}[r.IntN(2)]
			other.Cut(true)
			pause(ctx, time.Duration(r.IntN(1000))*time.Millisecond)
			other.Cut(false)
		}
		pause(ctx, time.Duration(100+r.IntN(1500))*time.Millisecond)
		fault(way, false)
	}
	for _, p := range []*proxy{n.database, n.redis} {
		p.Cut(false)
		p.Stall(false)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// endAndBegin ends one session after the other and begins another in its place a while later.
func (w *world) endAndBegin(ctx context.Context, m *session.Manager, lives []*life, mu *sync.RWMutex) {
	for i := 0; ctx.Err() == nil; i++ {
		at := i % len(lives)
		mu.RLock()
		l := lives[at]
		mu.RUnlock()
		if l.ended.Load() != 0 {
			token, s := w.loginAs(m, session.New{UserID: l.s.DBUserID})
			mu.Lock()
			lives[at] = &life{token: token, s: s}
			mu.Unlock()
			continue
		}
		if i%2 == 0 {
			l.dying.Store(true)
			w.revoke(m, l.s)
			l.ended.Store(time.Now().UnixNano())
		}
		pause(ctx, 100*time.Millisecond)
		if i%7 == 0 {
			w.redis.FlushAll()
		}
	}
}
