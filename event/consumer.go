package event

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/postgres"
)

// Consumer hands every event of the log to a function, each exactly once as
// far as the transaction it gets is concerned, whichever instance runs it. Its
// place in the log is kept in event_cursors; a new consumer begins at the end.
type Consumer struct {
	DB       *postgres.DB
	Name     string // names the place in the log
	Handle   func(ctx context.Context, tx *postgres.Tx, events []Event) error
	Interval time.Duration // between looks at an idle log; 0 means 500ms
	Logger   *slog.Logger  // nil means slog.Default
}

const consumeBatch = 200

// Run consumes until ctx ends. A failing Handle is tried again and holds its shard up, no other.
func (c Consumer) Run(ctx context.Context) error {
	if c.Interval == 0 {
		c.Interval = 500 * time.Millisecond
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	tick := time.NewTicker(c.Interval)
	defer tick.Stop()
	for {
		if _, err := c.Consume(ctx); err != nil && ctx.Err() == nil {
			c.Logger.WarnContext(ctx, "events were not consumed, trying again", "consumer", c.Name, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Consume handles what is there now and returns how many events that was.
func (c Consumer) Consume(ctx context.Context) (int, error) {
	_, err := c.DB.Exec(ctx, `insert into event_cursors (consumer, shard, seq)
		select $1, s, coalesce((select max(seq) from events where shard = s), 0) from generate_series(0, $2 - 1) s
		on conflict do nothing`, c.Name, Shards)
	if err != nil {
		return 0, fmt.Errorf("find the place of consumer %s: %w", c.Name, err)
	}
	waiting, _ := c.DB.Query(ctx, `select shard from event_cursors c where consumer = $1
		and exists (select from events e where e.shard = c.shard and e.seq > c.seq) order by shard`, c.Name)
	shards, err := pgx.CollectRows(waiting, pgx.RowTo[int])
	if err != nil {
		return 0, fmt.Errorf("look for events for consumer %s: %w", c.Name, err)
	}
	total := 0
	var first error
	for _, shard := range shards {
		for {
			n, err := c.shard(ctx, shard)
			total += n
			if err != nil && first == nil {
				first = err
			}
			if err != nil || n < consumeBatch {
				break
			}
		}
	}
	return total, first
}

// shard handles one batch of a shard, unless another instance is at it.
func (c Consumer) shard(ctx context.Context, shard int) (int, error) {
	n := 0
	err := c.DB.InTx(ctx, func(tx *postgres.Tx) error {
		n = 0
		found, _ := tx.Query(ctx, `select seq from event_cursors
			where consumer = $1 and shard = $2 for update skip locked`, c.Name, shard)
		at, err := pgx.CollectRows(found, pgx.RowTo[int64])
		if err != nil || len(at) == 0 {
			return err
		}
		events, err := NewStore(tx).Shard(ctx, shard, at[0], consumeBatch)
		if err != nil || len(events) == 0 {
			return err
		}
		if err = c.Handle(ctx, tx, events); err != nil {
			return err
		}
		n = len(events)
		_, err = tx.Exec(ctx, `update event_cursors set seq = $3 where consumer = $1 and shard = $2`,
			c.Name, shard, events[n-1].Seq)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("consume shard %d as %s: %w", shard, c.Name, err)
	}
	return n, nil
}
