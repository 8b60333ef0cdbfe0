package main

import (
	"context"
	"errors"
	"os"
	"time"

	"rootstream/internal/wait"
)

// syncs are how long a write of a page of log takes to be on disk, again and again, a millisecond apart. No update that is
// acknowledged can be seen sooner.
func (s *stack) syncs(ctx context.Context, d time.Duration) ([]time.Duration, error) {
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, err
	}
	f, err := root.Create("syncs")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	var took []time.Duration
	page := make([]byte, 8<<10)
	for begun := time.Now(); err == nil && time.Since(begun) < d; {
		before := time.Now()
		_, failure := f.WriteAt(page, 0)
		err = errors.Join(failure, f.Sync())
		took = append(took, time.Since(before))
		err = errors.Join(err, wait.For(ctx, time.Millisecond))
	}
	return sorted(took), errors.Join(err, f.Close(), root.Remove("syncs"), root.Close())
}
