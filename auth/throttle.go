package auth

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"rootstream/auth/guard"
	"rootstream/cache"
	"rootstream/errs"
	"rootstream/secret"
)

// allow counts one attempt of kind by who and refuses it if there were too many.
func (s *Service) allow(ctx context.Context, kind, who string, limit cache.Limit) error {
	if ok, wait := s.limiter.Allow(ctx, "auth:"+kind+":"+who, limit); !ok {
		return ErrRateLimited.WithRetryAfter(max(wait, time.Second))
	}
	return nil
}

// allowFrom counts one attempt of kind by where a client is, n a minute for one network.
func (s *Service) allowFrom(ctx context.Context, kind string, c Client, n int) error {
	for _, from := range c.crowds() {
		if err := s.allow(ctx, kind, from.block, perMinute(from.share*n)); err != nil {
			return err
		}
	}
	return nil
}

// AllowWrite counts a change that somebody who is signed in is about to make.
// It counts in process: what it bounds is work, not guesses.
func (s *Service) AllowWrite(ctx context.Context, p Principal) error {
	if ok, wait := s.writes.Allow(ctx, p.UserID.String(), perMinute(s.cfg.Rate.Writes)); !ok {
		return ErrRateLimited.WithRetryAfter(max(wait, time.Second))
	}
	return nil
}

// counter is a tally that a guess counts in.
type counter struct {
	key string
	guard.Policy
}

// counters are the tallies of an account's password, the strictest first. A
// stranger counts by client network and, softer, from anywhere; a device that
// has signed in before counts for itself, so strangers cannot lock its owner out.
func (s *Service) counters(account string, known bool, c Client) []counter {
	r := s.cfg.Rate
	client := guard.Policy{Free: r.FreeClient, Most: r.MaxWait}
	if known {
		return []counter{{s.tallyKey("device", account, c.DeviceID), client}}
	}
	return []counter{
		{s.tallyKey("client", account, c.network()), client},
		{s.tallyKey("account", account), guard.Policy{Free: r.FreeAccount, Most: r.MaxWait}},
	}
}

func (s *Service) tallyKey(parts ...string) string { return guard.Digest(append(parts, s.pepper)...) }

// verdict is how a guess ended.
type verdict struct {
	right  bool
	locked []bool // by counter: this failure was the one that begins its waits
}

// guess judges one try at a password. It is counted in every tally before it
// is judged, one after the other by client, and given back unless it was wrong.
func (s *Service) guess(ctx context.Context, counters []counter, judge func(ctx context.Context) (bool, error)) (verdict, error) {
	next, err := s.turns.Take(ctx, counters[0].key)
	if err != nil {
		return verdict{}, err
	}
	defer next()
	v := verdict{locked: make([]bool, len(counters))}
	for i, c := range counters {
		begins, wait := s.backoff.Reserve(ctx, c.key, c.Policy)
		if wait > 0 {
			s.refund(ctx, counters[:i])
			return verdict{}, ErrRateLimited.WithRetryAfter(max(wait, time.Second))
		}
		v.locked[i] = begins
	}
	v.right, err = judge(ctx)
	if err != nil || v.right {
		s.refund(ctx, counters)
	}
	return v, err
}

func (s *Service) refund(ctx context.Context, counters []counter) {
	for _, c := range counters {
		s.backoff.Refund(ctx, c.key, c.Policy)
	}
}

// forgive forgets the failures of a client whose sign-in is complete. What
// strangers failed elsewhere stays counted.
func (s *Service) forgive(ctx context.Context, key string) {
	s.backoff.Reset(ctx, key, guard.Policy{Free: s.cfg.Rate.FreeClient, Most: s.cfg.Rate.MaxWait})
}

// pepperOf keeps those who can read Redis from guessing whose failures they
// see. It comes of the oldest key, so it outlives rotations.
func pepperOf(keys *secret.Keyset) (string, error) {
	if keys == nil {
		return "", nil
	}
	oldest, err := keys.OldestMAC("auth.rate")
	if err != nil {
		return "", fmt.Errorf("derive the key of rate limits: %w", err)
	}
	return string(oldest[:]), nil
}

const maxLogin = 320 // bytes of a name or an address

// accountKey is an account as limits count it; no login name begins like that.
func accountKey(id uuid.UUID) string { return "\x00" + id.String() }

// readLogin is a login name without blanks around it, if it can be one.
func readLogin(login string) (string, error) {
	if login == "" || len(login) > maxLogin || !utf8.ValidString(login) || strings.ContainsRune(login, 0) {
		return "", errs.NewInvalid("login", "must be a user name or an e-mail address")
	}
	return strings.TrimSpace(login), nil
}
