package backup

import (
	"context"
	"errors"
	"time"

	"rootstream/backup/schedule"
	"rootstream/backup/storage"
)

// ledgerName is the one object, besides leases and sessions, that is ever replaced.
const ledgerName = "leases/schedule"

// book keeps the schedule's ledger in the repository, by the storage's clock.
type book struct{ st storage.Storage }

// Book is where the schedule's ledger lies: in the repository, so that it
// outlives the database and is the same for all who use the repository.
func (m *Manager) Book() schedule.Book { return book{m.storage} }

// Read returns the ledger, nil if there is none yet.
func (b book) Read(ctx context.Context) ([]byte, string, error) {
	before, err := b.st.Stat(ctx, ledgerName)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	body, err := b.st.Get(ctx, ledgerName, 0, -1)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, "", schedule.ErrChanged
	}
	return body, before.Tag, err // if it changed in between, the tag is old and the swap refused
}

// Swap replaces the ledger.
func (b book) Swap(ctx context.Context, body []byte, tag string) error {
	_, err := b.st.Swap(ctx, ledgerName, body, tag)
	if errors.Is(err, storage.ErrChanged) {
		return schedule.ErrChanged
	}
	return err
}

// Now is the time by the storage's clock.
func (b book) Now(ctx context.Context) (time.Time, error) { return b.st.Now(ctx) }
