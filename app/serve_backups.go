package app

import (
	"context"
	"sync"
	"time"

	"rootstream/api"
	"rootstream/app/backups"
	"rootstream/backup"
	"rootstream/internal/wait"
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

// RunNow lets the process that runs the schedule run something.
func (s *servedBackups) RunNow(ctx context.Context, kind, by string) error {
	b, err := s.get(ctx)
	if err != nil {
		return err
	}
	return b.RunNow(ctx, kind, by)
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
