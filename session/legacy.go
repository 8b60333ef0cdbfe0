package session

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// legacy knows whether there can be a token of Phase 24.2, so that garbage dies without I/O once there is none.
type legacy struct {
	possible atomic.Bool
	mu       sync.Mutex
	horizon  int64     // no live one has an id up to here
	proven   time.Time // when all were last looked through
}

// legacySQL finds a live one or, while old writers may still be at work, any at all: the next may be inserted and
// presented within the same second. Scrubbing ends their work.
const legacySQL = `select
	exists (select from sessions where id > $1 and class = 'legacy' and ((generation = 0
		and coalesce(is_active, false) and revoked_at is null and expires_at > now())
		or not exists (select from pg_trigger where tgrelid = 'sessions'::regclass and tgname = 'sessions_scrub'))),
	coalesce((select max(id) from sessions), 0)`

// legacyMargin is how far below the highest id a row may lie that is not visible yet: an old writer inserts one row
// in a transaction of its own.
const legacyMargin = 5000

// runLegacy looks for sessions of Phase 24.2: through all at first and every ten minutes, and every second through
// what was inserted lately, since an old writer may still be at work.
func (m *Manager) runLegacy(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := m.findLegacy(ctx, false); err != nil && ctx.Err() == nil {
			m.cfg.Logger.DebugContext(ctx, "legacy sessions were not looked for", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// findLegacy looks through what is new, or through all if that is due or asked for.
func (m *Manager) findLegacy(ctx context.Context, whole bool) error {
	m.legacy.mu.Lock()
	defer m.legacy.mu.Unlock()
	whole = whole || time.Since(m.legacy.proven) > legacyRecheck
	if !whole && m.legacy.possible.Load() {
		return nil
	}
	from := m.legacy.horizon
	if whole {
		from = 0
	}
	var there bool
	var top int64
	if err := m.cfg.DB.QueryRow(ctx, legacySQL, from).Scan(&there, &top); err != nil {
		return fmt.Errorf("look for legacy sessions: %w", err)
	}
	if whole {
		m.legacy.proven = time.Now()
	}
	m.legacy.possible.Store(there)
	m.legacy.horizon = max(0, top-legacyMargin)
	return nil
}
