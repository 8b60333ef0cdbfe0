package secret

import (
	"context"
	"fmt"
	"time"

	"rootstream/postgres"
)

// keysetRow is a row of the table keysets.
type keysetRow struct {
	name      string
	wrapped   []byte
	canary    []byte
	revision  int64
	updatedAt time.Time
	now       time.Time // the database's clock, which all processes share
}

const selectRow = `select name, wrapped, canary, revision, updated_at, clock_timestamp() from keysets where name = $1`

func readRow(ctx context.Context, q postgres.Querier, name string) (keysetRow, error) {
	return scanRow(q.QueryRow(ctx, selectRow, name))
}

func lockRow(ctx context.Context, tx *postgres.Tx, name string) (keysetRow, error) {
	return scanRow(tx.QueryRow(ctx, selectRow+` for update`, name))
}

func scanRow(r interface{ Scan(dest ...any) error }) (keysetRow, error) {
	var k keysetRow
	err := r.Scan(&k.name, &k.wrapped, &k.canary, &k.revision, &k.updatedAt, &k.now)
	return k, err
}

func readRevision(ctx context.Context, q postgres.Querier, name string) (int64, error) {
	var revision int64
	err := q.QueryRow(ctx, `select revision from keysets where name = $1`, name).Scan(&revision)
	return revision, err
}

func createRow(ctx context.Context, db *postgres.DB, master MasterKey, name string) error {
	r, err := newRing(name, master, time.Now().UnixMilli())
	if err != nil {
		return err
	}
	wrapped, canary, err := r.wrap()
	if err != nil {
		return err
	}
	_, err = db.Exec(ctx, `insert into keysets (name, wrapped, canary) values ($1, $2, $3) on conflict do nothing`,
		name, wrapped, canary)
	if err != nil {
		return fmt.Errorf("create keyset %s: %w", name, err)
	}
	return nil
}

func updateRow(ctx context.Context, tx *postgres.Tx, r *ring) error {
	wrapped, canary, err := r.wrap()
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `update keysets set wrapped = $2, canary = $3, revision = revision + 1,
		updated_at = clock_timestamp() where name = $1`, r.name, wrapped, canary)
	return err
}

// change replaces the keyset by what fn makes of it; fn returns nil to leave it.
func (k *Keyset) change(ctx context.Context, fn func(r *ring, now time.Time) (*ring, error)) error {
	master := k.ring.Load().master
	return k.db.InTx(ctx, func(tx *postgres.Tx) error {
		row, err := lockRow(ctx, tx, k.cfg.Name)
		if err != nil {
			return err
		}
		r, err := unwrapAgain(row, master)
		if err != nil {
			return err
		}
		next, err := fn(r, row.now)
		if err != nil || next == nil {
			return err
		}
		return updateRow(ctx, tx, next)
	})
}

// Rotate adds a key and waits until it is the one that seals.
//
// The new key is pending for RotateAfter: every running process learns it, none
// uses it, so no process meets a value it cannot open. Then whoever notices
// first promotes it, this call or any [Keyset.Run]; a call that is cut short
// loses nothing. While one rotation is pending, Rotate waits for that one. Old
// keys stay, to open and verify; [Keyset.NeedsReseal] finds what they sealed.
func (k *Keyset) Rotate(ctx context.Context) error {
	if k == nil {
		return ErrKeysetMissing
	}
	err := k.change(ctx, func(r *ring, now time.Time) (*ring, error) {
		if r.pending() {
			return nil, nil //nolint:nilnil // nothing to change
		}
		return r.withNewKey(now.UnixMilli(), now.Add(k.cfg.RotateAfter).UnixMilli())
	})
	if err != nil {
		return fmt.Errorf("add a key to %s: %w", k.cfg.Name, err)
	}
	if err := k.Reload(ctx); err != nil {
		return err
	}
	for {
		left, err := k.promote(ctx)
		if err != nil {
			return err
		}
		if left == 0 {
			return k.Reload(ctx)
		}
		timer := time.NewTimer(min(left, k.cfg.Poll))
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("wait for the new key of %s, which any running process will promote: %w", k.cfg.Name, ctx.Err())
		case <-timer.C:
		}
	}
}

// promote makes the pending key the one that seals, if its time has come, and returns how long is left.
func (k *Keyset) promote(ctx context.Context) (left time.Duration, err error) {
	err = k.change(ctx, func(r *ring, now time.Time) (*ring, error) {
		left = 0
		if !r.pending() {
			return nil, nil //nolint:nilnil // somebody else was first
		}
		if left = time.UnixMilli(r.meta.PromoteAt).Sub(now); left > 0 {
			return nil, nil //nolint:nilnil // not yet
		}
		left = 0
		return r.promoted()
	})
	if err != nil {
		return 0, fmt.Errorf("promote the new key of %s: %w", k.cfg.Name, err)
	}
	return left, nil
}

// Rewrap encrypts every keyset of the database under another master key and
// returns how many it changed. The keys themselves stay, so running processes
// go on; they read the new master key from their file when they next need it.
// Write the new key to disk first: without it, the keysets do not open again.
func Rewrap(ctx context.Context, db *postgres.DB, from, to MasterKey) (int, error) {
	if from.IsZero() || to.IsZero() {
		return 0, ErrKeysetMissing
	}
	n := 0
	err := db.InTx(ctx, func(tx *postgres.Tx) error {
		n = 0
		names, err := keysetNames(ctx, tx)
		for _, name := range names {
			var changed bool
			if changed, err = rewrapOne(ctx, tx, name, from, to); err != nil {
				break
			}
			if changed {
				n++
			}
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("change the master key: %w", err)
	}
	return n, nil
}

func rewrapOne(ctx context.Context, tx *postgres.Tx, name string, from, to MasterKey) (bool, error) {
	row, err := lockRow(ctx, tx, name)
	if err != nil {
		return false, err
	}
	if _, err = unwrap(row, to); err == nil {
		return false, nil
	}
	r, err := unwrap(row, from)
	if err != nil {
		return false, err
	}
	r.master = to
	return true, updateRow(ctx, tx, r)
}

func keysetNames(ctx context.Context, tx *postgres.Tx) (names []string, err error) {
	rows, err := tx.Query(ctx, `select name from keysets order by name for update`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, rows.Err()
}
