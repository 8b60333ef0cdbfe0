package auth

import (
	"cmp"
	"time"

	"rootstream/cache"
	"rootstream/errs"
)

// Config tunes a [Service]. Zero values mean the defaults.
type Config struct {
	ChallengeFor   time.Duration // how long a code may be missing after the password; 0 means 5m
	FreshFor       time.Duration // how long a proof of identity counts as fresh; 0 means 15m
	SetupFor       time.Duration // life of a setup token; 0 means 30m
	EmailChangeFor time.Duration // how long a new address may be confirmed; 0 means 24h
	EmailUndoFor   time.Duration // how long the old address can undo its change; 0 means 72h
	Rate           Rates
	Keep           time.Duration // of finished challenges and tokens; 0 means 24h
	SweepEvery     time.Duration // between clean-ups of Run; 0 means 5m

	// FactorRequired says that every account must have a second factor, so shorter passwords do: see RequireFactor.
	FactorRequired bool
	// NoSignInMail says that owners hear nothing of sign-ins from devices not used before.
	NoSignInMail bool
	// Now replaces the clocks of rules of freshness, nil means session.Manager.Now, and of limits, nil means time.Now.
	Now func() time.Time
}

// Rates limit authentication, in attempts a minute where nothing else is said.
// A client network is a /24 of IPv4 or a /64 of IPv6; all of a /56 get twice as
// many together, all of a /48 four times. 0 means the default.
type Rates struct {
	LoginAccount    int // sign-ins to an account from one client network; 0 means 120
	LoginAnywhere   int // sign-ins to an account from everywhere but its known devices; 0 means 300
	LoginNetwork    int // sign-ins from one client network; 0 means 600
	RegisterNetwork int // new accounts from one client network; 0 means 60
	MFANetwork      int // answers to challenges from one client network; 0 means 1200
	RefreshNetwork  int // refreshes from one client network; 0 means 6000
	TokenNetwork    int // uses of mailed and setup tokens from one client network; 0 means 60
	RecoveryNetwork int // recovery requests from one client network; 0 means 20
	RecoveryAccount int // mails an hour of one kind that strangers can make us send to one account, more are dropped; 0 means 4
	ProofAccount    int // proofs of identity and changes of factors in an account's sessions; 0 means 120
	Writes          int // other changes an account makes through one instance; 0 means 6000
	ExportAccount   int // exports an hour of one account; 0 means 10

	// Failed sign-ins before the first wait of 2 s, which doubles with each more.
	FreeClient  int           // from one client network, or from one known device; 0 means 5
	FreeAccount int           // from anywhere but known devices; 0 means 50
	MaxWait     time.Duration // the longest wait; 0 means 15m
}

func (c Config) withDefaults() Config {
	c.ChallengeFor = cmp.Or(c.ChallengeFor, 5*time.Minute)
	c.FreshFor = cmp.Or(c.FreshFor, 15*time.Minute)
	c.SetupFor = cmp.Or(c.SetupFor, 30*time.Minute)
	c.EmailChangeFor = cmp.Or(c.EmailChangeFor, 24*time.Hour)
	c.EmailUndoFor = cmp.Or(c.EmailUndoFor, 72*time.Hour)
	c.Keep = cmp.Or(c.Keep, 24*time.Hour)
	c.SweepEvery = cmp.Or(c.SweepEvery, 5*time.Minute)
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Rate.MaxWait = cmp.Or(c.Rate.MaxWait, 15*time.Minute)
	for n, otherwise := range c.Rate.counts() {
		*n = cmp.Or(*n, otherwise)
	}
	return c
}

// counts are the numbers of r and their defaults.
func (r *Rates) counts() map[*int]int {
	return map[*int]int{
		&r.LoginAccount: 120, &r.LoginAnywhere: 300, &r.LoginNetwork: 600, &r.RegisterNetwork: 60,
		&r.MFANetwork: 1200, &r.RefreshNetwork: 6000, &r.TokenNetwork: 60, &r.RecoveryNetwork: 20,
		&r.RecoveryAccount: 4, &r.ProofAccount: 120, &r.Writes: 6000, &r.ExportAccount: 10, &r.FreeClient: 5, &r.FreeAccount: 50,
	}
}

func (c Config) validate() error {
	var f errs.Fields
	if min(c.ChallengeFor, c.FreshFor, c.SetupFor, c.EmailChangeFor, c.EmailUndoFor, c.Keep, c.SweepEvery) < 0 {
		f.Add("auth", "must not hold a negative time")
	}
	least := int(c.Rate.MaxWait)
	for n := range c.Rate.counts() {
		least = min(least, *n)
	}
	if least < 0 {
		f.Add("auth.rate", "must not hold a negative number")
	}
	return f.Err()
}

func perMinute(n int) cache.Limit { return cache.Limit{Count: n, Per: time.Minute} }
func perHour(n int) cache.Limit   { return cache.Limit{Count: n, Per: time.Hour} }
