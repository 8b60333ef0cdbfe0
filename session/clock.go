package session

import (
	"sync/atomic"
	"time"
)

// clock judges by the database's time. Between readings it goes on by the
// process's monotonic clock, so neither a wrong wall clock here nor a step of it
// matters.
type clock struct {
	base    time.Time
	offset  atomic.Int64 // database time in ns since 1970, less mono
	learned atomic.Int64 // mono when offset was set; 0 is never
	polled  atomic.Int64 // mono when the last successful reading of invalidations began; 0 is never
}

const (
	goodReading = 20 * time.Millisecond
	oldReading  = 10 * time.Second
)

func newClock() *clock { return &clock{base: time.Now().Add(-time.Second)} }

// mono is nanoseconds since a second before the clock was made; never 0.
func (c *clock) mono() int64 { return int64(time.Since(c.base)) }

// at is the database's time at mono, in microseconds since 1970.
func (c *clock) at(mono int64) int64 { return (mono + c.offset.Load()) / 1000 }

func (c *clock) now() int64 { return c.at(c.mono()) }

// learn takes over the database's time, which was read between two moments of mono. A reading that took long says
// little, so it counts only when the last good one is old.
func (c *clock) learn(micros, before, after int64) {
	if after-before > int64(goodReading) && c.learned.Load() != 0 && after-c.learned.Load() < int64(oldReading) {
		return
	}
	c.offset.Store(micros*1000 - (before/2 + after/2))
	c.learned.Store(after)
}

// blind reports whether the news are older than bound.
func (c *clock) blind(mono int64, bound time.Duration) bool {
	p := c.polled.Load()
	return p == 0 || mono-p > int64(bound)
}
