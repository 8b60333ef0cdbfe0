package app

import (
	"context"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"rootstream/app/backups"
	"rootstream/app/config"
	"rootstream/devstack"
	"rootstream/errs"
	"rootstream/internal/wait"
	"rootstream/postgres"
	"rootstream/secret"
)

// Node is the parent of the PostgreSQL of a data folder until ctx ends, streams
// its write-ahead log into the repository and takes its backups.
func Node(ctx context.Context, dataDir string, cfg config.Config, stderr io.Writer) error {
	if dataDir == "" {
		return errs.NewInvalid("--data", "is required: the data folder whose PostgreSQL to run")
	}
	layout, err := devstack.Plan(devstack.Config{DataDir: dataDir}) //nolint:contextcheck // looking at versions is bounded by itself
	if err != nil {
		return err
	}
	node := layout.Node()
	node.Logger = cfg.Log.Logger(stderr)
	g, run := errgroup.WithContext(ctx)
	server, stopped := context.WithCancel(run)
	g.Go(func() error {
		defer stopped() // with the server goes what works for it
		return devstack.RunNode(run, node)
	})
	if cfg = ofStack(cfg, layout); cfg.Backup.KeyFile != "" || cfg.Backup.PassphraseFile != "" {
		g.Go(func() error { return keepBackups(server, cfg, layout, stderr) })
	}
	return g.Wait()
}

// ofStack fills in what the configuration leaves open, for the cluster of a data folder.
func ofStack(c config.Config, l devstack.Layout) config.Config {
	if c.Backup.Repo == "" {
		c.Backup.Repo = "file://" + l.BackupDir
	}
	if c.Backup.KeyFile == "" && c.Backup.PassphraseFile == "" {
		if _, err := os.Stat(l.BackupKeyFile); err == nil {
			c.Backup.KeyFile = l.BackupKeyFile
		}
	}
	c.Backup.PGData = l.PostgresDir
	if c.Backup.Spool == "" {
		c.Backup.Spool = l.WALSpool
	}
	if c.Mail.Dir == "" && c.Mail.SMTPHost == "" {
		c.Mail.Dir = l.MailDir
	}
	return c
}

const serverLook = 500 * time.Millisecond

// keepBackups waits for the server, then works for it until ctx ends. That
// backups cannot be kept never ends the server.
func keepBackups(ctx context.Context, cfg config.Config, l devstack.Layout, stderr io.Writer) error {
	logger := cfg.Log.Logger(stderr)
	for ctx.Err() == nil {
		if dsn, err := os.ReadFile(l.AdminDSNFile); err == nil {
			cfg.Backup.DSN = secret.FromBytes([]byte(strings.TrimSpace(string(dsn))))
			if answers(ctx, cfg.Backup.DSN) {
				break
			}
		}
		if wait.For(ctx, serverLook) != nil {
			return nil //nolint:nilerr // a wanted stop
		}
	}
	if dsn, err := os.ReadFile(l.PostgresDSNFile); err == nil {
		cfg.Postgres.DSN = secret.FromBytes([]byte(strings.TrimSpace(string(dsn))))
	}
	for ctx.Err() == nil {
		b, err := backups.Open(ctx, cfg, backups.Options{Create: true, Stderr: stderr})
		if err == nil {
			err = b.Keep(ctx)
			b.Close()
		}
		if err != nil && ctx.Err() == nil {
			logger.ErrorContext(ctx, "backups are not kept", "err", err)
		}
		const pause = 30 * time.Second
		if wait.For(ctx, pause) != nil {
			return nil //nolint:nilerr // a wanted stop
		}
	}
	return nil
}

// answers reports whether a server takes queries.
func answers(ctx context.Context, dsn secret.Secret) bool {
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	db, err := postgres.Open(ctx, postgres.Config{DSN: dsn.Reveal(), MaxConns: 1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return false
	}
	defer db.Close()
	return db.Ping(ctx) == nil
}
