package auth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/semaphore"

	"rootstream/auth/guard"
	"rootstream/cache"
	"rootstream/mfa"
	"rootstream/notify"
	"rootstream/postgres"
	"rootstream/secret"
	"rootstream/session"
	"rootstream/user"
)

// Deps are the parts a [Service] joins.
type Deps struct {
	DB       *postgres.DB
	Users    *user.Store
	Rules    *user.Rules // nil means those of an empty user.RulesConfig
	Hasher   *user.Hasher
	Sessions *session.Manager
	MFA      *mfa.Manager
	Limiter  *cache.Limiter // nil means that attempts are counted in process
	Cache    *cache.Client  // shares the count of failures; nil means that it is kept in process
	Keyset   *secret.Keyset // nil means that keys in Redis are hashed without a pepper

	// Enqueue puts a mail into the outbox; nil means notify.Enqueue.
	Enqueue func(tx *postgres.Tx, m notify.Message) error
	// Streams exports what an account has streamed; nil leaves it out.
	Streams func(ctx context.Context, user uuid.UUID) (any, error)
	// Erase removes, in the transaction that deletes an account, what other rooms keep of it; nil means nothing.
	Erase func(ctx context.Context, tx *postgres.Tx, u user.User) error

	Config Config
	Logger *slog.Logger // nil means slog.Default
}

// limiter is what cache.Limiter and its stand-in have in common.
type limiter interface {
	Allow(ctx context.Context, key string, limit cache.Limit) (ok bool, retryAfter time.Duration)
}

// Service signs people up, in and out. It is safe for concurrent use.
type Service struct {
	db       *postgres.DB
	users    *user.Store
	rules    *user.Rules
	hasher   *user.Hasher
	sessions *session.Manager
	mfa      *mfa.Manager
	limiter  limiter
	writes   *guard.Windows
	now      func() time.Time // of freshness: the clock of those who wrote when something was proven
	backoff  *guard.Backoff
	turns    guard.Turns
	door     *semaphore.Weighted // of sign-ins that are looked up
	pepper   string
	enqueue  func(tx *postgres.Tx, m notify.Message) error
	streams  func(ctx context.Context, user uuid.UUID) (any, error)
	erase    func(ctx context.Context, tx *postgres.Tx, u user.User) error
	cfg      Config
	log      *slog.Logger
}

// New makes a Service.
func New(d Deps) (*Service, error) {
	if d.DB == nil || d.Users == nil || d.Hasher == nil || d.Sessions == nil || d.MFA == nil {
		return nil, errors.New("auth: DB, Users, Hasher, Sessions and MFA are needed")
	}
	if err := d.Config.validate(); err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	pepper, err := pepperOf(d.Keyset)
	if err != nil {
		return nil, err
	}
	s := &Service{
		db: d.DB, users: d.Users, rules: d.Rules, hasher: d.Hasher, sessions: d.Sessions, mfa: d.MFA,
		door: semaphore.NewWeighted(atTheDoor), pepper: pepper, enqueue: d.Enqueue, streams: d.Streams, erase: d.Erase, cfg: d.Config.withDefaults(),
		log: cmp.Or(d.Logger, slog.Default()).With("component", "auth"),
	}
	if s.rules == nil {
		if s.rules, err = user.NewRules(user.RulesConfig{}); err != nil {
			return nil, err
		}
	}
	if s.enqueue == nil {
		s.enqueue = notify.Enqueue
	}
	s.backoff = guard.NewBackoff(d.Cache, s.cfg.Now)
	if s.now = d.Config.Now; s.now == nil {
		s.now = d.Sessions.Now
	}
	s.writes = guard.NewWindows(s.cfg.Now)
	s.limiter = guard.NewWindows(s.cfg.Now)
	if d.Limiter != nil {
		s.limiter = d.Limiter
	}
	return s, nil
}

// atTheDoor is how many sign-ins are looked up at once. One after the other
// would be fast enough for the passwords that can be hashed; a slow answer must
// not hold up everybody, though.
const atTheDoor = 4

// Run drops finished challenges and tokens, now and then, until ctx is done.
// Every instance may run it.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.SweepEvery)
	defer tick.Stop()
	for {
		if _, err := s.Cleanup(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "clean-up of sign-ins did not finish", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

const sweepRows = 500 // of one step

// Cleanup removes challenges and tokens that ended longer ago than Config.Keep,
// in small batches, and returns how many.
func (s *Service) Cleanup(ctx context.Context) (int64, error) {
	total := int64(0)
	for _, step := range []func(tx *postgres.Tx) (int64, error){
		func(tx *postgres.Tx) (int64, error) {
			tag, err := tx.Exec(ctx, `delete from auth_challenges where token_hash in (
				select token_hash from auth_challenges where expires_at < clock_timestamp() - $1::interval
				order by expires_at limit $2 for update skip locked)`, s.cfg.Keep, sweepRows)
			return tag.RowsAffected(), err
		},
		func(tx *postgres.Tx) (int64, error) {
			return s.users.CleanupTokens(ctx, tx, s.cfg.Now().Add(-s.cfg.Keep), sweepRows)
		},
		func(tx *postgres.Tx) (int64, error) {
			return s.users.CleanupEmailChanges(ctx, tx, s.cfg.Now().Add(-s.cfg.Keep), sweepRows)
		},
	} {
		for n := int64(sweepRows); n == sweepRows; total += n {
			err := s.db.InTx(ctx, func(tx *postgres.Tx) (err error) {
				n, err = step(tx)
				return err
			})
			if err != nil {
				return total, fmt.Errorf("clean up sign-ins: %w", err)
			}
		}
	}
	return total, nil
}
