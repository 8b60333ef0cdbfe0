package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"rootstream/cache"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/secret"
	"rootstream/statesync"
)

// watcherEnv makes this program be a second instance that hears of every change: see [runWatcher].
const watcherEnv = "RSBENCH_WATCHER"

// place is where an instance finds what it stands on.
type place struct{ DSN, Redis, Key string }

// syncInstance is a statesync.Manager with all that `serve` gives it.
type syncInstance struct {
	*statesync.Manager
	log  *event.Log
	reg  *prometheus.Registry // of the log
	db   *postgres.DB
	stop func() error
}

const (
	durableType  = "room"
	volatileType = "gauge"
)

func (at place) instance(ctx context.Context) (in *syncInstance, err error) {
	in = &syncInstance{reg: prometheus.NewRegistry()}
	if in.db, err = postgres.Open(ctx, postgres.Config{DSN: at.DSN, MaxConns: 20, Logger: quiet()}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			in.db.Close()
		}
	}()
	master, err := secret.LoadMasterKey(at.Key)
	if err != nil {
		return nil, err
	}
	keys, err := secret.Open(ctx, in.db, master, "main")
	if err != nil {
		return nil, err
	}
	var redis *cache.Client
	if at.Redis != "" {
		if redis, err = cache.Open(ctx, cache.Config{URL: at.Redis, Logger: quiet()}); err != nil {
			return nil, err
		}
	}
	if in.log, err = event.NewLog(event.LogConfig{
		DB: in.db, Registerer: in.reg, Logger: quiet(), OnCommit: func(events []event.Event) { in.Offer(events) },
	}); err != nil {
		return nil, err
	}
	if in.Manager, err = statesync.New(statesync.Config{DB: in.db, Log: in.log, Cache: redis, Auth: keys, Logger: quiet()}); err != nil {
		return nil, err
	}
	for _, t := range []statesync.Type{{Name: durableType}, {Name: volatileType, Class: statesync.Volatile}} {
		if err = in.Register(t); err != nil {
			return nil, err
		}
	}
	in.run(ctx, redis)
	select {
	case <-in.Ready():
		return in, nil
	case <-time.After(patience):
		return nil, errors.Join(errors.New("the instance does not become ready"), in.stop())
	}
}

func (in *syncInstance) run(ctx context.Context, redis *cache.Client) {
	ctx, cancel := context.WithCancel(ctx)
	collect := debug.SetGCPercent(400) // as serve does
	done := make(chan error, 2)
	go func() { done <- in.log.Run(ctx) }()
	go func() { done <- in.Run(ctx) }()
	in.stop = func() error {
		cancel()
		err := errors.Join(<-done, <-done)
		debug.SetGCPercent(collect)
		if redis != nil {
			redis.Close()
		}
		in.db.Close()
		return err
	}
}

// delays are how long changes took to come here, until somebody takes them.
type delays struct {
	mu   sync.Mutex
	took []int64 // ns
}

func (d *delays) note(c statesync.Change) error {
	_, after, _ := bytes.Cut(c.Data, []byte(`"sent"`)) // what holds none has no time
	if sent, err := strconv.ParseInt(string(digits(after)), 10, 64); err == nil {
		d.mu.Lock()
		d.took = append(d.took, time.Now().UnixNano()-sent)
		d.mu.Unlock()
	}
	return nil
}

// digits are the first ones in b. To read all of its JSON would cost more than it took to come here.
func digits(b []byte) []byte {
	isDigit := func(c rune) bool { return '0' <= c && c <= '9' }
	b = b[max(0, bytes.IndexFunc(b, isDigit)):]
	if end := bytes.IndexFunc(b, func(c rune) bool { return !isDigit(c) }); end >= 0 {
		b = b[:end]
	}
	return b
}

// ServeHTTP answers with all delays since the last time.
func (d *delays) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	d.mu.Lock()
	took := d.took
	d.took = nil
	d.mu.Unlock()
	_ = binary.Write(w, binary.LittleEndian, took)
}

const watcherLine = "the watcher listens on "

// runWatcher is a second instance: it subscribes to everything and notes how
// long ago each change was made.
func runWatcher(stdout, stderr io.Writer) int {
	err := watch(context.Background(), stdout)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "watcher:", err)
		return 1
	}
	return 0
}

func watch(ctx context.Context, stdout io.Writer) error {
	var at place
	if err := json.Unmarshal([]byte(os.Getenv(watcherEnv)), &at); err != nil {
		return err
	}
	in, err := at.instance(ctx)
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	d := &delays{}
	srv := &http.Server{Handler: d, ReadHeaderTimeout: patience}
	go func() { _ = srv.Serve(l) }() // until it is killed
	return in.Subscribe(ctx, []string{durableType + ".*", volatileType + ".*"}, statesync.SubOptions{
		Buffer: 1 << 16, Overflow: statesync.Block,
		OnReady: func(statesync.Token) { _, _ = fmt.Fprintf(stdout, "%s%s\n", watcherLine, l.Addr()) },
	}, d.note)
}

// entity is the nth of the entities that are written to.
func entity(kind string, n int) event.Ref {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[8:], 1<<48+uint64(n)) //nolint:gosec // a small number
	return event.Ref{Type: kind, ID: id}
}
