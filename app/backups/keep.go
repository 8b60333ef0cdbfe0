package backups

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"rootstream/backup"
	"rootstream/backup/archive/receive"
	"rootstream/backup/repo"
	"rootstream/backup/schedule"
	"rootstream/internal/wait"
	"rootstream/notify"
)

// Keep receives write-ahead log, if that is configured, and runs the schedule until ctx ends.
func (b *Operator) Keep(ctx context.Context) error {
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

const receiverLook = 500 * time.Millisecond

// attached waits until the receiver streams, but not for ever.
func attached(ctx context.Context, r *receive.Receiver) error {
	const patience = 30 * time.Second
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for r.State().Doing != receive.Streaming {
		if wait.For(waiting, receiverLook) != nil {
			return ctx.Err()
		}
	}
	return nil
}

// receiver is what streams the write-ahead log of the server into the repository.
func (b *Operator) receiver() (*receive.Receiver, error) {
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
	return receiver(b.config, open, alarm, b.log)
}

// alerts says who is told of backups that fail.
func (b *Operator) alerts() (backup.Alerts, error) {
	direct, err := notify.NewDirect(b.config.Notify())
	if err != nil {
		return backup.Alerts{}, fmt.Errorf("prepare alerts: %w", err)
	}
	c := b.config.Backup
	return backup.Alerts{Repository: b.URL(), Mail: c.AlertMail, Webhooks: c.AlertWebhooks, Send: direct, Logger: b.log}, nil
}
