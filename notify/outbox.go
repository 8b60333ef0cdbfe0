package notify

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"rootstream/postgres"
)

const (
	tidyEvery = time.Minute
	tidyBatch = 1000
)

// claim takes up to n due messages for as long as lease. The lease is next_try_at
// itself: a sender that dies leaves a message that becomes due again.
func claim(ctx context.Context, db *postgres.DB, ch Channel, n int, lease time.Duration) ([]item, error) {
	rows, err := db.Query(ctx, `
		with due as (
			select id from outbox
			where channel = $1 and sent_at is null and abandoned_at is null and next_try_at <= clock_timestamp()
			order by next_try_at limit $2 for update skip locked)
		update outbox o set tries = tries + 1, next_try_at = clock_timestamp() + make_interval(secs => $3)
		from due where o.id = due.id
		returning o.id::text, o.topic, o.target, o.payload::text, o.created_at, o.tries`, string(ch), n, lease.Seconds())
	if err != nil {
		return nil, fmt.Errorf("claim messages: %w", err)
	}
	defer rows.Close()
	var items []item
	for rows.Next() {
		var it item
		var id, payload string
		if err := rows.Scan(&id, &it.topic, &it.target, &payload, &it.createdAt, &it.tries); err != nil {
			return nil, fmt.Errorf("claim messages: %w", err)
		}
		it.id, it.payload = uuid.MustParse(id), []byte(payload)
		items = append(items, it)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("claim messages: %w", err)
	}
	return items, nil
}

// unaddressed takes the address out of a mail that is done with: it is kept for a while, somebody's address is not. A
// webhook's target is the name of an endpoint.
const unaddressed = `, target = case channel when 'mail' then '' else target end`

func markSent(ctx context.Context, db *postgres.DB, it item) error {
	_, err := db.Exec(ctx, `update outbox set sent_at = clock_timestamp(), last_error = null`+unaddressed+`
		where id = $1 and sent_at is null`, it.id.String())
	return err
}

// markAbandoned and markRetry change nothing when the lease was lost to another try.
func markAbandoned(ctx context.Context, db *postgres.DB, it item, reason string) error {
	_, err := db.Exec(ctx, `update outbox set abandoned_at = clock_timestamp(), last_error = $3`+unaddressed+`
		where id = $1 and tries = $2 and sent_at is null`, it.id.String(), it.tries, reason)
	return err
}

func markRetry(ctx context.Context, db *postgres.DB, it item, wait time.Duration, reason string) error {
	_, err := db.Exec(ctx, `update outbox set next_try_at = clock_timestamp() + make_interval(secs => $3), last_error = $4
		where id = $1 and tries = $2 and sent_at is null and abandoned_at is null`,
		it.id.String(), it.tries, wait.Seconds(), reason)
	return err
}

// tidy removes what is done with and measures what waits, once a minute.
func (s *Sender) tidy(ctx context.Context) {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		if _, err := s.Cleanup(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Logger.WarnContext(ctx, "outbox not tidied", "err", err)
		}
		if stats, err := Pending(ctx, s.db); err == nil {
			s.metrics.pending(stats)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Cleanup deletes messages that were sent or given up longer ago than Keep, in
// batches, and gives up those that nobody could send for as long.
func (s *Sender) Cleanup(ctx context.Context) (deleted int64, err error) {
	_, err = s.db.Exec(ctx, `update outbox set abandoned_at = clock_timestamp(), last_error = coalesce(last_error, 'no sender took it in time')`+unaddressed+`
		where sent_at is null and abandoned_at is null and created_at < clock_timestamp() - make_interval(secs => $1)`, s.cfg.Keep.Seconds())
	if err != nil {
		return 0, fmt.Errorf("tidy the outbox: %w", err)
	}
	for {
		tag, err := s.db.Exec(ctx, `delete from outbox where id in (
			select id from outbox where (sent_at is not null or abandoned_at is not null)
			and coalesce(sent_at, abandoned_at) < clock_timestamp() - make_interval(secs => $1)
			and created_at < clock_timestamp() - make_interval(secs => $1)
			limit $2 for update skip locked)`, s.cfg.Keep.Seconds(), tidyBatch)
		if err != nil {
			return deleted, fmt.Errorf("tidy the outbox: %w", err)
		}
		deleted += tag.RowsAffected()
		if tag.RowsAffected() < tidyBatch {
			return deleted, nil
		}
	}
}

// PendingStat is what waits in one channel.
type PendingStat struct {
	Channel Channel       `json:"channel"`
	Count   int64         `json:"count"`
	Oldest  time.Duration `json:"oldest"` // since it was put in
}

// Pending counts what waits to be sent, by channel.
func Pending(ctx context.Context, q postgres.Querier) ([]PendingStat, error) {
	rows, err := q.Query(ctx, `select channel, count(*), extract(epoch from clock_timestamp() - min(created_at))::float8
		from outbox where sent_at is null and abandoned_at is null group by channel order by channel`)
	if err != nil {
		return nil, fmt.Errorf("count waiting messages: %w", err)
	}
	defer rows.Close()
	var out []PendingStat
	for rows.Next() {
		var p PendingStat
		var ch string
		var age float64
		if err := rows.Scan(&ch, &p.Count, &age); err != nil {
			return nil, fmt.Errorf("count waiting messages: %w", err)
		}
		p.Channel, p.Oldest = Channel(ch), time.Duration(age*float64(time.Second))
		out = append(out, p)
	}
	return out, rows.Err()
}
