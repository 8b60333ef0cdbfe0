package guard

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"sync"
	"time"

	"rootstream/cache"
)

// Policy says how failures slow down whoever makes them.
type Policy struct {
	Free int           // failures before the first wait
	Most time.Duration // the longest wait
}

// forget is how long a tally outlives its last try.
const forget = time.Hour

// wait is how long the next try must wait after n failures: 2, 4, 8… seconds.
func (p Policy) wait(n int) time.Duration {
	over := n - p.Free
	if over < 0 {
		return 0
	}
	if over >= 30 {
		return p.Most
	}
	return min(2*time.Second<<over, p.Most)
}

// tally is what one key has failed.
type tally struct {
	n     int
	until time.Time // no try before
	seen  time.Time
}

// reserve counts a try as failed, or says how long to wait.
func (t tally) reserve(p Policy, now time.Time) (tally, time.Duration) {
	if now.Sub(t.seen) > forget {
		t = tally{}
	}
	if left := min(t.until.Sub(now), p.Most); left > 0 {
		return t, left
	}
	t.n++
	t.until, t.seen = now.Add(p.wait(t.n)), now
	return t, 0
}

// Backoff slows guessing down exponentially, by key. A try is counted as a
// failure before it is judged and given back if it was none, so parallel
// guesses cannot slip through. The count is shared in Redis and mirrored in
// process; while Redis is away the mirror decides and is stricter, and after a
// wipe of Redis the mirror fills it again.
type Backoff struct {
	redis  *cache.Client // nil means in process only
	now    func() time.Time
	script *cache.Script

	mu    sync.Mutex
	local map[string]tally
}

const maxTallies = 65536

// backoffScript does what ARGV[1] says with the tally {n, u}: failures, and µs
// on Redis' clock before which there is no further try. It answers n, the µs to
// wait, and 0 if the try was refused.
const backoffScript = `
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local free, most, n, u = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[5]), now + tonumber(ARGV[6])
local have = redis.call('HMGET', KEYS[1], 'n', 'u')
if have[1] then n, u = tonumber(have[1]), tonumber(have[2]) end
local admitted = 1
if ARGV[1] == 'reset' then
  n, u = 0, now
elseif ARGV[1] == 'refund' then
  n, u = math.max(n - 1, 0), now
elseif u > now then
  u, admitted = math.min(u, now + most), 0
else
  n, u = n + 1, now
  if n >= free then u = now + math.min(2000000 * 2 ^ math.min(n - free, 30), most) end
end
redis.call('HSET', KEYS[1], 'n', n, 'u', string.format('%.0f', u))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return string.format('%d %.0f %d', n, u - now, admitted)`

// NewBackoff makes one; without Redis it counts in this process alone.
func NewBackoff(redis *cache.Client, now func() time.Time) *Backoff {
	return &Backoff{redis: redis, now: now, script: cache.NewScript(backoffScript), local: map[string]tally{}}
}

// Digest is the name of a key, which hides whose it is from who can read Redis.
func Digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		_, _ = h.Write([]byte(strconv.Itoa(len(p)) + ":" + p)) // a hash takes everything
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Reserve counts a try at key and reports whether it is the one that, if it
// fails, begins the waits. If it must wait first, nothing was counted.
func (b *Backoff) Reserve(ctx context.Context, key string, p Policy) (begins bool, wait time.Duration) {
	if n, left, admitted, ok := b.ask(ctx, "reserve", key, p); ok {
		b.mirror(key, n, left)
		if admitted {
			return n == p.Free, 0
		}
		return false, max(left, time.Millisecond)
	}
	p.Free = max(p.Free/2, 1) // each instance counts for itself
	b.mu.Lock()
	defer b.mu.Unlock()
	t, wait := b.local[key].reserve(p, b.now())
	b.put(key, t)
	return wait == 0 && t.n == p.Free, wait
}

// Refund takes back a reserved try that was not a wrong guess.
func (b *Backoff) Refund(ctx context.Context, key string, p Policy) {
	b.settle(ctx, "refund", key, p, func(n int) int { return max(n-1, 0) })
}

// Reset forgets the failures of key: its owner has signed in.
func (b *Backoff) Reset(ctx context.Context, key string, p Policy) {
	b.settle(ctx, "reset", key, p, func(int) int { return 0 })
}

func (b *Backoff) settle(ctx context.Context, what, key string, p Policy, left func(n int) int) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	b.ask(ctx, what, key, p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.put(key, tally{n: left(b.local[key].n), seen: b.now()})
}

// ask runs the script; ok is false while Redis does not answer.
func (b *Backoff) ask(ctx context.Context, what, key string, p Policy) (n int, wait time.Duration, admitted, ok bool) {
	if b.redis == nil {
		return 0, 0, false, false
	}
	b.mu.Lock()
	mine := b.local[key]
	b.mu.Unlock()
	now := b.now()
	if now.Sub(mine.seen) > forget {
		mine = tally{}
	}
	r, err := b.script.Exec(ctx, b.redis, []string{cache.Failures(key)}, what, strconv.Itoa(p.Free),
		strconv.FormatInt(p.Most.Microseconds(), 10), strconv.FormatInt(forget.Milliseconds(), 10),
		strconv.Itoa(mine.n), strconv.FormatInt(max(mine.until.Sub(now), 0).Microseconds(), 10))
	if err != nil {
		return 0, 0, false, false
	}
	var left, passed int64
	text, _ := r.Text()
	if _, err = fmt.Sscan(text, &n, &left, &passed); err != nil {
		return 0, 0, false, false
	}
	return n, time.Duration(left) * time.Microsecond, passed == 1, true
}

func (b *Backoff) mirror(key string, n int, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	b.put(key, tally{n: n, until: now.Add(wait), seen: now})
}

// put keeps t, dropping what is forgotten, else the mildest of a few, when there are too many.
func (b *Backoff) put(key string, t tally) {
	if _, have := b.local[key]; !have && len(b.local) >= maxTallies {
		mildest, seen, now := "", 0, b.now()
		for k, old := range b.local {
			if seen++; now.Sub(old.seen) > forget || mildest == "" || old.n < b.local[mildest].n {
				mildest = k
			}
			if seen == 16 {
				break
			}
		}
		delete(b.local, mildest)
	}
	b.local[key] = t
}
