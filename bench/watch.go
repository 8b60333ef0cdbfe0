package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"rootstream/internal/wait"
	"rootstream/postgres"
	"rootstream/session"
	"rootstream/statesync"
)

const watchNote = `
A real serve process with 1,000 connections to GET /v1/watch, each on all entities of a type. This process is another
instance: it makes 100 updates a second of 100 entities, on a clock. Every connection reads all that comes and notes how
long ago it was due. What is conflated, or a reset, counts as not told. Memory is what /proc says of serve.`

const watchRate = 100 // updates a second

// onlooker is one connection that watches.
type onlooker struct {
	conn net.Conn
	took []time.Duration // of every change that was told
	lost int             // resets, and changes told together
	told atomic.Int64
}

// watches opens a connection and waits until nothing can be missed.
func (s *stack) watches(ctx context.Context, addr, token string) (*onlooker, *bufio.Reader, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	_, err = fmt.Fprintf(conn, "GET /v1/watch?topics=%s.* HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", durableType, token)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil) //nolint:bodyclose // it ends with the connection
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	r := bufio.NewReader(answer.Body)
	for line := []byte(nil); err == nil && !bytes.HasPrefix(line, []byte("id: ")); {
		line, err = r.ReadSlice('\n')
	}
	if err != nil || answer.StatusCode != http.StatusOK {
		return nil, nil, errors.Join(fmt.Errorf("%w: watch: %s", errRefused, answer.Status), err, conn.Close())
	}
	return &onlooker{conn: conn}, r, nil
}

// read notes what is told until the connection is closed.
func (o *onlooker) read(r *bufio.Reader) {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		switch {
		case bytes.HasPrefix(line, []byte("event: reset")), bytes.Contains(line, []byte(`"first_version"`)):
			o.lost++
		case bytes.HasPrefix(line, []byte("data: ")):
			_, after, _ := bytes.Cut(line, []byte(`"sent":"`))
			sent, _, _ := bytes.Cut(after, []byte(`"`))
			if at, err := strconv.ParseInt(string(sent), 10, 64); err == nil {
				o.took = append(o.took, time.Duration(time.Now().UnixNano()-at))
				o.told.Add(1)
			}
		}
	}
}

// watchServe starts a serve process whose configuration has the type that is watched, and makes a session.
func (s *stack) watchServe(ctx context.Context, watchers int) (srv *server, token string, err error) {
	file := filepath.Join(s.dir, "watch.yaml")
	text := fmt.Sprintf("sync:\n  watches_per_account: %d\n  types:\n    - {name: %s, write: user}\n", watchers, durableType)
	if err = os.WriteFile(file, []byte(text), 0o600); err != nil { //nolint:gosec // a file of ours
		return nil, "", err
	}
	accounts, err := s.accounts(ctx, "bench-watch-", 1)
	if err != nil {
		return nil, "", err
	}
	in, err := s.instance(ctx, nil)
	if err != nil {
		return nil, "", err
	}
	err = in.db.InTx(ctx, func(tx *postgres.Tx) error {
		made, failure := in.Create(ctx, tx, session.New{UserID: accounts[0].id, AMR: []string{"pwd"}, Device: session.Device{UserAgent: userAgent}})
		token = made.Token.Reveal()
		return failure
	})
	if err = errors.Join(err, in.stop()); err != nil {
		return nil, "", err
	}
	srv, err = s.serve(ctx, "--config", file)
	return srv, token, err
}

func measureWatch(ctx context.Context, s *stack) ([]row, error) {
	watchers := 1000
	if s.scale.name != "full" {
		watchers = 50
	}
	srv, token, err := s.watchServe(ctx, watchers)
	if err != nil {
		return nil, err
	}
	in, err := place{DSN: s.dsn, Redis: s.redisURL, Key: s.key}.instance(ctx)
	if err != nil {
		return nil, errors.Join(err, srv.kill())
	}
	var readers sync.WaitGroup
	all := make([]*onlooker, 0, watchers)
	for len(all) < watchers && err == nil {
		var o *onlooker
		var r *bufio.Reader
		if o, r, err = s.watches(ctx, srv.addr, token); err == nil {
			all = append(all, o)
			readers.Go(func() { o.read(r) })
		}
	}
	var rows []row
	if err == nil {
		rows, err = s.watchRows(ctx, in, srv, all, &readers)
	}
	err = errors.Join(err, in.stop(), srv.kill())
	for _, o := range all {
		_ = o.conn.Close()
	}
	readers.Wait()
	return rows, err
}

// watchRows updates and looks what has come of it.
func (s *stack) watchRows(ctx context.Context, in *syncInstance, srv *server, all []*onlooker, readers *sync.WaitGroup) ([]row, error) {
	span := time.Duration(s.scale.openFor / 2 * float64(time.Second))
	before, err := usageOf(srv.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	took, err := open(ctx, watchRate, span, func(ctx context.Context, i int) error {
		_, failure := in.Update(ctx, entity(durableType, i%100), stamped, statesync.UpdateOptions{})
		return failure
	})
	if err != nil {
		return nil, err
	}
	for _, o := range all {
		for end := time.Now().Add(10 * time.Second); int(o.told.Load()) < len(took) && time.Now().Before(end); {
			if err = wait.For(ctx, 10*time.Millisecond); err != nil {
				return nil, err
			}
		}
	}
	after, err := usageOf(srv.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	cores := (after.cpu - before.cpu).Seconds() / time.Since(begun).Seconds()
	for _, o := range all { // what they have noted is theirs until then
		_ = o.conn.Close()
	}
	readers.Wait()
	var delays []time.Duration
	want, lost := len(took)*len(all), 0
	for _, o := range all {
		delays, lost = append(delays, o.took...), lost+o.lost
	}
	delays = sorted(delays)
	const mb = 1e6
	people := number(float64(len(all)))
	return []row{
		atMost("changes not told to "+people+" who watch over HTTP", "", []float64{float64(want - len(delays) + lost)}, 0).
			with("of %s; serve used %.2f cores", number(float64(want)), cores),
		about("told to all of them, p99", "ms", millis(quantile(delays, .99))).
			with("p50 %.1f ms, max %.1f ms", millis(quantile(delays, .5)), millis(quantile(delays, 1))),
		about("serve, resident memory with "+people+" who watch", "MB", float64(after.rss)/mb).
			with("%.0f MB before they came to anything, at most %.0f MB at any time", float64(before.rss)/mb, float64(after.hwm)/mb),
	}, nil
}
