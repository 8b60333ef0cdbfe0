// Command bench measures what this project promises, each figure beside the
// floor it is held to, in the same run:
//
//	go run ./bench -out docs/BENCHMARKS.md [-only near,http] [-seconds 2] [-scale small|full]
//
// It starts a PostgreSQL and a Redis of its own, as `rootstream up` configures
// them, fills the database with a million live sessions, and runs real serve
// processes. Whatever is compared takes turns in short rounds, so that the
// noise of the machine meets both sides. Floors are pgbench with the statements
// that the code really sent, the bare Redis client, and an HTTP handler that
// only reads the same body.
//
// measures.go lists the measurements; stack.go and data.go are what they stand
// on; report.go writes the tables.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if os.Getenv(floorEnv) != "" {
		os.Exit(runFloor(os.Stdout))
	}
	if os.Getenv(watcherEnv) != "" {
		os.Exit(runWatcher(os.Stdout, os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	out     string
	only    []string
	seconds float64 // of one round
	scale   scale
	profile string
	bin     string        // of rootstream; "" means it is built
	hold    time.Duration // of a snapshot, in the measurement of that name
	args    []string
}

// scale is how much is measured.
type scale struct {
	name     string
	tokens   int // live sessions with known tokens
	rounds   int
	seconds  float64 // of one round
	accounts int     // with a second factor
	openFor  float64 // seconds of an open loop
}

func scaleOf(name string) (scale, error) {
	switch name {
	case "full":
		return scale{name: name, tokens: 1_000_000, rounds: 5, seconds: 2, accounts: 3000, openFor: 25}, nil
	case "small":
		return scale{name: name, tokens: 20_000, rounds: 2, seconds: 1, accounts: 300, openFor: 2}, nil
	case "smoke": // what the tests run
		return scale{name: name, tokens: 5000, rounds: 1, seconds: .2, accounts: 30, openFor: .3}, nil
	default:
		return scale{}, fmt.Errorf("-scale must be small or full, not %q", name)
	}
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	o := options{args: args}
	var only, size string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.out, "out", "", "write the report to this `file`")
	f.StringVar(&only, "only", "", "measure these alone: `names`, separated by commas, of "+strings.Join(measureNames(), ", "))
	f.Float64Var(&o.seconds, "seconds", 0, "length of one round")
	rounds := f.Int("rounds", 0, "how often each side of a comparison takes its turn")
	f.StringVar(&size, "scale", "full", "full or small")
	f.StringVar(&o.profile, "profile", "", "write a CPU profile of this process to `file`")
	f.StringVar(&o.bin, "bin", "", "measure this rootstream `binary` instead of building one")
	f.DurationVar(&o.hold, "hold", 10*time.Minute, "how long the measurement held holds a snapshot")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	var err error
	if o.scale, err = scaleOf(size); err != nil {
		return o, err
	}
	if o.seconds == 0 {
		o.seconds = o.scale.seconds
	}
	if *rounds > 0 {
		o.scale.rounds = *rounds
	}
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	return o, checkNames(o.only)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	o, err := parseOptions(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	stopProfile, err := startProfile(o.profile)
	if err != nil {
		return err
	}
	defer stopProfile()
	begun := time.Now()
	s, err := startStack(ctx, o, stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	r := report{options: o, machine: describe(ctx, s), begun: begun}
	for _, m := range selected(o.only) {
		s.say("measuring %s: %s", m.name, m.what)
		rows, err := m.run(ctx, s)
		if err != nil {
			return fmt.Errorf("measure %s: %w", m.name, err)
		}
		r.add(m, rows)
		if err := writeTable(stdout, rows); err != nil {
			return err
		}
	}
	r.end(ctx, s)
	if o.out == "" {
		return nil
	}
	return r.write(o.out)
}
