// Command backup measures backups beside pgBackRest's, on the same server and in
// the same run:
//
//	go run ./bench/backup -out docs/BENCHMARKS-backup.md [-scale 100] [-rounds 2] [-only s2,zstd,remote,load]
//	go run ./bench/backup -out docs/BENCHMARKS-backup.md -only memory [-files 1000000]
//
// It starts a PostgreSQL of its own, fills it with pgbench, and lets both tools
// take turns: a full backup, incremental ones after few rows changed at random
// and after a contiguous part was rewritten, a restore of the last of them, a
// full one that may reuse, beside a first one. Then one over the replication
// protocol beside pg_basebackup, and, in a run of its own, what pgbench achieves
// beside a backup. Both run as the database's user with two processes, encrypt,
// write to the same disk and archive WAL through archive_command. Wall time,
// processor time and memory are those of the whole process tree.
//
// What a backup of very many files needs in memory is measured only if it is
// asked for: it makes as many files.
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
	files  int
	dir    string
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && slices.Contains([]string{"take", "push", "restore"}, args[0]) {
		return child(ctx, args)
	}
	if len(args) == 2 && args[0] == claimPart {
		return touch(args[1])
	}
	var o options
	flags := flag.NewFlagSet("backup", flag.ContinueOnError)
	flags.StringVar(&o.out, "out", "", "`file` for the report; empty means standard output")
	flags.IntVar(&o.scale, "scale", 100, "of pgbench: 15 MB each")
	flags.IntVar(&o.rounds, "rounds", 2, "times that each measurement is taken, of which the best counts")
	flags.StringVar(&o.only, "only", "", "`parts`: s2,zstd,remote,load are all; memory is another")
	flags.IntVar(&o.files, "files", 1_000_000, "of the cluster whose backups' memory is measured")
	flags.StringVar(&o.dir, "dir", "", "`folder` for server and repositories")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.only == memoryPart {
		o.scale = 1
	}
	s, err := newStand(ctx, o)
	if err != nil {
		return err
	}
	sections, err := s.all(ctx)
	if o.out == "" {
		_, _ = os.Stdout.WriteString(strings.Join(sections, ""))
	} else {
		err = errors.Join(err, write(o.out, sections))
	}
	return errors.Join(err, s.close(ctx))
}

// part is a section of the report.
type part struct {
	name    string
	measure func(context.Context) (string, error)
}

func (s *stand) parts() (all []part) {
	if s.o.only == memoryPart {
		return []part{{memoryPart, s.memory}}
	}
	for _, c := range classes() {
		all = append(all, part{c.ours, func(ctx context.Context) (string, error) { return s.class(ctx, c) }})
	}
	return append(all, part{"remote", s.remote}, part{"load", s.underLoad})
}

// all measures what is wanted and returns its sections, as far as it came.
func (s *stand) all(ctx context.Context) (sections []string, err error) {
	for _, p := range s.parts() {
		if s.o.only != "" && !slices.Contains(strings.Split(s.o.only, ","), p.name) {
			continue
		}
		section, err := p.measure(ctx)
		if section != "" {
			sections = append(sections, section)
		}
		if err != nil {
			return sections, err
		}
	}
	return sections, nil
}

// class is a trade of speed for size, and what each tool calls it.
type class struct {
	name      string
	ours      string
	peer      string
	peerLevel string
	target    float64 // of our time for a full backup to theirs
	basis     string  // what pg_basebackup calls it
}

func classes() []class {
	return []class{
		{"fast (ours s2, theirs lz4)", "s2", "lz4", "1", .8, "client-lz4:1"},
		{"zstd level 1", "zstd", "zst", "1", .9, "client-zstd:1"},
	}
}
