package session

import (
	"context"
	"fmt"
	"time"

	"rootstream/postgres"
)

// cleanupLock is the advisory lock of the one instance that cleans up.
const cleanupLock int64 = 0x7273_7365_7373 // "rssess"

// The steps of cleaning up. Each deletes at most $1 rows that are older than $2 seconds and waits for nobody.
func (m *Manager) cleanups() []cleanup {
	return []cleanup{
		{true, m.cfg.Keep, `delete from sessions where id in (select id from sessions
			where expires_at < now() - make_interval(secs => $2) limit $1 for update skip locked)`},
		{true, m.cfg.Keep, `delete from sessions where id in (select id from sessions
			where is_active = false and expires_at >= now() - make_interval(secs => $2)
				and revoked_at < now() - make_interval(secs => $2) limit $1 for update skip locked)`},
		{false, m.cfg.Keep, `delete from session_retired_tokens where token_hash in (select token_hash
			from session_retired_tokens where retired_at < now() - make_interval(secs => $2) limit $1
			for update skip locked)`},
		{false, keepFeed, `delete from session_invalidations where id in (select id from session_invalidations
			where at < now() - make_interval(secs => $2) order by at limit $1 for update skip locked)`},
	}
}

type cleanup struct {
	sessions bool // counts as sessions deleted
	keep     time.Duration
	sql      string
}

func (m *Manager) runCleanup(ctx context.Context) error {
	tick := time.NewTicker(m.cfg.CleanupInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		n, err := m.Cleanup(ctx)
		if err != nil && ctx.Err() == nil {
			m.cfg.Logger.WarnContext(ctx, "sessions were not cleaned up", "err", err)
		} else if n > 0 {
			m.cfg.Logger.InfoContext(ctx, "old sessions deleted", "count", n)
		}
	}
}

// Cleanup deletes what is kept no longer, in small transactions, and returns the number of sessions deleted. While
// another instance does so it does nothing.
func (m *Manager) Cleanup(ctx context.Context) (int, error) {
	total := 0
	for _, c := range m.cleanups() {
		for {
			n, err := m.cleanupBatch(ctx, c)
			if err != nil {
				return total, err
			}
			if c.sessions {
				total += n
			}
			if n < cleanupBatch {
				break
			}
		}
	}
	return total, nil
}

func (m *Manager) cleanupBatch(ctx context.Context, c cleanup) (n int, err error) {
	err = m.cfg.DB.InTx(ctx, func(tx *postgres.Tx) error {
		n = 0
		var mine bool
		if e := tx.QueryRow(ctx, "select pg_try_advisory_xact_lock($1)", cleanupLock).Scan(&mine); e != nil || !mine {
			return e
		}
		tag, e := tx.Exec(ctx, c.sql, cleanupBatch, c.keep.Seconds())
		n = int(tag.RowsAffected())
		return e
	})
	if err != nil {
		return 0, fmt.Errorf("clean up sessions: %w", err)
	}
	return n, nil
}
