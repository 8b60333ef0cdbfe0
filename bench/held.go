package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const heldNote = `
Two instances as above. A snapshot is held open in PostgreSQL for as long as -hold says, as a dump does, while updates
arrive on a clock, 1,000 a second; minute by minute, how long they took to be told in the other process. Before and at the
end, while the snapshot is still held: as many updates as 2,000 callers get acknowledged.`

// heldRate is how many updates a second arrive while a snapshot is held for long.
const heldRate = 1000

func measureHeld(ctx context.Context, s *stack) ([]row, error) {
	in, w, err := s.pairUp(ctx, place{DSN: s.dsn, Redis: s.redisURL, Key: s.key})
	if err != nil {
		return nil, err
	}
	rows, err := s.heldRows(ctx, in, w)
	return rows, errors.Join(err, in.stop(), w.kill())
}

func (s *stack) heldRows(ctx context.Context, in *syncInstance, w *watcher) ([]row, error) {
	if _, err := s.propagation(ctx, in, w, heldRate, time.Second*syncEntities/heldRate); err != nil { // the first versions
		return nil, err
	}
	free, err := s.updateRates(ctx, in)
	if err != nil {
		return nil, err
	}
	end, err := s.holdSnapshot(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	rows := []row{about("durable updates acknowledged, before", "/s", free...)}
	for minute, left := 1, s.hold; left > 0; minute++ {
		span := min(left, time.Minute)
		left -= span
		r, failed := s.heldMinute(ctx, in, w, span)
		if failed != nil {
			return nil, fmt.Errorf("minute %d: %w", minute, failed)
		}
		r.what = fmt.Sprintf("minute %d, seen by the other process, p99", minute)
		s.say("%s: %.2f ms, %s", r.what, middle(r.ours), r.detail)
		rows = append(rows, r)
	}
	held, err := s.updateRates(ctx, in)
	if err != nil {
		return nil, err
	}
	return append(rows, compared("durable updates acknowledged, the snapshot still held, to before", held, free, 0.5)), nil
}

// updateRates are those of three rounds.
func (s *stack) updateRates(ctx context.Context, in *syncInstance) (rates []float64, err error) {
	for range 3 {
		rate, err := updates(in, syncEntities)(ctx, 3*s.round())
		if err != nil {
			return nil, err
		}
		rates = append(rates, rate)
	}
	return rates, nil
}

func (s *stack) heldMinute(ctx context.Context, in *syncInstance, w *watcher, span time.Duration) (row, error) {
	before, err := s.cost(w)
	if err != nil {
		return row{}, err
	}
	took, err := s.propagation(ctx, in, w, heldRate, span)
	if err != nil {
		return row{}, err
	}
	after, err := s.cost(w)
	return about("", "ms", millis(quantile(took, .99))).
		with("p50 %.2f ms; %s", millis(quantile(took, .5)), after.per(float64(len(took)), before)), err
}

// holdSnapshot has another connection hold a snapshot, as a dump does, until end is called.
func (s *stack) holdSnapshot(ctx context.Context) (end func(), err error) {
	conn, err := pgx.Connect(ctx, s.dsn)
	if err != nil {
		return nil, err
	}
	end = func() { _ = conn.Close(context.WithoutCancel(ctx)) }
	err = execAll(ctx, conn, []string{
		"set idle_in_transaction_session_timeout = 0", "begin isolation level repeatable read", "select count(*) from events",
	})
	if err != nil {
		end()
	}
	return end, err
}
