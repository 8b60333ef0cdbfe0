package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"rootstream/backup/repo"
)

// Latest names the newest intact backup of the whole cluster wherever an id is asked for.
const Latest = "latest"

// ErrNoBackup is a backup that is not in the repository.
var ErrNoBackup = repo.ErrNoBackup

const listHint = "rootstream backup list shows them all"

// List returns all backups, newest first.
func (m *Manager) List(ctx context.Context) ([]Backup, error) {
	entries, err := m.repo.Catalog(ctx)
	if err != nil {
		return nil, err
	}
	return append([]Backup{}, Newest(backupsOf(entries))...), nil
}

// Show returns all that is known of a backup.
func (m *Manager) Show(ctx context.Context, id string) (Details, error) {
	entries, err := m.repo.Catalog(ctx)
	if err != nil {
		return Details{}, err
	}
	if id, err = resolve(entries, id); err != nil {
		return Details{}, err
	}
	i := slices.IndexFunc(entries, func(e repo.Entry) bool { return e.ID == id })
	if entries[i].Err != nil {
		return detailsOf(entries[i], entries[i].Manifest), nil //nolint:nilerr // that it is damaged is what is shown
	}
	manifest, err := m.repo.Manifest(ctx, id)
	if err != nil {
		return Details{}, fmt.Errorf("read backup %s: %w", id, err)
	}
	return detailsOf(entries[i], manifest), nil
}

// Pin keeps a backup from being deleted, until it is unpinned.
func (m *Manager) Pin(ctx context.Context, id string, pinned bool) error {
	id, err := m.resolve(ctx, id)
	if err != nil {
		return err
	}
	if pinned {
		return m.repo.Pin(ctx, id)
	}
	return m.repo.Unpin(ctx, id)
}

// resolve returns the id that is meant.
func (m *Manager) resolve(ctx context.Context, id string) (string, error) {
	entries, err := m.repo.Catalog(ctx)
	if err != nil {
		return "", err
	}
	return resolve(entries, id)
}

func resolve(entries []repo.Entry, id string) (string, error) {
	for _, b := range Newest(backupsOf(entries)) {
		if b.ID == id || id == Latest && b.physical() && b.Status == StatusCompleted {
			return b.ID, nil
		}
	}
	if id == Latest {
		return "", ErrNoBackup.WithCause(errors.New("there is none")).WithHint("take one: rootstream backup create")
	}
	return "", ErrNoBackup.WithCause(errors.New(id)).WithHint(listHint)
}

// Key is one of the keys that open the repository.
type Key = repo.KeyInfo

// Keys lists the keys that open the repository.
func (m *Manager) Keys(ctx context.Context) ([]Key, error) { return m.repo.ListKeys(ctx) }

// AddKey lets one more key open the repository, and returns its id.
func (m *Manager) AddKey(ctx context.Context, k repo.Key) (string, error) {
	return m.repo.AddKey(ctx, k)
}

// RemoveKey takes a key away; the last one stays.
func (m *Manager) RemoveKey(ctx context.Context, id string) error { return m.repo.RemoveKey(ctx, id) }

// RotateKey puts a key in the place of those this manager was opened with, and
// begins a new data key for what is stored from now on. Backups are not rewritten.
func (m *Manager) RotateKey(ctx context.Context, k repo.Key) (string, error) {
	id, err := m.repo.RotateKey(ctx, k)
	return id, errors.Join(err, m.repo.RotateData(ctx))
}
