package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/app/backups"
	"rootstream/backup/archive"
	"rootstream/backup/archive/ledger"
	"rootstream/backup/base"
	"rootstream/backup/repo"
	"rootstream/backup/restore"
	"rootstream/backup/storage/file"
	"rootstream/backup/wal"
	"rootstream/secret"
)

// child is this program as the database's user runs it: "take" takes a backup, "restore" restores the newest one,
// "push FILE" archives a segment.
func child(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	dir := flags.String("repo", "", "")
	data := flags.String("pgdata", "", "")
	var cfg base.Config
	flags.StringVar(&cfg.DSN, "dsn", "", "")
	flags.StringVar((*string)(&cfg.Type), "type", "full", "")
	flags.StringVar(&cfg.Compression.Name, "compression", "zstd", "")
	flags.IntVar(&cfg.Workers, "workers", processes, "")
	flags.BoolVar(&cfg.Reuse, "reuse", false, "")
	flags.Int64Var(&cfg.Rate, "rate", 0, "")
	die := flags.Bool("die", false, "end it as kill -9 does once everything is stored or written, and before that counts")
	delta := flags.Bool("delta", false, "restore over what is there")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	backups.BoundMemory()
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
	stop, err := profile(args[0] + "-" + cfg.Compression.Name + "-" + string(cfg.Type))
	if err != nil {
		return err
	}
	defer stop()
	if args[0] == "restore" {
		_, err = restore.Run(ctx, restored(*data, cfg.Workers, *delta, *die), r)
	} else {
		cfg.PGData = *data
		err = take(ctx, cfg, r, *die)
	}
	return errors.Join(err, st.Close())
}

func restored(dir string, workers int, delta, die bool) restore.Config {
	cfg := restore.Config{Dir: dir, RestoreCommand: "false", Workers: workers}
	if delta {
		cfg.Mode = restore.Delta
	}
	cfg.Progress = func(p restore.Progress) {
		if die && p.Phase == "sync" {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	return cfg
}

// profile writes where the time goes into the folder BENCH_PROFILE, if there is one.
func profile(name string) (stop func(), err error) {
	dir := os.Getenv("BENCH_PROFILE")
	if dir == "" {
		return func() {}, nil
	}
	out, err := os.CreateTemp(dir, name+"-*.pprof")
	if err != nil {
		return nil, err
	}
	return pprof.StopCPUProfile, pprof.StartCPUProfile(out)
}

func take(ctx context.Context, cfg base.Config, r *repo.Repo, die bool) error {
	system, err := systemOf(ctx, cfg.DSN)
	if err != nil {
		return err
	}
	cfg.Compression.Level = 1
	began := time.Now()
	cfg.Progress = func(p base.Progress) {
		fmt.Fprintf(os.Stderr, "%v %s %d/%d, %d stored\n", time.Since(began).Round(time.Millisecond), p.Phase, p.Bytes, p.Total, p.Stored)
		if die && p.Phase == base.Archiving {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	m, err := base.Take(ctx, cfg, r, func(ctx context.Context, size uint32, rng wal.Range) error {
		return ledger.Wait(ctx, r, system, size, rng)
	})
	if err == nil {
		_, err = fmt.Fprintln(os.Stdout, m.ID, m.Size, m.Stored)
	}
	return err
}

// systemOf asks the server which it is.
func systemOf(ctx context.Context, dsn string) (uint64, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return 0, err
	}
	var system int64
	err = conn.QueryRow(ctx, "select system_identifier from pg_control_system()").Scan(&system)
	return uint64(system), errors.Join(err, conn.Close(ctx)) //nolint:gosec // PostgreSQL's bigint holds 64 bits without a sign
}
