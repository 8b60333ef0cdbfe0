// Package faultproxy puts a TCP proxy between a program and a server, for
// tests that must break the line between them and leave both alive.
//
// [New] listens on a port of 127.0.0.1 and passes everything on. A line can be
// cut, refused, held back in one or both directions, delayed, or left half
// open; [Proxy.Heal] makes it whole again. Faults concern this line only, so
// one instance of several can lose a server that the others still reach.
// The proxy ends with the test.
package faultproxy

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// Direction is the way that bytes go.
type Direction int

// The directions.
const (
	ToServer Direction = 1
	ToClient Direction = 2
	Both               = ToServer | ToClient
)

// Proxy is one line to one server. Its methods may be called from any goroutine.
type Proxy struct {
	tb     testing.TB
	addr   string
	target string
	end    context.Context //nolint:containedctx // the life of the proxy, which the test ends
	wg     sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while connections are refused
	cut      bool
	held     Direction
	delays   map[Direction]time.Duration
	changed  chan struct{} // closed when held changes
	lines    map[*line]struct{}
}

// New starts a proxy in front of target (host:port).
func New(tb testing.TB, target string) *Proxy {
	tb.Helper()
	end, stop := context.WithCancel(context.Background())
	p := &Proxy{
		tb: tb, target: target, end: end, lines: map[*line]struct{}{},
		changed: make(chan struct{}), delays: map[Direction]time.Duration{},
	}
	var err error
	for range 50 {
		// Below the ports that the system gives to clients, so that nobody takes ours while it is closed.
		p.addr = fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(22000)) //nolint:gosec // not a secret
		if err = p.listen(); err == nil {
			break
		}
	}
	if err != nil {
		stop()
		tb.Fatalf("listen: %v", err)
	}
	tb.Cleanup(func() {
		stop()
		p.hangUp()
		p.Reset()
		p.wg.Wait()
	})
	return p
}

// Addr is the host:port that clients connect to.
func (p *Proxy) Addr() string { return p.addr }

func (p *Proxy) listen() error {
	l, err := (&net.ListenConfig{}).Listen(p.end, "tcp", p.addr)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.listener = l
	p.mu.Unlock()
	p.wg.Go(func() { p.accept(l) })
	return nil
}

func (p *Proxy) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.connect(c.(*net.TCPConn)) }) //nolint:forcetypeassert // the listener is a TCP one
	}
}

func (p *Proxy) connect(client *net.TCPConn) {
	if p.isCut() {
		reset(client)
		return
	}
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(p.end, "tcp", p.target)
	if err != nil {
		reset(client)
		return
	}
	server := c.(*net.TCPConn) //nolint:forcetypeassert // it was dialled as TCP
	if server.LocalAddr().String() == server.RemoteAddr().String() {
		reset(server) // nobody listens, and the system has connected the port to itself
		reset(client)
		return
	}
	l := &line{client: client, server: server, gone: make(chan struct{})}
	p.mu.Lock()
	over := p.cut || p.end.Err() != nil
	if !over {
		p.lines[l] = struct{}{}
	}
	p.mu.Unlock()
	if over {
		l.reset()
		return
	}
	var both sync.WaitGroup
	both.Go(func() { p.pump(l, server, client, ToServer) })
	both.Go(func() { p.pump(l, client, server, ToClient) })
	both.Wait()
	l.reset()
	p.mu.Lock()
	delete(p.lines, l)
	p.mu.Unlock()
}

// Heal makes the line whole: what was held back is delivered, new connections pass. What was reset stays so.
func (p *Proxy) Heal() {
	p.mu.Lock()
	p.cut, p.held = false, 0
	clear(p.delays)
	p.change()
	closed := p.listener == nil
	p.mu.Unlock()
	if !closed {
		return
	}
	for try := 0; ; try++ {
		err := p.listen()
		if err == nil || p.end.Err() != nil {
			return
		}
		if try == 100 {
			p.tb.Errorf("listen again on %s: %v", p.addr, err)
			return
		}
		time.Sleep(20 * time.Millisecond) //nolint:forbidigo // another process may be on its way out of the port
	}
}

// Cut resets every connection, and each new one as soon as it is made.
func (p *Proxy) Cut() {
	p.mu.Lock()
	p.cut = true
	p.mu.Unlock()
	p.Reset()
}

// Refuse resets every connection and listens no more.
func (p *Proxy) Refuse() {
	p.hangUp()
	p.Reset()
}

