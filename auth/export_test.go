package auth

import (
	"context"
	"time"

	"rootstream/cache"
)

// What tests of pure parts look at.

// Backoff is the count of failures as tests see it.
type Backoff struct {
	b *backoff
	p policy
}

func NewBackoff(redis *cache.Client, free int, most time.Duration, now func() time.Time) Backoff {
	return Backoff{newBackoff(redis, now), policy{free, most}}
}

func (b Backoff) Reserve(ctx context.Context, key string) (bool, time.Duration) {
	return b.b.reserve(ctx, digest(key), b.p)
}
func (b Backoff) Refund(ctx context.Context, key string) { b.b.refund(ctx, digest(key), b.p) }
func (b Backoff) Reset(ctx context.Context, key string)  { b.b.reset(ctx, digest(key), b.p) }
func (b Backoff) Keys() int                              { return len(b.b.local) }

const MaxTallies, MaxWindows = maxTallies, maxWindows

func NewWindows(now func() time.Time) interface {
	Allow(ctx context.Context, key string, limit cache.Limit) (bool, time.Duration)
} {
	return newWindows(now)
}

// Turns is the queue by key as tests see it.
type Turns struct{ t turns }

func (t *Turns) Take(ctx context.Context, key string) (func(), error) { return t.t.take(ctx, key) }
func (t *Turns) Keys() int {
	t.t.mu.Lock()
	defer t.t.mu.Unlock()
	return len(t.t.keys)
}

func LoginKey(s string) (string, error) { return loginKey(s) }

func ChallengeHash(id string) bool { _, ok := challengeHash(id); return ok }

func NewChallengeID() string { return newChallengeID() }
