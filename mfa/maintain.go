package mfa

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/secret"
)

const batchRows = 200 // of one step of the background work

// Run cleans up and seals again what an old key sealed, now and then, until
// ctx is done. Every instance may run it: each step stands for itself.
func (m *Manager) Run(ctx context.Context) error {
	tick := time.NewTicker(m.cfg.SweepEvery)
	defer tick.Stop()
	for {
		m.sweep(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (m *Manager) sweep(ctx context.Context) {
	if _, err := m.Cleanup(ctx); err != nil && ctx.Err() == nil {
		m.cfg.Logger.WarnContext(ctx, "clean-up of second factors did not finish", "err", err)
	}
	if m.keys == nil {
		return
	}
	n, err := m.Reseal(ctx)
	if err != nil && ctx.Err() == nil {
		m.cfg.Logger.WarnContext(ctx, "secrets could not be sealed again", "err", err)
	}
	if n > 0 {
		m.cfg.Logger.InfoContext(ctx, "secrets sealed with the new key", "count", n)
	}
}

// Cleanup removes enrolments that were never confirmed and tries older than
// KeepAttempts, in small batches. It returns how many rows went.
func (m *Manager) Cleanup(ctx context.Context) (int, error) {
	total := 0
	for _, step := range []struct {
		sql  string
		keep time.Duration
	}{
		{`delete from user_mfa where id in (select id from user_mfa where not is_enabled and method = 'totp'
			and created_at < coalesce($1::timestamptz, clock_timestamp()) - $2::interval limit $3 for update skip locked)`, m.cfg.PendingFor},
		{`delete from mfa_attempts where id in (select id from mfa_attempts
			where attempted_at < coalesce($1::timestamptz, clock_timestamp()) - $2::interval limit $3 for update skip locked)`, m.cfg.KeepAttempts},
	} {
		for {
			tag, err := m.db.Exec(ctx, step.sql, m.clock(), step.keep, batchRows)
			if err != nil {
				return total, fmt.Errorf("clean up second factors: %w", err)
			}
			total += int(tag.RowsAffected())
			if tag.RowsAffected() < batchRows {
				break
			}
		}
	}
	return total, nil
}

type sealedRow struct {
	ID       int64
	PublicID uuid.UUID
	UserID   uuid.UUID
	Secret   []byte
}

// Reseal seals every TOTP secret again that the keyset's primary key did not
// seal. It returns how many it changed; one that cannot be opened stays and is
// reported once the others are done.
func (m *Manager) Reseal(ctx context.Context) (int, error) {
	if m.keys == nil {
		return 0, secret.ErrKeysetMissing
	}
	changed, after := 0, int64(0)
	var broken error
	for {
		rows, _ := m.db.Query(ctx, `select m.id, m.public_id, u.public_id as user_id, m.secret
			from user_mfa m join users u on u.id = m.user_id
			where m.id > $1 and m.secret is not null order by m.id limit $2`, after, batchRows)
		found, err := pgx.CollectRows(rows, pgx.RowToStructByName[sealedRow])
		if err != nil {
			return changed, fmt.Errorf("read sealed secrets: %w", err)
		}
		for _, r := range found {
			after = r.ID
			switch done, err := m.resealRow(ctx, r); {
			case err != nil:
				broken = err
			case done:
				changed++
			}
		}
		if len(found) < batchRows {
			return changed, broken
		}
	}
}

func (m *Manager) resealRow(ctx context.Context, r sealedRow) (bool, error) {
	sealed, changed, err := m.keys.Reseal(bind(r.PublicID, r.UserID), r.Secret)
	if err != nil {
		return false, fmt.Errorf("seal the secret of factor %s again: %w", r.PublicID, err)
	}
	if !changed {
		return false, nil
	}
	tag, err := m.db.Exec(ctx, `update user_mfa set secret = $2 where id = $1 and secret = $3`, r.ID, sealed, r.Secret)
	if err != nil {
		return false, fmt.Errorf("store the secret of factor %s: %w", r.PublicID, err)
	}
	return tag.RowsAffected() == 1, nil
}
