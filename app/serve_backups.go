package app

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"rootstream/api"
	"rootstream/app/backups"
	"rootstream/backup"
	"rootstream/event"
	"rootstream/internal/wait"
	"rootstream/postgres"
)

// servedBackups are the backups as the API shows them. The repository is opened
// when it is first there: the node makes it while this process starts.
type servedBackups struct {
	p *Parts

	mu   sync.Mutex
	open *backups.Operator
}

// backups returns what the API shows of backups; nil where none are configured.
func (p *Parts) backups() api.Backups {
	if p.served == nil {
		return nil
	}
	return p.served
}

func (s *servedBackups) get(ctx context.Context) (*backups.Operator, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open != nil {
		return s.open, nil
	}
	b, err := backups.Open(ctx, s.p.Config, backups.Options{Registerer: s.p.Registry})
	if err == nil {
		s.open = b
	}
	return b, err
}

// List lists the backups, newest first.
func (s *servedBackups) List(ctx context.Context) ([]backup.Backup, error) {
	b, err := s.get(ctx)
	if err != nil {
		return nil, err
	}
	return b.List(ctx)
}

// Windows returns to what times the cluster can be restored.
func (s *servedBackups) Windows(ctx context.Context) ([]backup.Window, error) {
	b, err := s.get(ctx)
	if err != nil {
		return nil, err
	}
	return b.Windows(ctx)
}

// RunNow lets the process that runs the schedule run something, and puts on record who asked for it.
func (s *servedBackups) RunNow(ctx context.Context, kind, by string) error {
	b, err := s.get(ctx)
	if err != nil {
		return err
	}
	who, err := uuid.Parse(by)
	if err != nil {
		return fmt.Errorf("who asked for a backup: %w", err)
	}
	return s.p.DB.InTx(ctx, func(tx *postgres.Tx) error {
		asked := event.New{
			Aggregate: event.Ref{Type: "repository", ID: b.Repo().ID()}, Name: "repository.run_requested", Data: map[string]any{"kind": kind},
			UserID: &who, Expect: event.Any,
		}
		if err := event.Append(tx, asked); err != nil {
			return err
		}
		return b.RunNow(ctx, kind, by)
	})
}

// watchEvery is how often the gauges of the repository are read.
const watchEvery = time.Minute

// Run keeps the gauges up to date until ctx ends.
func (s *servedBackups) Run(ctx context.Context) error {
	for {
		if b, err := s.get(ctx); err == nil {
			defer b.Close()
			return b.Watch(watchEvery).Run(ctx)
		}
		const pause = 5 * time.Second
		if wait.For(ctx, pause) != nil {
			return nil
		}
	}
}
