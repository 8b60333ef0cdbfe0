package archive_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// halves is a line to a server on which, once, half of a large message arrives, and then nothing more.
type halves struct {
	port    string
	stalled chan struct{} // closed when it has
	once    sync.Once
}

func half(t *testing.T, c *cluster) *halves {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	h := &halves{port: port, stalled: make(chan struct{})}
	var all sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	all.Go(func() {
		for {
			client, failed := l.Accept()
			if failed != nil {
				return
			}
			server, failed := new(net.Dialer).DialContext(context.Background(), "unix", fmt.Sprintf("%s/.s.PGSQL.%d", c.SocketDir(), c.Port()))
			if failed != nil {
				_ = client.Close()
				continue
			}
			gone := make(chan struct{})
			all.Go(func() { _, _ = io.Copy(server, client); close(gone); _ = server.Close() })
			all.Go(func() { h.pass(client, server, gone); _ = client.Close() })
		}
	})
	return h
}

func (h *halves) pass(client, server net.Conn, gone <-chan struct{}) {
	for front := pgproto3.NewFrontend(server, nil); ; {
		msg, err := front.Receive()
		if err != nil {
			return
		}
		raw, err := msg.Encode(nil)
		if err != nil {
			return
		}
		cut := false
		if len(raw) > 10_000 {
			h.once.Do(func() { cut = true })
		}
		if cut {
			raw = raw[:len(raw)/2]
		}
		if _, err := client.Write(raw); err != nil {
			return
		}
		if cut {
			close(h.stalled)
			<-gone // the client gives up
			return
		}
	}
}

func TestAServerThatIsSilentInTheMiddleOfAMessageIsGivenUp(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	_, dir := newRepo(t)
	h := half(t, c)
	cfg := config(child{Repo: dir, Spool: folder(t), DSN: fmt.Sprintf("host=127.0.0.1 port=%s user=postgres dbname=postgres sslmode=disable", h.port)})
	cfg.Patience = 2 * time.Second
	r := start(t, cfg)
	r.streaming()
	c.write(1)
	<-h.stalled
	r.uploaded(c.lsn())
}
