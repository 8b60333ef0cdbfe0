package session

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/session/near"
)

// feed is where this instance stands in session_invalidations.
type feed struct {
	mu       sync.Mutex // one reading at a time
	snapshot string     // of the last reading; "" before the first
	server   time.Time  // when the postmaster that answered it was started
	seen     map[int64]int64
	lag      lagged
}

// pollSQL reads what became visible since the last snapshot, each row once, whatever the order of commits: of the
// transactions that had not ended by then, and of those that began since. The former are named one by one, so that one
// that stays open for long does not make every reading go through all that was written after it began. Rows written
// lately are read again, since a server that crashed or was replaced may give transaction ids out a second time.
const pollSQL = `select pg_current_snapshot()::text, pg_postmaster_start_time(), clock_timestamp(),
	i.id, i.token_hash, i.version, i.denied_from, i.at
	from (values (1)) one left join (
		select * from session_invalidations where xid >= pg_snapshot_xmax($1::text::pg_snapshot)
		union all
		select * from session_invalidations where xid = any(array(select pg_snapshot_xip($1::text::pg_snapshot)))
		union all
		select * from session_invalidations where at > now() - make_interval(secs => $2)
	) i on true`

// neverSnapshot is one in which everything is visible.
const neverSnapshot = "9223372036854775807:9223372036854775807:"

const overlap = time.Second

// invalidation is one row.
type invalidation struct {
	id      int64
	hash    []byte
	version int64
	ends    *time.Time
	at      time.Time
}

func (m *Manager) runFeed(ctx context.Context) error {
	tick := time.NewTicker(m.cfg.PollInterval)
	defer tick.Stop()
	wasBlind := false
	for {
		if err := m.Poll(ctx); err != nil && ctx.Err() == nil {
			m.counts.pollFailures.Add(1)
			if blind := !m.Ready(); blind && !wasBlind {
				m.cfg.Logger.ErrorContext(ctx, "revocations cannot be read, all validations are refused", "err", err)
				wasBlind = true
			}
		} else if err == nil && wasBlind {
			m.cfg.Logger.InfoContext(ctx, "revocations can be read again")
			wasBlind = false
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Poll reads what was invalidated since the last time and forgets it here. [Manager.Run] does so all the time.
func (m *Manager) Poll(ctx context.Context) error {
	m.feed.mu.Lock()
	defer m.feed.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	began := m.clock.mono()
	snapshot, window := m.feed.snapshot, overlap
	if last := m.clock.polled.Load(); last != 0 {
		window += time.Duration(began - last)
	}
	start := snapshot == "" || window > keepFeed/2
	if start {
		snapshot, window = neverSnapshot, m.cfg.ViewMaxAge+markMargin
	}
	head, rows, err := m.readFeed(ctx, snapshot, window)
	if err != nil {
		return err
	}
	after := m.clock.mono()
	if !start && !head.server.Equal(m.feed.server) {
		// Another server, or this one after a crash: what the old snapshot says about its transactions proves nothing.
		if head, rows, err = m.readFeed(ctx, neverSnapshot, m.cfg.ViewMaxAge+markMargin); err != nil {
			return err
		}
		start, began, after = true, after, m.clock.mono()
	}
	m.clock.learn(head.now.UnixMicro(), began, after)
	m.apply(rows, head.now)
	if start && m.feed.snapshot != "" {
		m.near.Flush()
	}
	m.feed.snapshot, m.feed.server = head.snapshot, head.server
	m.clock.polled.Store(began)
	m.counts.polls.Add(1)
	return nil
}

type feedHead struct {
	snapshot    string
	server, now time.Time
}

func (m *Manager) readFeed(ctx context.Context, snapshot string, window time.Duration) (feedHead, []invalidation, error) {
	var head feedHead
	var out []invalidation
	rows, err := m.cfg.FeedDB.Query(ctx, pollSQL, snapshot, window.Seconds())
	if err != nil {
		return head, nil, fmt.Errorf("read invalidations: %w", err)
	}
	var id, version *int64
	var hash []byte
	var ends, at *time.Time
	_, err = pgx.ForEachRow(rows, []any{&head.snapshot, &head.server, &head.now, &id, &hash, &version, &ends, &at}, func() error {
		if id != nil {
			out = append(out, invalidation{*id, hash, *version, ends, *at})
		}
		return nil
	})
	if err != nil {
		return head, nil, fmt.Errorf("read invalidations: %w", err)
	}
	return head, out, nil
}

// apply makes this instance forget. Marks come before the cache, so that a reader whose view is refused there finds
// the reason here.
func (m *Manager) apply(rows []invalidation, now time.Time) {
	micros := now.UnixMicro()
	seen := make(map[int64]int64)
	for id, at := range m.feed.seen {
		if micros-at < 2*overlap.Microseconds()+m.cfg.MaxBlind.Microseconds() {
			seen[id] = at
		}
	}
	for _, r := range rows {
		if _, again := seen[r.id]; again || len(r.hash) != 32 {
			continue
		}
		seen[r.id] = micros
		m.forget(near.Key(r.hash[:16]), r.version, r.ends, micros)
		if r.ends != nil && m.feed.snapshot != "" {
			m.feed.lag.note(now.Sub(r.at))
		}
	}
	m.feed.seen = seen
	if m.counts.polls.Load()%64 == 0 {
		m.marks.prune(micros)
	}
}

// forget notes that views of a token older than version are stale and, with ends, when the token dies.
func (m *Manager) forget(k near.Key, version int64, ends *time.Time, now int64) {
	var end int64
	keep := now
	if ends != nil {
		end = ends.UnixMicro()
		keep = max(now, end)
	}
	m.marks.add(k, version, end, keep+(m.cfg.ViewMaxAge+time.Minute).Microseconds(), now)
	m.near.Invalidate(k)
}
