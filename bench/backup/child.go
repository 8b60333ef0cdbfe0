package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"strings"
	"time"

	"rootstream/backup/archive"
	"rootstream/backup/base"
	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/backup/storage/file"
	"rootstream/backup/wal"
	"rootstream/secret"
)

// child is this program as the database's user runs it: "take" takes a backup, "push FILE" archives a segment.
func child(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	dir := flags.String("repo", "", "")
	dsn := flags.String("dsn", "", "")
	data := flags.String("pgdata", "", "")
	kind := flags.String("type", "full", "")
	compression := flags.String("compression", "zstd", "")
	reuse := flags.Bool("reuse", false, "")
	rate := flags.Int64("rate", 0, "")
	profile := flags.String("profile", os.Getenv("BENCH_PROFILE"), "")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	st, err := file.Open(*dir, true)
	if err != nil {
		return err
	}
	key := repo.Key{Secret: secret.FromString(strings.Repeat("bench", 8)), Kind: repo.KeyFile}
	r, err := repo.Open(ctx, st, []repo.Key{key}, repo.Config{Create: true})
	if err != nil {
		return err
	}
	if args[0] == "push" {
		return errors.Join(archive.Push(ctx, r, 0, flags.Arg(0)), st.Close())
	}
	if *profile != "" {
		out, failed := os.CreateTemp(*profile, *compression+"-"+*kind+"-*.pprof")
		if failed != nil {
			return failed
		}
		if failed = pprof.StartCPUProfile(out); failed != nil {
			return failed
		}
		defer pprof.StopCPUProfile()
	}
	control, _, err := pgdata.ReadControl(*data)
	if err != nil {
		return err
	}
	began := time.Now()
	cfg := base.Config{
		DSN: *dsn, PGData: *data, Type: repo.Type(*kind), Workers: 2, Compression: repo.Compression{Name: *compression, Level: 1}, Reuse: *reuse, Rate: *rate,
		Progress: func(p base.Progress) {
			fmt.Fprintf(os.Stderr, "%v %s %d/%d, %d stored\n", time.Since(began).Round(time.Millisecond), p.Phase, p.Bytes, p.Total, p.Stored)
		},
	}
	m, err := base.Take(ctx, cfg, r, func(ctx context.Context, rng wal.Range) error {
		return archive.Wait(ctx, r, control.SystemID, rng)
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(os.Stdout, m.ID, m.Size, m.Stored)
	return errors.Join(err, st.Close())
}