func (p *Proxy) hangUp() {
	p.mu.Lock()
	l := p.listener
	p.listener = nil
	p.mu.Unlock()
	if l != nil {
		_ = l.Close() // it only listens
	}
}

// Reset resets every connection, once; new ones pass.
func (p *Proxy) Reset() { p.each((*line).reset) }

// BlackHole holds back what goes in a direction, the end of a connection included. Neither side is told; new
// connections are made and hold back as well.
func (p *Proxy) BlackHole(d Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held |= d
	p.change()
}

// Delay lets what goes in a direction arrive that much later, in order.
func (p *Proxy) Delay(d Direction, by time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range []Direction{ToServer, ToClient} {
		if d&one != 0 {
			p.delays[one] = by
		}
	}
}

// HalfOpen loses the server's end of every connection without telling the client, for good: what the client sends on
// it goes nowhere. New connections pass.
func (p *Proxy) HalfOpen() { p.each((*line).loseServer) }

// Strand loses the client's end of every connection without telling the server, for good. New connections pass.
func (p *Proxy) Strand() { p.each((*line).loseClient) }

// Connections is how many are open.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.lines)
}

func (p *Proxy) each(fn func(*line)) {
	p.mu.Lock()
	list := make([]*line, 0, len(p.lines))
	for l := range p.lines {
		list = append(list, l)
	}
	p.mu.Unlock()
	for _, l := range list {
		fn(l)
	}
}

func (p *Proxy) isCut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cut
}

// change wakes those who are held; mu is held.
func (p *Proxy) change() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Proxy) delay(d Direction) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.delays[d]
}

// line is one connection through the proxy.
type line struct {
	client, server *net.TCPConn
	once           sync.Once
	gone           chan struct{} // closed when nothing is passed on any more
}

func (l *line) leave() { l.once.Do(func() { close(l.gone) }) }

func (l *line) reset() {
	l.leave()
	reset(l.client)
	reset(l.server)
}

func (l *line) loseServer() {
	l.leave()
	reset(l.server)
}

func (l *line) loseClient() {
	l.leave()
	reset(l.client)
}

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // a closed connection cannot be reset again
	_ = c.Close()
}

// parcel is what was read at once; err ends the connection.
type parcel struct {
	bytes []byte
	due   time.Time
	err   error
}

// pump passes on what src sends until it ends or the line is given up.
func (p *Proxy) pump(l *line, dst, src *net.TCPConn, d Direction) {
	queue := make(chan parcel, 1024)
	p.wg.Go(func() { p.collect(l, src, queue, d) })
	for {
		select {
		case <-l.gone:
			swallow(src)
			return
		case <-p.end.Done():
			return
		case next := <-queue:
			if !p.wait(l, next.due, d) {
				swallow(src)
				return
			}
			if next.err == nil {
				_, next.err = dst.Write(next.bytes)
			}
			if next.err == io.EOF { //nolint:errorlint // Read returns it as it is
				_ = dst.CloseWrite() // it may be closed already
				return
			}
			if next.err != nil {
				l.leave()
				reset(dst)
				return
			}
		}
	}
}

// collect reads src into queue, so that what is held back or late does not keep the sender from sending.
func (p *Proxy) collect(l *line, src *net.TCPConn, queue chan<- parcel, d Direction) {
	for {
		buf := make([]byte, 16<<10)
		n, err := src.Read(buf)
		due := time.Now().Add(p.delay(d))
		for _, next := range []parcel{{bytes: buf[:n], due: due}, {err: err, due: due}} {
			if len(next.bytes) == 0 && next.err == nil {
				continue
			}
			select {
			case queue <- next:
			case <-l.gone:
			case <-p.end.Done():
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// wait returns true once what is due may pass, false when the line is given up.
func (p *Proxy) wait(l *line, due time.Time, d Direction) bool {
	if late := time.Until(due); late > 0 {
		select {
		case <-time.After(late):
		case <-l.gone:
			return false
		case <-p.end.Done():
			return false
		}
	}
	for {
		p.mu.Lock()
		held, changed := p.held&d != 0, p.changed
		p.mu.Unlock()
		if !held {
			return true
		}
		select {
		case <-changed:
		case <-l.gone:
			return false
		case <-p.end.Done():
			return false
		}
	}
}

// swallow waits until the end that was left standing closes by itself; collect goes on reading it.
func swallow(src *net.TCPConn) {
	buf := make([]byte, 16<<10)
	for {
		if _, err := src.Read(buf); err != nil {
			return
		}
	}
}
