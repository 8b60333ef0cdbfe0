// Package wait holds the two small waits that loops are made of.
package wait

import (
	"context"
	"time"
)

// For waits for d, or less if ctx ends; then it returns ctx's error.
func For(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Wake makes the reader of a channel of capacity 1 look again; it never blocks.
func Wake(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
