package feed

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"rootstream/cache"
	"rootstream/errs"
	"rootstream/event"
	"rootstream/postgres"
)

// Times and limits. None is a setting: they belong together.
const (
	sweepEvery     = 50 * time.Millisecond  // between comparisons with PostgreSQL, give or take a quarter
	sweepAlone     = 20 * time.Millisecond  // while Redis is not to be relied on
	grace          = 5 * time.Millisecond   // what is missing below what has come may still be on its way
	transit        = 25 * time.Millisecond  // what PostgreSQL has and nobody has told may still be on its way
	sweepTimeout   = 2 * time.Second        // for one question to PostgreSQL
	beatEvery      = 500 * time.Millisecond // between signs of life
	echoLate       = 1500 * time.Millisecond
	echoLost       = 3 * time.Second // without an echo of our own sign of life Redis is suspect
	peerGone       = 10 * time.Second
	maxFrameEvents = 256
	maxFrameBytes  = 256 << 10
	maxParked      = 8192    // events of a shard that wait for one before them
	maxQueued      = 1 << 16 // events that wait to be published; the sweepers of others find what is dropped
	maxRoom        = 1 << 12 // events whose room is kept for the next ones
	keepInRedis    = "2048"  // frames
	recentEvents   = 1024    // events of a shard kept to be compared when PostgreSQL comes back another one
	recentBytes    = 1 << 20 // of their data
	tooFar         = 50_000  // events behind: state is read again instead of replayed
	page           = 1000
)

// Authenticator proves that a frame comes from an instance; *secret.Keyset is one.
type Authenticator interface {
	MAC(purpose string, parts ...[]byte) ([32]byte, error)
	Verify(purpose string, mac []byte, parts ...[]byte) (bool, error)
}

// Config says what a feed works with. DB and OnBatch are needed, and Auth with Cache.
type Config struct {
	DB      *postgres.DB
	Cache   *cache.Client // nil means no Redis
	Auth    Authenticator
	Node    uuid.UUID // zero means a new one
	Address string    // told to other instances

	// OnBatch gets a shard's next events. Shards come in parallel; it must be quick and not call back.
	OnBatch func(shard int, events []event.Event)
	// OnReset says that the next batches do not continue the last ones: what was made of those is to be forgotten.
	// Nothing else is handed on meanwhile.
	OnReset func(Reset)
	// OnOrphans gets events that were seen and are no longer in PostgreSQL. It is called again until it returns nil.
	OnOrphans func(ctx context.Context, lost []event.Event) error
	// OnBroadcast gets what instances, this one too, have given to Broadcast.
	OnBroadcast func(from Sender, payload []byte)

	Registerer prometheus.Registerer
	Logger     *slog.Logger     // nil means slog.Default
	Now        func() time.Time // what instances tell each other the time by; nil means time.Now
}

// Reset says why, and where the feed goes on.
type Reset struct {
	Reason string // start, epoch, behind
	Epoch  int64
	Heads  [event.Shards]int64
}

// Sender is the life of an instance.
type Sender struct {
	Node        uuid.UUID
	Incarnation int64
}

func (c Config) withDefaults() (Config, error) {
	if c.DB == nil || c.OnBatch == nil || (c.Cache != nil && c.Auth == nil) {
		return c, errs.New(errs.Internal, "feed_config", "a feed needs a database, a handler, and keys if it has a cache")
	}
	if c.Node == uuid.Nil {
		c.Node = uuid.New()
	}
	if c.OnReset == nil {
		c.OnReset = func(Reset) {}
	}
	if c.OnOrphans == nil {
		c.OnOrphans = func(context.Context, []event.Event) error { return nil }
	}
	if c.OnBroadcast == nil {
		c.OnBroadcast = func(Sender, []byte) {}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Logger = c.Logger.With("component", "feed")
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, nil
}
