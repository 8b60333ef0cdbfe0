package session

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"rootstream/cache"
	"rootstream/internal/gather"
	"rootstream/secret"
)

// shared is the part of the cache that lives in Redis. It may lose, repeat or
// invent anything: what it says counts only under our code over the token's
// hash, within ViewMaxAge, and against this instance's marks.
type shared struct {
	client  *cache.Client
	keys    *secret.Keyset
	maxAge  time.Duration
	clock   *clock
	resting atomic.Int64 // mono until which Redis is left alone after a failure
	deaf    atomic.Int64 // mono until which changes may go unheard, since a link was lost

	gets *gather.Group[[32]byte, []byte]

	lease, fill, bury *cache.Script

	hits, misses, forged, filled, buried atomic.Uint64
}

// The reader that finds no view takes a lease before it reads PostgreSQL; ARGV: nonce, life in ms.
const leaseScript = `
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return 0`

// A fill needs the lease still to be its own, and nothing as new to be there unless it is what the reader found
// and could not use; KEYS: view, lease; ARGV: nonce, view, version, life in ms, what was found.
const fillScript = `
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
local there = redis.call('GET', KEYS[1])
if there and there ~= ARGV[5] and #there >= 9 and struct.unpack('>I8', there, 2) >= tonumber(ARGV[3]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[4])
return 1`

// A tombstone takes away every lease, and stays over a newer one only; ARGV: tombstone, version, life in ms.
const buryScript = `
redis.call('DEL', KEYS[2])
local there = redis.call('GET', KEYS[1])
if there and #there == 9 and struct.unpack('>I8', there, 2) > tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return 1`

func newShared(cfg *Config, c *clock) *shared {
	s := &shared{
		client: cfg.Cache, keys: cfg.Keys, maxAge: cfg.ViewMaxAge, clock: c,
		lease: cache.NewScript(leaseScript), fill: cache.NewScript(fillScript), bury: cache.NewScript(buryScript),
	}
	s.gets = gather.New(maxGets, maxAsks, s.readAll)
	return s
}

// usable reports whether it makes sense to ask.
func (s *shared) usable() bool {
	return s.client != nil && s.keys != nil && s.client.Healthy() && s.clock.mono() >= s.resting.Load()
}

// heard reports whether changes made by other instances arrive by themselves.
func (s *shared) heard() bool {
	return s.client == nil || (s.client.Healthy() && s.client.Tracking() &&
		s.clock.mono() >= max(s.deaf.Load(), s.resting.Load()))
}

// lost notes that a link is gone, of which the client's own state may tell only later.
func (s *shared) lost() { s.deaf.Store(s.clock.mono() + int64(afterLoss)) }

// rest leaves Redis alone for a moment, so that clients do not all wait for its silence.
func (s *shared) rest() { s.resting.Store(s.clock.mono() + int64(redisBackoff)) }

// found is what Redis had for one token.
type found struct {
	view View
	ok   bool   // view may be believed, as far as Redis goes
	raw  []byte // what was there, to be replaced if it is not ok
}

func (s *shared) get(ctx context.Context, c *credential) (found, error) {
	raw, err := s.gets.Do(ctx, c.hash)
	if err != nil {
		return found{}, err
	}
	return s.judge(c, raw), nil
}

// readAll reads what Redis has for each of asks.
func (s *shared) readAll(ctx context.Context, asks []*gather.Ask[[32]byte, []byte]) {
	keys := make([]string, len(asks))
	for i, a := range asks {
		keys[i] = cache.SessionView(a.Question)
	}
	values, err := s.client.GetMany(ctx, keys)
	if err != nil {
		s.rest()
	}
	for i, a := range asks {
		a.Err = err
		if err == nil {
			a.Answer = values[i]
		}
	}
}

