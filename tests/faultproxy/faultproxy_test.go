package faultproxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rootstream/tests/faultproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	soon    = 100 * time.Millisecond
	patient = 10 * time.Second
)

// echo answers each line with itself and tells how its connections end.
func echo(t *testing.T) (addr string, ends <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out, done := make(chan string, 16), make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, err := io.Copy(c, c)
				_ = c.Close()
				out <- fmt.Sprint(err)
			}()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String(), out
}

// talker is a client that asks one line at a time.
type talker struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, addr string) *talker {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &talker{t, c, bufio.NewReader(c)}
}

// ask sends a line and waits for it to come back.
func (c *talker) ask(within time.Duration) error {
	if _, err := c.Write([]byte("hello\n")); err != nil {
		return err
	}
	return c.hear(within)
}

func (c *talker) hear(within time.Duration) error {
	c.t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		c.t.Fatal(err)
	}
	_, err := c.r.ReadString('\n')
	return err
}

func TestAWholeLinePassesEverythingOn(t *testing.T) {
	addr, ends := echo(t)
	p := faultproxy.New(t, addr)
	c := dial(t, p.Addr())
	for range 3 {
		if err := c.ask(patient); err != nil {
			t.Fatal(err)
		}
	}
	_ = c.Close()
	if end := <-ends; end != "<nil>" {
		t.Errorf("the server saw %v, want an orderly end", end)
	}
}

func TestCutAndRefusedLinesFailAtOnceUntilHealed(t *testing.T) {
	for name, fault := range map[string]func(*faultproxy.Proxy){"cut": (*faultproxy.Proxy).Cut, "refused": (*faultproxy.Proxy).Refuse} {
		addr, _ := echo(t)
		p := faultproxy.New(t, addr)
		c := dial(t, p.Addr())
		if err := c.ask(patient); err != nil {
			t.Fatal(err)
		}
		fault(p)
		if err := c.ask(patient); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: an open connection: %v, want it reset", name, err)
		}
		fresh, err := net.Dial("tcp", p.Addr())
		if err == nil {
			_, err = fresh.Read(make([]byte, 1))
			_ = fresh.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: a new connection: %v", name, err)
		}
		p.Heal()
		if err := dial(t, p.Addr()).ask(patient); err != nil {
			t.Errorf("%s: healed: %v", name, err)
		}
	}
}

func TestABlackHoleHoldsBackOneWay(t *testing.T) {
	for _, d := range []faultproxy.Direction{faultproxy.ToServer, faultproxy.ToClient, faultproxy.Both} {
		addr, ends := echo(t)
		p := faultproxy.New(t, addr)
		open := dial(t, p.Addr())
		if err := open.ask(patient); err != nil {
			t.Fatal(err)
		}
		p.BlackHole(d)
		fresh := dial(t, p.Addr())
		for _, c := range []*talker{open, fresh} {
			if err := c.ask(soon); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("direction %d: %v, want silence", d, err)
			}
		}
		_ = fresh.Close()
		if d&faultproxy.ToServer != 0 {
			select {
			case <-ends:
				t.Errorf("direction %d: the server was told that a client went", d)
			case <-time.After(soon):
			}
		}
		p.Heal()
		if err := open.hear(patient); err != nil {
			t.Errorf("direction %d: what was held back: %v", d, err)
		}
		<-ends // the server hears of the client that went
	}
}

func TestDelayedBytesComeLate(t *testing.T) {
	addr, _ := echo(t)
	p := faultproxy.New(t, addr)
	p.Delay(faultproxy.Both, soon)
	c := dial(t, p.Addr())
	begun := time.Now()
	if err := c.ask(patient); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < 2*soon {
		t.Errorf("an answer after %v, want at least %v", took, 2*soon)
	}
}

func TestAHalfOpenConnectionStaysDeadWhileNewOnesLive(t *testing.T) {
	addr, ends := echo(t)
	p := faultproxy.New(t, addr)
	c := dial(t, p.Addr())
	if err := c.ask(patient); err != nil {
		t.Fatal(err)
	}
	p.HalfOpen()
	<-ends
	p.Heal()
	if err := c.ask(soon); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the old connection: %v, want silence", err)
	}
	if err := dial(t, p.Addr()).ask(patient); err != nil {
		t.Errorf("a new connection: %v", err)
	}
}

func TestAStrandedServerIsNotTold(t *testing.T) {
	addr, ends := echo(t)
	p := faultproxy.New(t, addr)
	c := dial(t, p.Addr())
	if err := c.ask(patient); err != nil {
		t.Fatal(err)
	}
	p.Strand()
	if err := c.hear(patient); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the client: %v, want its connection reset", err)
	}
	select {
	case <-ends:
		t.Error("the server was told")
	case <-time.After(soon):
	}
	if n := p.Connections(); n != 1 {
		t.Errorf("%d connections are open, want the stranded one", n)
	}
}

func TestADeadServerResetsItsClients(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	p := faultproxy.New(t, l.Addr().String())
	c, err := net.Dial("tcp", p.Addr())
	if err == nil {
		_, err = c.Read(make([]byte, 1))
		_ = c.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a client of a dead server: %v", err)
	}
}
