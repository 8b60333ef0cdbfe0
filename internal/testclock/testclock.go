// Package testclock is a clock that a test moves.
package testclock

import (
	"sync/atomic"
	"time"
)

// Clock stands still until it is moved. It is safe for concurrent use.
type Clock struct{ at atomic.Int64 }

// New makes a clock that shows the time of now.
func New() *Clock {
	c := &Clock{}
	c.at.Store(time.Now().UnixNano())
	return c
}

// Now is the time it shows.
func (c *Clock) Now() time.Time { return time.Unix(0, c.at.Load()) }

// Advance moves it.
func (c *Clock) Advance(d time.Duration) { c.at.Add(int64(d)) }