// judge opens what was found. Only what we sealed for this very token, lately enough, is a view.
func (s *shared) judge(c *credential, raw []byte) found {
	if len(raw) == 0 {
		s.misses.Add(1)
		return found{}
	}
	f := found{raw: raw}
	if raw[0] == kindTombstone {
		s.misses.Add(1)
		return f
	}
	if len(raw) != viewLen+macLen {
		s.forged.Add(1)
		return f
	}
	genuine, err := s.keys.Verify("session.view", raw[viewLen:], c.hash[:], raw[:viewLen])
	if err != nil || !genuine {
		s.forged.Add(1)
		return f
	}
	v, ok := decode(raw[:viewLen])
	age := s.clock.now() - v.FilledAt
	if !ok || age > s.maxAge.Microseconds() || age < -s.maxAge.Microseconds() {
		s.misses.Add(1)
		return f
	}
	s.hits.Add(1)
	f.view, f.ok = v, true
	return f
}

func nonce() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// reserve takes the lease of one fill; "" if somebody else has it or Redis does not answer.
func (s *shared) reserve(ctx context.Context, c *credential) string {
	got := s.reserveAll(ctx, []*credential{c})
	return got[0]
}

func (s *shared) reserveAll(ctx context.Context, cs []*credential) []string {
	runs, nonces := make([]cache.Run, len(cs)), make([]string, len(cs))
	life := strconv.FormatInt(leaseTTL.Milliseconds(), 10)
	for i, c := range cs {
		nonces[i] = nonce()
		runs[i] = cache.Run{Keys: []string{cache.SessionLease(c.hash)}, Args: []string{nonces[i], life}}
	}
	results, err := s.lease.ExecMany(ctx, s.client, runs)
	if err != nil {
		s.rest()
		return make([]string, len(cs))
	}
	for i, r := range results {
		if n, err := r.Reply.Int(); r.Err != nil || err != nil || n != 1 {
			nonces[i] = ""
		}
	}
	return nonces
}

// fillIn is one view on its way to Redis.
type fillIn struct {
	cred  *credential
	view  *View
	nonce string
	found []byte // what was there and could not be used
}

// store fills views in. What fails is simply not cached.
func (s *shared) store(ctx context.Context, fills []fillIn) {
	runs := make([]cache.Run, 0, len(fills))
	for _, f := range fills {
		life := min(s.maxAge, time.Duration(f.view.ExpiresAt-f.view.FilledAt)*time.Microsecond)
		raw := f.view.encode(make([]byte, 0, viewLen+macLen))
		mac, err := s.keys.MAC("session.view", f.cred.hash[:], raw)
		if err != nil || life < time.Millisecond {
			continue
		}
		raw = append(raw, mac[:]...)
		runs = append(runs, cache.Run{
			Keys: []string{cache.SessionView(f.cred.hash), cache.SessionLease(f.cred.hash)},
			Args: []string{
				f.nonce, string(raw), strconv.FormatInt(f.view.Version, 10),
				strconv.FormatInt(life.Milliseconds(), 10), string(f.found),
			},
		})
	}
	if _, err := s.fill.ExecMany(ctx, s.client, runs); err != nil {
		s.rest()
		return
	}
	s.filled.Add(uint64(len(runs)))
}

// ended is a token that was just taken back.
type ended struct {
	hash    [32]byte
	version int64
}

// putUp sets tombstones, so that no reader who is under way fills in what it saw before.
func (s *shared) putUp(ctx context.Context, tokens []ended) error {
	if s.client == nil || s.keys == nil || len(tokens) == 0 {
		return nil
	}
	life := strconv.FormatInt((s.maxAge + time.Minute).Milliseconds(), 10)
	runs := make([]cache.Run, len(tokens))
	for i, t := range tokens {
		runs[i] = cache.Run{
			Keys: []string{cache.SessionView(t.hash), cache.SessionLease(t.hash)},
			Args: []string{string(tombstone(t.version)), strconv.FormatInt(t.version, 10), life},
		}
	}
	for some := range slices.Chunk(runs, buryBatch) { // each is given the time of one command
		if _, err := s.bury.ExecMany(context.WithoutCancel(ctx), s.client, some); err != nil {
			return err
		}
		s.buried.Add(uint64(len(some)))
	}
	return nil
}
