package session_test

import (
	"context"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// proxy stands between one instance and PostgreSQL. Cut, it refuses; stalled, it swallows.
type proxy struct {
	listener net.Listener
	target   string
	cut      atomic.Bool
	mu       sync.Mutex
	gate     *sync.Cond
	stalled  bool
	conns    map[net.Conn]bool
}

// behindProxy opens a pool that reaches the world's database through a proxy.
func (w *world) behindProxy() (*postgres.DB, *proxy) {
	w.t.Helper()
	u, err := url.Parse(w.dsn)
	if err != nil {
		w.t.Fatal(err)
	}
	p := newProxy(w.t, u.Host)
	u.Host = p.listener.Addr().String()
	return postgrestest.Open(w.t, postgres.Config{DSN: u.String()}), p
}

func newProxy(tb testing.TB, target string) *proxy {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &proxy{listener: l, target: target, conns: map[net.Conn]bool{}}
	p.gate = sync.NewCond(&p.mu)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if p.cut.Load() {
				_ = c.Close()
				continue
			}
			s, err := net.Dial("tcp", p.target)
			if err != nil {
				_ = c.Close()
				continue
			}
			p.mu.Lock()
			p.conns[c], p.conns[s] = true, true
			p.mu.Unlock()
			wg.Go(func() { p.pump(s, c) })
			wg.Go(func() { p.pump(c, s) })
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		p.Stall(false)
		p.Cut(true)
		wg.Wait()
	})
	return p
}

func (p *proxy) pump(to, from net.Conn) {
	defer func() {
		_ = to.Close()
		_ = from.Close()
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		for p.stalled {
			p.gate.Wait()
		}
		p.mu.Unlock()
		if n > 0 {
			if _, e := to.Write(buf[:n]); e != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// Cut ends all connections and refuses new ones.
func (p *proxy) Cut(on bool) {
	p.cut.Store(on)
	if !on {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

// Stall lets nothing through, without ending anything.
func (p *proxy) Stall(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled = on
	p.gate.Broadcast()
}
