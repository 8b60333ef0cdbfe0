package cache

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"strconv"
	"time"
)

const maxCount = 10_000 // attempts a limit can tell apart; larger limits are held to this

// limitScript keeps the times (µs) of the last attempts that were let through, newest first, and lets one more through
// if fewer than ARGV[1] lie within ARGV[2] µs. Redis' own clock is used, so that instances need not agree on theirs.
// After a failover to a server whose clock is behind, the attempts on record count as made just now.
// It answers 0, or the µs to wait.
const limitScript = `
local key, count, per = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local newest = tonumber(redis.call('LINDEX', key, 0))
if newest and newest > now + 1000000 then
  local n = math.min(redis.call('LLEN', key), count)
  redis.call('DEL', key)
  for _ = 1, n do redis.call('LPUSH', key, string.format('%.0f', now)) end
  redis.call('PEXPIRE', key, math.ceil(per / 1000))
elseif newest and newest > now then
  now = newest
end
local oldest = tonumber(redis.call('LINDEX', key, count - 1))
if oldest and oldest + per > now then
  return string.format('%.0f', math.min(oldest + per - now, per))
end
redis.call('LPUSH', key, string.format('%.0f', now))
redis.call('LTRIM', key, 0, count - 1)
redis.call('PEXPIRE', key, math.ceil(per / 1000))
return '0'`

// Limit is how many attempts may be made in any period of a given length.
type Limit struct {
	Count int           // at least 1
	Per   time.Duration // at least 1ms
}

// LimiterConfig says how attempts are counted.
type LimiterConfig struct {
	// Pepper keeps those who can read Redis from guessing which addresses and names are counted. All instances need the
	// same; empty means keys are hashed without one.
	Pepper []byte
	// Nodes is how many instances there may be: while Redis is away, each lets through Count/Nodes, at least one.
	// 0 means 2.
	Nodes int
	// MaxLocal bounds the keys remembered in process; 0 means 65536 (some 5 MB).
	MaxLocal int
}

// Limiter counts attempts across all instances. It never fails open: what it let through is also counted in process,
// so neither an outage nor a wipe of Redis gives this instance's callers a fresh start.
type Limiter struct {
	client *Client
	cfg    LimiterConfig
	script *Script
	local  *localLimits
	now    func() time.Time
}

// NewLimiter makes a limiter on client.
func NewLimiter(client *Client, cfg LimiterConfig) *Limiter {
	if cfg.Nodes <= 0 {
		cfg.Nodes = 2
	}
	if cfg.MaxLocal <= 0 {
		cfg.MaxLocal = 65536
	}
	return &Limiter{
		client: client, cfg: cfg, script: NewScript(limitScript), local: newLocalLimits(cfg.MaxLocal), now: time.Now,
	}
}

// Allow counts an attempt at key and reports whether it may be made; if not, when to try again. Attempts that are
// refused do not count. Limits of different kinds need different keys: "login:ip:192.0.2.1".
func (l *Limiter) Allow(ctx context.Context, key string, limit Limit) (ok bool, retryAfter time.Duration) {
	limit.Count = min(max(limit.Count, 1), maxCount)
	limit.Per = max(limit.Per, time.Millisecond)
	digest, now := l.digest(key, limit), l.now()
	// Redis decides to the microsecond; the two clocks need not run alike, so here a little is let pass.
	if wait := l.local.peek(digest, limit, now); wait > min(limit.Per/10, time.Second) {
		return l.decided("local", wait)
	}
	wait, err := l.ask(ctx, digest, limit)
	if err != nil {
		share := Limit{max(limit.Count/l.cfg.Nodes, 1), limit.Per}
		return l.decided("local", l.local.take(digest, share, l.now(), true))
	}
	if wait == 0 {
		l.local.take(digest, limit, now, false)
	}
	return l.decided("redis", wait)
}

func (l *Limiter) decided(source string, wait time.Duration) (bool, time.Duration) {
	result := "allowed"
	if wait > 0 {
		result = "refused"
	}
	l.client.metrics.limited.WithLabelValues(source, result).Inc()
	return wait <= 0, max(wait, 0)
}

func (l *Limiter) ask(ctx context.Context, digest [16]byte, limit Limit) (time.Duration, error) {
	r, err := l.script.Exec(ctx, l.client, []string{rateLimit(digest)},
		strconv.Itoa(limit.Count), itoa(limit.Per.Microseconds()))
	if err != nil {
		return 0, err
	}
	us, err := r.Int()
	return time.Duration(us) * time.Microsecond, err
}

// digest hides key. The period is part of it, so that changing a limit's period begins a new count.
func (l *Limiter) digest(key string, limit Limit) (d [16]byte) {
	h := hmac.New(sha256.New, l.cfg.Pepper)
	_, _ = h.Write([]byte(key + "\x00" + limit.Per.String())) // a hash takes everything
	copy(d[:], h.Sum(nil))
	return d
}
