package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"rootstream/internal/wait"
)

// syncs are how long a write of a page of log takes to be on disk, again and again, a millisecond apart. No update that is
// acknowledged can be seen sooner.
func (s *stack) syncs(ctx context.Context, d time.Duration) (took []time.Duration, err error) {
	f, err := os.Create(filepath.Join(s.dir, "syncs"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	page := make([]byte, 8<<10)
	for begun := time.Now(); time.Since(begun) < d && err == nil; err = wait.For(ctx, time.Millisecond) {
		before := time.Now()
		if _, err := f.WriteAt(page, 0); err != nil {
			return nil, err
		}
		if err := f.Sync(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(before))
	}
	return sorted(took), err
}
