package event

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"rootstream/postgres"
)

// Importer copies what is in 24.2's event_log into the log, again and again.
type Importer struct {
	DB       *postgres.DB
	Interval time.Duration // between looks; 0 means 2s
	Logger   *slog.Logger  // nil means slog.Default
}

const importBatch = 1000

// Import copies all that is waiting and returns how many events it copied.
// Rows that others are changing at the moment are left for the next time.
func (i Importer) Import(ctx context.Context) (int, error) {
	total := 0
	for {
		var waiting bool
		err := i.DB.QueryRow(ctx, "select exists (select from event_log where imported_at is null)").Scan(&waiting)
		if err != nil || !waiting {
			return total, err
		}
		var n int
		err = i.DB.InTx(ctx, func(tx *postgres.Tx) error {
			return tx.QueryRow(ctx, "select import_event_log($1)", importBatch).Scan(&n)
		})
		if err != nil {
			return total, fmt.Errorf("import event_log: %w", err)
		}
		if total += n; n == 0 {
			return total, nil
		}
	}
}

// Run imports until ctx ends.
func (i Importer) Run(ctx context.Context) error {
	every, logger := i.Interval, i.Logger
	if every == 0 {
		every = 2 * time.Second
	}
	if logger == nil {
		logger = slog.Default()
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if n, err := i.Import(ctx); err != nil && ctx.Err() == nil {
			logger.WarnContext(ctx, "event_log was not imported, trying again", "err", err)
		} else if n > 0 {
			logger.InfoContext(ctx, "imported event_log", "events", n)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
