package session

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// activity is what has been heard from clients. It is written down at most once
// per session and coalescing time, by all instances together hardly more often.
type activity struct {
	mu       sync.Mutex
	pending  map[int64]int64 // session id → µs, not written yet
	recorded map[int64]int64 // the same for those that no cached view needs to show yet
}

const (
	maxPending     = 1 << 20
	activityBatch  = 5000
	minCoalesce    = time.Minute
	maxCoalesce    = time.Hour // for sessions that idleness does not end
	drainTimeout   = 5 * time.Second
	recordedPasses = 60 // flushes between two looks through recorded
)

func newActivity() *activity {
	return &activity{pending: map[int64]int64{}, recorded: map[int64]int64{}}
}

// coalesce is how long activity may go unrecorded, in microseconds.
func (v *View) coalesce() int64 {
	every := int64(v.IdleSeconds) * 1e6 / 20
	if v.IdleSeconds == 0 {
		every = min((v.ExpiresAt-v.CreatedAt)/20, maxCoalesce.Microseconds())
	}
	return max(every, minCoalesce.Microseconds())
}

// note records activity, unless it was lately; then it returns when.
func (a *activity) note(id, now, every int64) int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if at := a.recorded[id]; now-at < every {
		return at
	}
	if len(a.pending) >= maxPending {
		return now // the database has been away for long; this is not worth more memory
	}
	a.pending[id], a.recorded[id] = now, now
	return now
}

func (a *activity) last(id int64) int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return max(a.recorded[id], a.pending[id])
}

// take hands out at most n of what is pending.
func (a *activity) take(n int) (ids []int64, at []int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, t := range a.pending {
		if len(ids) == n {
			break
		}
		ids, at = append(ids, id), append(at, t)
		delete(a.pending, id)
	}
	return ids, at
}

// putBack undoes take.
func (a *activity) putBack(ids, at []int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, id := range ids {
		a.pending[id] = max(a.pending[id], at[i])
	}
}

// prune forgets what every cached view shows by now.
func (a *activity) prune(before int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.recorded, func(id, at int64) bool {
		_, pending := a.pending[id]
		return at < before && !pending
	})
}

// touch notes activity, and in the near cache that it was noted.
func (m *Manager) touch(v *View, c *credential, now int64) {
	at := m.activity.note(v.DBSessionID, now, v.coalesce())
	v.LastActivity = max(v.LastActivity, at)
	id := v.DBSessionID
	m.near.Update(c.key(), func(kept *View) {
		if kept.DBSessionID == id {
			kept.LastActivity = max(kept.LastActivity, at)
		}
	})
}

// activitySQL does not wait for a row that somebody else is changing. Those it answers with, to be tried again.
const activitySQL = `with said as (
		select s.id, x.micros, to_timestamp(x.micros / 1e6) as at
		from unnest($1::bigint[], $2::bigint[]) x(id, micros) join sessions s on s.id = x.id
		where coalesce(s.is_active, false) and coalesce(s.last_activity, '-infinity') < to_timestamp(x.micros / 1e6)
	), heard as (
		select s.id, said.at from said join sessions s using (id) order by s.id for no key update of s skip locked
	), written as (
		update sessions s set last_activity = greatest(s.last_activity, heard.at) from heard where s.id = heard.id)
	select id, micros from said where id not in (select id from heard)`

// runActivity writes activity once a second, and what is left when ctx ends.
func (m *Manager) runActivity(ctx context.Context) error {
	tick := time.NewTicker(m.cfg.FlushInterval)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
			defer cancel()
			if err := m.flushActivity(last); err != nil {
				m.cfg.Logger.WarnContext(ctx, "the last activity was not written", "err", err)
			}
			return nil
		case <-tick.C:
		}
		if err := m.flushActivity(ctx); err != nil && ctx.Err() == nil {
			m.cfg.Logger.DebugContext(ctx, "activity was not written", "err", err)
		}
		if n%recordedPasses == 0 {
			m.activity.prune(m.clock.now() - (m.cfg.ViewMaxAge + time.Minute).Microseconds())
		}
	}
}

func (m *Manager) flushActivity(ctx context.Context) error {
	var busy, busyAt []int64
	defer func() { m.activity.putBack(busy, busyAt) }()
	for {
		ids, at := m.activity.take(activityBatch)
		if len(ids) == 0 {
			return nil
		}
		rows, err := m.cfg.DB.Query(ctx, activitySQL, ids, at)
		if err == nil {
			var id, micros int64
			_, err = pgx.ForEachRow(rows, []any{&id, &micros}, func() error {
				busy, busyAt = append(busy, id), append(busyAt, micros)
				return nil
			})
		}
		if err != nil {
			m.activity.putBack(ids, at)
			return fmt.Errorf("write activity: %w", err)
		}
	}
}
