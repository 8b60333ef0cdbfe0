package backup

import (
	"context"
	"errors"
	"time"

	"rootstream/backup/repo"
	"rootstream/backup/schedule"
	"rootstream/backup/storage"
)

// book keeps the schedule's ledger in the repository, by the storage's clock.
type book struct{ r *repo.Repo }

// Book is where the schedule's ledger lies: in the repository, so that it
// outlives the database and is the same for all who use the repository.
func (m *Manager) Book() schedule.Book { return book{m.repo} }

// Read returns the ledger, nil if there is none yet.
func (b book) Read(ctx context.Context) ([]byte, string, error) {
	body, tag, err := b.r.Ledger(ctx)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		err = schedule.ErrChanged // it was there a moment ago
	case errors.Is(err, repo.ErrDamaged):
		err = schedule.ErrLedger.WithCause(err).WithHint("delete the object; what ran when is then forgotten, no backup is")
	}
	return body, tag, err
}

// Swap replaces the ledger.
func (b book) Swap(ctx context.Context, body []byte, tag string) error {
	err := b.r.SwapLedger(ctx, body, tag)
	if errors.Is(err, storage.ErrChanged) {
		return schedule.ErrChanged
	}
	return err
}

// Now is the time by the storage's clock.
func (b book) Now(ctx context.Context) (time.Time, error) { return b.r.Now(ctx) }
