// Command state_sync shares state between two instances in one process, with the Go packages alone: no server runs.
//
//	go run ./examples/state_sync --data /var/lib/rootstream
//	go run ./examples/state_sync --postgres postgres://rootstream@localhost/rootstream
//
// With --data, changes travel through Redis; with --postgres alone they are found by looking, some 20 ms later.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"github.com/google/uuid"

	"rootstream/event"
	"rootstream/statesync"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "state_sync:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var at servers
	flags := flag.NewFlagSet("state_sync", flag.ContinueOnError)
	flags.StringVar(&at.data, "data", "", "data folder of rootstream up")
	flags.StringVar(&at.postgres, "postgres", "", "address of the database")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if at.data == "" && at.postgres == "" {
		return errors.New("name the servers: --data FOLDER or --postgres DSN")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	log := slog.New(slog.DiscardHandler)
	a, err := open(ctx, at, log)
	if err != nil {
		return err
	}
	defer a.close()
	b, err := open(ctx, at, log)
	if err != nil {
		return err
	}
	defer b.close()
	s := &show{a: a.state, b: b.state, out: out}
	return errors.Join(s.durable(ctx), s.race(ctx), s.volatile(ctx))
}

// show is what two instances, a and b, do together.
type show struct {
	a, b *statesync.Manager
	out  io.Writer
}

func (s *show) say(format string, args ...any) { _, _ = fmt.Fprintf(s.out, format+"\n", args...) }

// durable state is in PostgreSQL before Update returns, and everywhere a moment later.
func (s *show) durable(ctx context.Context) error {
	ref := event.Ref{Type: "example", ID: uuid.New()}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	told, ready, done := make(chan statesync.Change, 8), make(chan struct{}), make(chan error, 1)
	go func() {
		o := statesync.SubOptions{OnReady: func(statesync.Token) { close(ready) }}
		done <- s.b.Subscribe(ctx, []string{"example." + ref.ID.String()}, o, func(c statesync.Change) error {
			told <- c
			return nil
		})
	}()
	<-ready
	r, err := s.a.Update(ctx, ref, func(d *statesync.Doc) error {
		d.Data["scene"], d.Data["round"] = "lobby", 1
		return nil
	}, statesync.UpdateOptions{})
	if err != nil {
		return err
	}
	s.say("a wrote version %d: %s", r.Version, text(r.Doc))
	select {
	case c := <-told:
		s.say("b was told: %s, version %d", c.Name, c.Version)
	case <-ctx.Done():
		return ctx.Err()
	}
	d, err := s.b.Get(ctx, ref, statesync.AtLeast(r.Token))
	if err != nil {
		return err
	}
	s.say("b reads it, no older than what a wrote: %s", text(d))
	stop()
	return <-done
}

// race is two instances changing one entity: nobody's change is lost.
func (s *show) race(ctx context.Context) error {
	ref := event.Ref{Type: "example", ID: uuid.New()}
	done := make(chan error, 2)
	for _, m := range []*statesync.Manager{s.a, s.b} {
		go func() {
			var err error
			for counted := 0; counted < 50 && err == nil; {
				_, err = m.Update(ctx, ref, func(d *statesync.Doc) error {
					d.Data["n"] = number(d.Data["n"]) + 1
					return nil
				}, statesync.UpdateOptions{})
				if errors.Is(err, statesync.ErrBusy) { // the other one was faster ten times: nothing was stored
					err = ctx.Err()
					continue
				}
				counted++
			}
			done <- err
		}()
	}
	if err := errors.Join(<-done, <-done); err != nil {
		return err
	}
	d, err := s.a.Get(ctx, ref, statesync.Latest())
	if err != nil {
		return err
	}
	s.say("a and b both counted to 50 at once: %s", text(d))
	old, zero := int64(1), int64(0)
	_, err = s.b.Update(ctx, ref, func(d *statesync.Doc) error {
		d.Data["n"] = zero
		return nil
	}, statesync.UpdateOptions{Expect: &old})
	if !errors.Is(err, event.ErrVersion) {
		return fmt.Errorf("a change to an old version: %w", err)
	}
	s.say("b is told that what it knew is old")
	return nil
}

// volatile state is what the instances say now; it is in no database.
func (s *show) volatile(ctx context.Context) error {
	ref := event.Ref{Type: "example_viewers", ID: uuid.New()}
	for i, m := range []*statesync.Manager{s.a, s.b} {
		if err := m.SetVolatile(ref, map[string]any{"watching": 10 * (i + 1)}); err != nil {
			return err
		}
	}
	own, err := s.a.Get(ctx, ref, statesync.Local())
	if err != nil {
		return err
	}
	for s.b.Status().Redis != "off" && number(own.Data["watching"]) != 30 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
		if own, err = s.a.Get(ctx, ref, statesync.Local()); err != nil {
			return err
		}
	}
	s.say("viewers, as a knows them: %v", own.Data["watching"])
	return nil
}
