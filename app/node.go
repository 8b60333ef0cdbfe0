package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"rootstream/backup"
	"rootstream/backup/archive"
	"rootstream/backup/repo"
	"rootstream/backup/schedule"
	"rootstream/devstack"
	"rootstream/errs"
	"rootstream/internal/wait"
	"rootstream/notify"
	"rootstream/postgres"
	"rootstream/secret"
)

// Node is the parent of the PostgreSQL of a data folder until ctx ends, streams
// its write-ahead log into the repository and takes its backups.
func Node(ctx context.Context, dataDir string, cfg Config, stderr io.Writer) error {
	if dataDir == "" {
		return errs.NewInvalid("--data", "is required: the data folder whose PostgreSQL to run")
	}
	layout, err := devstack.Plan(devstack.Config{DataDir: dataDir}) //nolint:contextcheck // looking at versions is bounded by itself
	if err != nil {
		return err
	}
	node := layout.Node()
	node.Logger = newLogger(cfg.Log, stderr)
	g, run := errgroup.WithContext(ctx)
	server, stopped := context.WithCancel(run)
	g.Go(func() error {
		defer stopped() // with the server goes what works for it
		return devstack.RunNode(run, node)
	})
	if cfg = cfg.ofStack(layout); cfg.Backup.KeyFile != "" || cfg.Backup.PassphraseFile != "" {
		g.Go(func() error { return keepBackups(server, cfg, layout, stderr) })
	}
	return g.Wait()
}

// ofStack fills in what the configuration leaves open, for the cluster of a data folder.
func (c Config) ofStack(l devstack.Layout) Config {
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
func keepBackups(ctx context.Context, cfg Config, l devstack.Layout, stderr io.Writer) error {
	logger := newLogger(cfg.Log, stderr)
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
		b, err := OpenBackups(ctx, cfg, BackupOptions{Create: true, Stderr: stderr})
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

// Keep receives write-ahead log, if that is configured, and runs the schedule until ctx ends.
func (b *Backups) Keep(ctx context.Context) error {
	scheduler, err := b.Scheduler()
	if err != nil {
		return err
	}
	g, run := errgroup.WithContext(ctx)
	if b.config.Backup.Receive {
		receiver, err := b.receiver()
		if err != nil {
			return err
		}
		g.Go(func() error { return receiver.Run(run) })
		if err := attached(run, receiver); err != nil { // or the first backup would bring its log itself
			return g.Wait()
		}
	}
	g.Go(func() error { return scheduler.Run(run) })
	return g.Wait()
}

// attached waits until the receiver streams, but not for ever.
func attached(ctx context.Context, r *archive.Receiver) error {
	const patience = 30 * time.Second
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for r.State().Doing != archive.Streaming {
		if wait.For(waiting, serverLook) != nil {
			return ctx.Err()
		}
	}
	return nil
}

// receiver is what streams the write-ahead log of the server into the repository.
func (b *Backups) receiver() (*archive.Receiver, error) {
	open := func(context.Context) (*repo.Repo, error) { return b.Repo(), nil }
	alarm := func(ctx context.Context, cause error) {
		alerts, err := b.alerts()
		if err == nil {
			err = alerts.Tell(ctx, schedule.Alert{Problem: schedule.Failed, Job: "write-ahead log", Planned: time.Now().UTC(), Error: cause.Error()})
		}
		if err != nil {
			b.log.ErrorContext(ctx, "nobody could be told", "err", err)
		}
	}
	return b.config.receiver(open, alarm, b.log)
}

// Scheduler is what runs the configured schedule.
func (b *Backups) Scheduler() (*schedule.Scheduler, error) {
	jobs, err := b.config.Backup.jobs()
	if err != nil {
		return nil, err
	}
	alerts, err := b.alerts()
	if err != nil {
		return nil, err
	}
	return b.Manager.Scheduler(backup.Plan{Jobs: jobs, Alerts: alerts, TestRestore: func(ctx context.Context) (backup.Proof, error) {
		return b.Recovery(nil).TestRestore(ctx, backup.TestRestoreOptions{Planted: b.config.Backup.Receive})
	}})
}

// alerts says who is told of backups that fail.
func (b *Backups) alerts() (backup.Alerts, error) {
	m, hooks := b.config.Mail, map[string]notify.Endpoint{}
	for _, w := range b.config.Webhooks {
		e := notify.Endpoint{URL: w.URL}
		for _, s := range w.Secrets {
			e.Secrets = append(e.Secrets, s.Reveal)
		}
		hooks[w.URL] = e
	}
	direct, err := notify.NewDirect(notify.Config{
		Mail: notify.MailConfig{
			From: m.From, Dir: m.Dir,
			SMTP: notify.SMTPConfig{Host: m.SMTPHost, Port: m.SMTPPort, Username: m.SMTPUser, Password: m.SMTPPass.Reveal, TLS: notify.TLSMode(m.SMTPTLS)},
		},
		Webhooks: notify.WebhookConfig{Endpoints: hooks},
	})
	if err != nil {
		return backup.Alerts{}, fmt.Errorf("prepare alerts: %w", err)
	}
	c := b.config.Backup
	return backup.Alerts{Repository: b.URL(), Mail: c.AlertMail, Webhooks: c.AlertWebhooks, Send: direct, Logger: b.log}, nil
}

// ScheduledJob is a job of the schedule, and how it stands.
type ScheduledJob struct {
	Name        string        `json:"name"`
	Kind        schedule.Kind `json:"kind"`
	Next        time.Time     `json:"next,omitzero"` // zero: it runs when it is asked for again
	LastSuccess *time.Time    `json:"last_success"`
	LastRun     *time.Time    `json:"last_run"`
	Error       string        `json:"error,omitempty"` // of the last run
	Running     bool          `json:"running"`
	Problem     string        `json:"problem,omitempty"` // that people were told of
}

// Schedule lists the jobs of the configuration and what the repository knows of them.
func (b *Backups) Schedule(ctx context.Context) ([]ScheduledJob, error) {
	jobs, err := b.config.Backup.jobs()
	if err != nil {
		return nil, err
	}
	ledger, now, err := schedule.Read(ctx, b.Book())
	if err != nil {
		return nil, err
	}
	rows := make([]ScheduledJob, 0, len(jobs))
	for _, j := range jobs {
		row := scheduled(ledger, j)
		row.Next = j.Cron.Next(now)
		rows = append(rows, row)
	}
	for _, kind := range schedule.Kinds() { // what people asked for between the planned runs
		row := scheduled(ledger, schedule.Job{Kind: kind})
		ask, waits := ledger.Asked[kind]
		if row.Next = ask.At; waits || row.Running || row.LastRun != nil {
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// scheduled is what the ledger knows of a job.
func scheduled(l schedule.Ledger, j schedule.Job) ScheduledJob {
	r := l.Jobs[j.Name()]
	row := ScheduledJob{
		Name: j.Name(), Kind: j.Kind, Error: r.Error, Problem: string(r.Told.Problem),
		Running: l.Claim != nil && l.Claim.Job == j.Name(),
	}
	if !r.Success.IsZero() {
		row.LastSuccess = &r.Success
	}
	if !r.Ended.IsZero() {
		row.LastRun = &r.Ended
	}
	return row
}
