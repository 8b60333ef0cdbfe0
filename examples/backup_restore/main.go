// Command backup_restore loses a table and gets it back, with the Go packages alone: PostgreSQL must be installed, no server runs.
//
//	go run ./examples/backup_restore
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"time"

	"rootstream/backup"
	"rootstream/backup/archive"
	"rootstream/backup/archive/receive"
	"rootstream/backup/repo"
	"rootstream/pgserver"
	"rootstream/postgres"
	"rootstream/secret"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == "fetch" {
		os.Exit(fetch(ctx, os.Args[2:]))
	}
	if err := run(ctx, os.Stdout); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "backup_restore:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) (err error) {
	server, err := pgserver.Throwaway(ctx, pgserver.ThrowawayConfig{SocketOnly: true, Params: map[string]string{"wal_level": "replica"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Discard(context.WithoutCancel(ctx))) }()
	home, err := os.MkdirTemp("", "backup-restore-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(home)) }()
	if err = server.Account().Own(home); err != nil { // the restored server gets a folder there
		return err
	}
	k := &keeper{server: server, home: home, url: "file://" + filepath.Join(home, "repository"), key: filepath.Join(home, "key"), out: out}
	if err = os.WriteFile(k.key, []byte(rand.Text()+rand.Text()), 0o600); err != nil {
		return err
	}
	if k.backups, err = open(ctx, k.url, k.key, server); err != nil {
		return err
	}
	before, err := k.mishap(ctx)
	if err != nil {
		return err
	}
	return k.rescue(ctx, before)
}

// open opens the repository; server may be nil where nothing is to be backed up.
func open(ctx context.Context, url, keyFile string, server *pgserver.Server) (*backup.Manager, error) {
	key, err := os.ReadFile(keyFile) //nolint:gosec // our own
	if err != nil {
		return nil, err
	}
	cfg := backup.Config{Repo: url, Keys: []repo.Key{{Secret: secret.FromBytes(key), Kind: repo.KeyFile}}, Slot: "example", Logger: slog.New(slog.DiscardHandler)}
	if server != nil {
		cfg.Create, cfg.DSN, cfg.PGData = true, secret.FromString(server.DSN("postgres")), server.DataDir()
	}
	return backup.Open(ctx, cfg)
}

// keeper keeps a server's backups.
type keeper struct {
	server         *pgserver.Server
	backups        *backup.Manager
	home, url, key string
	out            io.Writer
}

func (k *keeper) say(format string, args ...any) { _, _ = fmt.Fprintf(k.out, format+"\n", args...) }

// mishap backs a server up, until somebody drops a table. It returns the moment before.
func (k *keeper) mishap(ctx context.Context) (before time.Time, err error) {
	stop, err := k.receive(ctx)
	if err != nil {
		return before, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	db, err := postgres.Open(ctx, postgres.Config{DSN: k.server.DSN("postgres"), MaxConns: 1})
	if err != nil {
		return before, err
	}
	defer db.Close()
	for _, step := range []struct {
		sql    string
		backup backup.Type
	}{
		{"create table letters as select n, md5(n::text) body from generate_series(1, 1000) n", backup.Full},
		{"insert into letters select n, md5(n::text) from generate_series(1001, 1500) n", backup.Incremental},
		{"insert into letters values (1501, 'the last one')", ""},
		{"drop table letters", backup.Incremental},
	} {
		if err = db.QueryRow(ctx, "select clock_timestamp()").Scan(&before); err != nil {
			return before, err
		}
		if _, err = db.Exec(ctx, step.sql); err != nil {
			return before, err
		}
		if step.backup == "" {
			continue
		}
		b, err := k.backups.Create(ctx, backup.CreateOptions{Type: step.backup})
		if err != nil {
			return before, err
		}
		k.say("%s backup, %s", b.Type, b.Status)
	}
	k.say("the table is dropped, and a backup was taken since")
	return before, nil
}

// receive streams the write-ahead log into the repository until it is stopped.
func (k *keeper) receive(ctx context.Context) (stop func() error, err error) {
	receiver, err := receive.New(receive.Config{
		DSN: k.server.DSN("postgres"), Slot: "example", Spool: filepath.Join(k.home, "spool"), Logger: slog.New(slog.DiscardHandler),
		Open: func(context.Context) (*repo.Repo, error) { return k.backups.Repo(), nil },
	})
	if err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- receiver.Run(running) }()
	stop = func() error { cancel(); return <-ended }
	const look, patience = 20 * time.Millisecond, 30 * time.Second
	waiting, enough := context.WithTimeout(running, patience)
	defer enough()
	for receiver.State().Doing != receive.Streaming {
		select {
		case <-waiting.Done():
			return nil, errors.Join(errors.New("the log does not stream: "+receiver.State().LastError), stop())
		case <-time.After(look):
		}
	}
	return stop, nil
}

// rescue restores the cluster to a moment, in the place of the server, and looks at the table.
func (k *keeper) rescue(ctx context.Context, moment time.Time) (err error) {
	if err = k.server.Stop(ctx, pgserver.Fast); err != nil { // the restored one has its settings
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	done, err := k.backups.Recovery(self, "fetch", k.url, k.key).Restore(ctx, backup.RestoreOptions{
		Spec: backup.RestoreSpec{Time: moment.Format(time.RFC3339Nano)}, To: filepath.Join(k.home, "restored"), Start: true,
		Settings: map[string]string{"listen_addresses": "", "unix_socket_directories": k.server.SocketDir()}, // ours, whoever we are
	})
	if err != nil {
		return err
	}
	restored, err := pgserver.New(pgserver.Config{
		Installation: k.server.Installation(), DataDir: done.Dir, RunAs: k.server.Account().Name, Foreign: true, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	if err = restored.Attach(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restored.Stop(context.WithoutCancel(ctx), pgserver.Immediate)) }()
	db, err := postgres.Open(ctx, postgres.Config{DSN: restored.DSN("postgres"), MaxConns: 1})
	if err != nil {
		return err
	}
	defer db.Close()
	var rows, right int
	if err = db.QueryRow(ctx, "select count(*), count(*) filter (where body = md5(n::text) or n = 1501) from letters").Scan(&rows, &right); err != nil {
		return err
	}
	k.say("restored to the moment before: %d letters, %d of them as they were written", rows, right)
	return nil
}

// fetch is the restore_command where the server runs as our own user: URL KEYFILE --system-id N NAME DEST.
func fetch(ctx context.Context, args []string) int {
	const want, broken = 6, 2
	if len(args) != want {
		return broken
	}
	system, err := strconv.ParseUint(args[3], 10, 64)
	if err != nil {
		return broken
	}
	backups, err := open(ctx, args[0], args[1], nil)
	if err == nil {
		err = archive.Source{Repo: backups.Repo(), System: system}.Fetch(ctx, args[4], args[5])
	}
	switch {
	case errors.Is(err, archive.ErrAbsent):
		return archive.ExitAbsent
	case err != nil:
		_, _ = fmt.Fprintln(os.Stderr, err)
		return broken
	}
	return 0
}
