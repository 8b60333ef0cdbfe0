package session

import (
	"context"
	"time"

	"rootstream/session/near"
)

// What the tests see of the inside.
var (
	Format     = format
	WellFormed = wellFormed
	Successors = successors
)

// Parse is parse, in plain types.
func Parse(token string) (hash [32]byte, legacy, ok bool) {
	c, ok := parse(token)
	return c.hash, c.legacy, ok
}

// EncodeView and DecodeView are the codec of views in Redis, without the code over them.
func EncodeView(v View) []byte           { return v.encode(nil) }
func DecodeView(b []byte) (View, bool)   { return decode(b) }
func (v *View) Coalesce() time.Duration  { return time.Duration(v.coalesce()) * time.Microsecond }
func (m *Manager) NearStats() near.Stats { return m.near.Stats() }

// OnLoaded makes f run after each reading of PostgreSQL, before anything is cached.
func (m *Manager) OnLoaded(f func()) { m.loaded = f }

// FlushActivity writes what is pending.
func (m *Manager) FlushActivity() error { return m.flushActivity(context.Background()) }

// Forged is how many views in Redis were not ours.
func (m *Manager) Forged() uint64 { return m.shared.forged.Load() }

// DBLoads is how often PostgreSQL was asked for a view.
func (m *Manager) DBLoads() uint64 { return m.counts.dbLoads.Load() }

// RedisHits is how many views Redis had.
func (m *Manager) RedisHits() uint64 { return m.shared.hits.Load() }

// MarkCount is the number of tokens known to have ended or changed.
func (m *Manager) MarkCount() int { return m.marks.len() }

// DropNear empties the cache in the process.
func (m *Manager) DropNear() {
	m.near.Flush()
	m.negative.Flush()
}

// LegacyPossible reports whether tokens of another form are looked up at all.
func (m *Manager) LegacyPossible() bool { return m.legacy.possible.Load() }

// FindLegacy looks for sessions of Phase 24.2 as the loop does, all through.
func (m *Manager) FindLegacy() error { return m.findLegacy(context.Background(), true) }

// Marks are those of an instance, on their own.
type Marks struct{ m *marks }

func NewMarks(room int) Marks { return Marks{newMarks(room)} }
func (m Marks) Add(k near.Key, version, ends, keep, now int64) {
	m.m.add(k, version, ends, keep, now)
}
func (m Marks) Dead(k near.Key, now int64) bool   { return m.m.get(k).dead(now) }
func (m Marks) Believes(k near.Key, v *View) bool { return m.m.believes(k, v) }
func (m Marks) Len() int                          { return m.m.len() }

// Keep puts a view into the process's cache, as if it had just been read.
func (m *Manager) Keep(token string, v View) {
	c, _ := parse(token)
	v.FilledAt = m.clock.now()
	m.near.Put(c.key(), v, m.clock.mono()+int64(time.Hour), m.near.Ticket(c.key()))
}

// StoreAll fills views into Redis.
func (m *Manager) StoreAll(tokens []string, v View) {
	creds := make([]*credential, len(tokens))
	for i, token := range tokens {
		c, _ := parse(token)
		creds[i] = &c
	}
	v.FilledAt = m.clock.now()
	var fills []fillIn
	for i, nonce := range m.shared.reserveAll(context.Background(), creds) {
		fills = append(fills, fillIn{creds[i], &v, nonce, nil})
	}
	m.shared.store(context.Background(), fills)
}

// Forget is what a revocation heard of does.
func (m *Manager) Forget(token string) {
	c, _ := parse(token)
	now := m.clock.now()
	at := time.UnixMicro(now)
	m.forget(c.key(), 1, &at, now)
}

// The statements, for those who measure them alone.
const (
	LoadSQL   = loadOne
	LockSQL   = lockUser
	EvictSQL  = evictSQL
	InsertSQL = insertSQL
	PollSQL   = pollSQL
)
