// Command backup measures backups beside pgBackRest's, on the same server and in
// the same run:
//
//	go run ./bench/backup -out docs/BENCHMARKS-backup.md [-scale 100] [-rounds 2] [-only s2,zstd,load]
//
// It starts a PostgreSQL of its own, fills it with pgbench, and lets both tools
// take turns: a full backup, incremental ones after few rows changed at random
// and after a contiguous part was rewritten, a restore of the last of them, a
// full one that may reuse. Then, in a run of its own, it measures what pgbench
// achieves beside a backup. Both run as the database's user with two processes,
// encrypt, write to the same disk and archive WAL through archive_command. Wall
// time, processor time and memory are those of the whole process tree.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/backup:", err)
		os.Exit(1)
	}
}

type options struct {
	out    string
	scale  int
	rounds int
	only   string
	dir    string
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && slices.Contains([]string{"take", "push", "restore"}, args[0]) {
		return child(ctx, args)
	}
	var o options
	flags := flag.NewFlagSet("backup", flag.ContinueOnError)
	flags.StringVar(&o.out, "out", "", "`file` for the report; empty means standard output")
	flags.IntVar(&o.scale, "scale", 100, "of pgbench: 15 MB each")
	flags.IntVar(&o.rounds, "rounds", 0, "times that each measurement is taken, of which the best counts; 0 means 2, beyond scale 100 one")
	flags.StringVar(&o.only, "only", "", "classes of compression, or what is measured under load: s2,zstd,load")
	flags.StringVar(&o.dir, "dir", "", "`folder` for server and repositories")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.rounds == 0 {
		o.rounds = 1
		if o.scale <= 100 {
			o.rounds = 2
		}
	}
	s, err := newStand(ctx, o)
	if err != nil {
		return err
	}
	all, err := s.all(ctx)
	sections := s.sections(ctx, all)
	if err != nil || o.out == "" {
		_, _ = os.Stdout.WriteString(strings.Join(sections, ""))
	} else {
		err = write(o.out, sections)
	}
	return errors.Join(err, s.close(ctx))
}

func (o options) wants(what string) bool {
	return o.only == "" || slices.Contains(strings.Split(o.only, ","), what)
}

// measured is all that was, as far as it came.
type measured struct {
	results []result
	loads   []load
}

func (s *stand) all(ctx context.Context) (m measured, err error) {
	for _, c := range classes() {
		if !s.o.wants(c.ours) {
			continue
		}
		var rows []result
		rows, err = s.measure(ctx, c)
		m.results = append(m.results, rows...)
		if err != nil {
			return m, err
		}
	}
	if s.o.wants("load") {
		m.loads, err = s.underLoad(ctx)
	}
	return m, err
}

// class is a trade of speed for size, and what each tool calls it.
type class struct {
	name      string
	ours      string
	peer      string
	peerLevel string
}

func classes() []class {
	return []class{
		{"fast (ours s2, theirs lz4)", "s2", "lz4", "1"},
		{"zstd level 1", "zstd", "zst", "1"},
	}
}
