// Command backup measures backups beside pgBackRest's, on the same server and in
// the same run:
//
//	go run ./bench/backup -out docs/BENCHMARKS-backup.md [-scale 100] [-rounds 2] [-only s2,zstd]
//
// It starts a PostgreSQL of its own, fills it with pgbench, and lets both tools
// take turns: a full backup, incremental ones after few rows changed at random
// and after a contiguous part was rewritten, a full one that may reuse. Both run
// as the database's user with two processes, encrypt, write to the same disk and
// archive WAL through archive_command. Wall time, processor time and memory are
// those of the whole process tree.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
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
	if len(args) > 0 && (args[0] == "take" || args[0] == "push") {
		return child(ctx, args)
	}
	var o options
	flags := flag.NewFlagSet("backup", flag.ContinueOnError)
	flags.StringVar(&o.out, "out", "", "`file` for the report; empty means standard output")
	flags.IntVar(&o.scale, "scale", 100, "of pgbench: 15 MB each")
	flags.IntVar(&o.rounds, "rounds", 2, "times that each measurement is taken; the best counts")
	flags.StringVar(&o.only, "only", "", "classes of compression: s2,zstd")
	flags.StringVar(&o.dir, "dir", "", "`folder` for server and repositories")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s, err := newStand(ctx, o)
	if err != nil {
		return err
	}
	var all []result
	for _, c := range classes() {
		if o.only != "" && !strings.Contains(","+o.only+",", ","+c.ours+",") {
			continue
		}
		rows, failed := s.measure(ctx, c)
		all = append(all, rows...)
		if err = failed; err != nil {
			break
		}
	}
	report := s.report(ctx, all)
	if o.out != "" && err == nil {
		err = os.WriteFile(o.out, []byte(report), 0o644) //nolint:gosec // a document
	} else {
		_, _ = os.Stdout.WriteString(report)
	}
	return errors.Join(err, s.close(ctx))
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
