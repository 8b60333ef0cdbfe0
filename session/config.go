package session

import (
	"log/slog"
	"math"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rootstream/cache"
	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/secret"
)

// Policy is how long sessions of a class live.
type Policy struct {
	Idle     time.Duration // without activity; 0 means as long as Absolute, else at least 5 minutes
	Absolute time.Duration // whatever happens

	RememberIdle     time.Duration // instead of Idle for a remembered device
	RememberAbsolute time.Duration // instead of Absolute; 0 means that devices are not remembered
}

// The classes of DefaultPolicies. ClassLegacy marks sessions of Phase 24.2, which end exactly when they were to.
const (
	ClassUser    = "user"
	ClassCreator = "creator"
	ClassAdmin   = "admin"
	ClassLegacy  = "legacy"
)

// DefaultPolicies are the classes of [Config.Policies]. See NIST SP 800-63B-4 §2 and the OWASP session cheat sheet.
func DefaultPolicies() map[string]Policy {
	const day = 24 * time.Hour
	return map[string]Policy{
		ClassUser:    {Absolute: day, RememberIdle: 14 * day, RememberAbsolute: 90 * day},
		ClassCreator: {Idle: time.Hour, Absolute: 12 * time.Hour},
		ClassAdmin:   {Idle: 15 * time.Minute, Absolute: 8 * time.Hour},
	}
}

// LimitRule says what happens when an account has as many sessions as it may have.
type LimitRule string

// The rules.
const (
	EvictOldest LimitRule = "evict_oldest" // its oldest session ends
	Deny        LimitRule = "deny"         // the new one is refused with ErrLimit
)

// Config is what a [Manager] needs. Zero values mean the defaults.
type Config struct {
	DB     *postgres.DB   // required
	FeedDB *postgres.DB   // for reading invalidations, so that a busy pool does not delay it; nil means DB
	Cache  *cache.Client  // nil means no Redis; its OnInvalidate must call Manager.Invalidate
	Keys   *secret.Keyset // nil means that Redis is not used and Refresh answers keyset_missing

	Policies    map[string]Policy // by class; nil means DefaultPolicies
	MaxSessions int               // live sessions of an account; 0 means 10, negative no limit
	OnLimit     LimitRule         // "" means EvictOldest

	NearCapacity int           // views kept in the process, 161 bytes each, rounded down to a power of two; 0 means 262,144
	NearTTL      time.Duration // of a view kept in the process; 0 means 5s, which is also the most
	ViewMaxAge   time.Duration // of a view in Redis, since PostgreSQL was read; 0 means 5m, which is also the most
	MaxBlind     time.Duration // how long to answer without news of revocations; 0 means 5s
	PollInterval time.Duration // between readings of the invalidations; 0 means 250ms

	FlushInterval   time.Duration // between writings of activity; 0 means 1s
	CleanupInterval time.Duration // between cleanings; 0 means 10m
	Keep            time.Duration // of expired and revoked sessions; 0 means 30 days

	Locate     func(netip.Addr) string // place of an address; nil means none is recorded
	Registerer prometheus.Registerer   // nil means metrics are not registered
	Logger     *slog.Logger            // nil means slog.Default
}

// Bounds that are part of what is promised.
const (
	maxNearTTL    = 5 * time.Second
	maxViewAge    = 5 * time.Minute
	minIdle       = 5 * time.Minute
	maxAbsolute   = 400 * 24 * time.Hour
	graceOfOld    = 10 * time.Second // a replaced token still validates, and its replacement can be fetched again
	nearTTLAlone  = time.Second      // while changes are not heard from Redis
	markMargin    = 10 * time.Minute // transactions that take longer are not expected to change sessions
	keepFeed      = time.Hour
	loadTimeout   = 2 * time.Second
	pollTimeout   = 2 * time.Second
	leaseTTL      = 5 * time.Second
	negativeTTL   = time.Second
	negativeSlots = 1 << 16
	cleanupBatch  = 500
	buryBatch     = 1000
	legacyRecheck = 10 * time.Minute
	redisBackoff  = 500 * time.Millisecond
	afterLoss     = 3 * time.Second
)

func (c Config) withDefaults() (Config, error) {
	var f errs.Fields
	if c.DB == nil {
		f.Add("db", "is needed")
	}
	if c.FeedDB == nil {
		c.FeedDB = c.DB
	}
	if c.Policies == nil {
		c.Policies = DefaultPolicies()
	}
	for name, p := range c.Policies {
		p.check(&f, "policies."+name)
	}
	if c.OnLimit == "" {
		c.OnLimit = EvictOldest
	}
	if c.OnLimit != EvictOldest && c.OnLimit != Deny {
		f.Add("on_limit", "must be evict_oldest or deny")
	}
	switch {
	case c.MaxSessions == 0:
		c.MaxSessions = 10
	case c.MaxSessions < 0:
		c.MaxSessions = math.MaxInt32
	}
	if c.NearCapacity == 0 {
		c.NearCapacity = 1 << 18
	}
	duration(&f, "near_ttl", &c.NearTTL, maxNearTTL)
	duration(&f, "view_max_age", &c.ViewMaxAge, maxViewAge)
	duration(&f, "max_blind", &c.MaxBlind, 5*time.Second)
	duration(&f, "poll_interval", &c.PollInterval, 250*time.Millisecond)
	duration(&f, "flush_interval", &c.FlushInterval, time.Second)
	duration(&f, "cleanup_interval", &c.CleanupInterval, 10*time.Minute)
	duration(&f, "keep", &c.Keep, 30*24*time.Hour)
	c.NearTTL, c.ViewMaxAge = min(c.NearTTL, maxNearTTL), min(c.ViewMaxAge, maxViewAge)
	if c.MaxBlind < 2*c.PollInterval {
		f.Add("max_blind", "must be at least twice poll_interval")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Logger = c.Logger.With("component", "session")
	return c, f.Err()
}

func duration(f *errs.Fields, field string, d *time.Duration, otherwise time.Duration) {
	if *d < 0 {
		f.Add(field, "must not be negative")
	}
	if *d == 0 {
		*d = otherwise
	}
}

func (p Policy) check(f *errs.Fields, field string) {
	for _, idle := range []time.Duration{p.Idle, p.RememberIdle} {
		if idle != 0 && idle < minIdle {
			f.Add(field+".idle", "must be 0 or at least 5m")
		}
	}
	if p.Absolute < minIdle || max(p.Absolute, p.RememberAbsolute) > maxAbsolute {
		f.Add(field+".absolute", "must be from 5m to 400 days")
	}
}

// terms are how long one session lives.
type terms struct {
	idle, absolute time.Duration
	remembered     bool
}

func (p Policy) terms(remember bool) terms {
	if remember && p.RememberAbsolute > 0 {
		return terms{p.RememberIdle, p.RememberAbsolute, true}
	}
	return terms{p.Idle, p.Absolute, false}
}
