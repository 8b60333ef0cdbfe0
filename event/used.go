package event

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Used returns those of keys that events in the log have as their idempotency key.
func (s *Store) Used(ctx context.Context, keys []string) (map[string]bool, error) {
	rows, err := s.db.Query(ctx, `select idempotency_key from events where idempotency_key = any($1)`, keys)
	if err != nil {
		return nil, fmt.Errorf("look for idempotency keys: %w", err)
	}
	used := map[string]bool{}
	var key string
	if _, err = pgx.ForEachRow(rows, []any{&key}, func() error { used[key] = true; return nil }); err != nil {
		return nil, fmt.Errorf("look for idempotency keys: %w", err)
	}
	return used, nil
}
