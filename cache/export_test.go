package cache

import "time"

// Resolve shows tests what a configuration comes to.
func Resolve(c Config) (Config, error) { return c.resolve() }

// SetNow gives a limiter another clock for its count in process.
func (l *Limiter) SetNow(now func() time.Time) { l.now = now }

// HashTag shows tests which part of a key decides its slot.
func HashTag(key string) string { return hashTag(key) }
