package user

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"rootstream/errs"
)

const (
	saltSize = 16
	keySize  = 32
	// bcryptSize is how much of a password bcrypt looks at. Whoever made an
	// imported hash checked no more, so no more is checked here, until the hash
	// is replaced at the first sign-in.
	bcryptSize = 72
)

// HasherConfig says what a hash costs and how many are computed at once.
// The zero value is the default.
type HasherConfig struct {
	Cost         Argon2        // of new hashes; 0 means 19 MiB, 2 passes, 1 lane (OWASP's second row)
	Concurrency  int           // hashes at once; 0 means one less than the cores, at least 1
	QueueTimeout time.Duration // longest wait for a turn; 0 means 5s
}

func (c HasherConfig) withDefaults() HasherConfig {
	if c.Cost == (Argon2{}) {
		c.Cost = Argon2{MemoryKiB: 19 << 10, Time: 2, Parallelism: 1}
	}
	if c.Concurrency == 0 {
		c.Concurrency = max(1, runtime.GOMAXPROCS(0)-1)
	}
	if c.QueueTimeout == 0 {
		c.QueueTimeout = 5 * time.Second
	}
	return c
}

func (c HasherConfig) validate() error {
	var f errs.Fields
	if !c.Cost.within() {
		f.Add("cost", "must be at most 128 MiB, 4 passes and 4 lanes, with 8 KiB or more for each lane")
	}
	if c.Concurrency < 1 {
		f.Add("concurrency", "must be at least 1")
	}
	if c.QueueTimeout < 0 {
		f.Add("queue_timeout", "must not be negative")
	}
	return f.Err()
}

// Hasher makes and checks password hashes, at most Concurrency at once; who
// waits longer than QueueTimeout for a turn gets [ErrBusy]. Each takes
// Cost.MemoryKiB of memory that the garbage collector has to give back, so a
// storm of sign-ins costs a few collections more, not memory without bound.
// It is safe for concurrent use.
type Hasher struct {
	cfg   HasherConfig
	turns chan struct{}
	door  chan struct{} // where strangers queue, so that few of them stand before the known in the queue for turns; nil for the known
	decoy string        // a hash of today's cost that no password has
}

// Known is the same hasher for those who were here before: they wait for each
// other and for the few strangers whose turn is next, never for all of them.
func (h *Hasher) Known() *Hasher {
	known := *h
	known.door = nil
	return &known
}

// NewHasher makes a Hasher.
func NewHasher(cfg HasherConfig) (*Hasher, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	decoy := parsedHash{kind: "argon2id", cost: cfg.Cost, salt: make([]byte, saltSize), key: make([]byte, keySize)}
	_, _ = rand.Read(decoy.salt)
	_, _ = rand.Read(decoy.key)
	return &Hasher{cfg: cfg, turns: make(chan struct{}, cfg.Concurrency), door: make(chan struct{}, cfg.Concurrency), decoy: formatPHC(decoy)}, nil
}

// Hash returns the Argon2id hash of password as a PHC string. It does not ask
// whether the password is a good one: see [Rules].
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	if len(password) > maxPasswordBytes {
		return "", errs.NewInvalid("password", fmt.Sprintf("must be at most %d bytes", maxPasswordBytes))
	}
	done, err := h.turn(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	made := parsedHash{kind: "argon2id", cost: h.cfg.Cost, salt: make([]byte, saltSize)}
	_, _ = rand.Read(made.salt)
	made.key = made.derive(preparePassword(password), keySize)
	return formatPHC(made), nil
}

// Verdict is the answer to a password.
type Verdict struct {
	OK bool
	// NeedsRehash is set with OK where the stored hash is not what Hash would
	// make today: see Store.ReplaceHash.
	NeedsRehash bool
}

// Verify checks password against a stored hash. A stored hash nobody can
// check, or "" for an account that does not exist, costs the same time as a
// real one and is never OK. Errors are about getting a turn alone.
func (h *Hasher) Verify(ctx context.Context, stored, password string) (Verdict, error) {
	known := true
	parsed, err := parseHash(stored)
	if err != nil || len(password) > maxPasswordBytes {
		known = false
		password = password[:min(len(password), maxPasswordBytes)]
		if parsed, err = parseHash(h.decoy); err != nil {
			return Verdict{}, fmt.Errorf("read the decoy hash: %w", err)
		}
	}
	done, err := h.turn(ctx)
	if err != nil {
		return Verdict{}, err
	}
	defer done()
	prepared := preparePassword(password)
	ok, asTyped := parsed.matches(prepared), false
	if !ok && prepared != password {
		// A hash from elsewhere may have been made without preparation.
		ok = parsed.matches(password)
		asTyped = ok
	}
	if !ok || !known {
		return Verdict{}, nil
	}
	return Verdict{OK: true, NeedsRehash: asTyped || h.outdated(parsed)}, nil
}

// Dummy takes the time Verify takes, for an account that does not exist.
func (h *Hasher) Dummy(ctx context.Context, password string) error {
	_, err := h.Verify(ctx, "", password)
	return err
}

// outdated reports whether p differs in algorithm, cost or size from what Hash makes.
func (h *Hasher) outdated(p parsedHash) bool {
	return p.kind != "argon2id" || p.cost != h.cfg.Cost || len(p.key) != keySize || len(p.salt) != saltSize
}

// turn waits until fewer than Concurrency hashes are being computed.
func (h *Hasher) turn(ctx context.Context) (done func(), err error) {
	wait := time.NewTimer(h.cfg.QueueTimeout)
	defer wait.Stop()
	if h.door != nil {
		if err = enter(ctx, h.door, wait.C); err != nil {
			return nil, err
		}
	}
	leave := func() {
		if h.door != nil {
			<-h.door
		}
	}
	if err = enter(ctx, h.turns, wait.C); err != nil {
		leave()
		return nil, err
	}
	return func() { <-h.turns; leave() }, nil
}

// enter waits for room, no longer than late takes.
func enter(ctx context.Context, room chan<- struct{}, late <-chan time.Time) error {
	select {
	case room <- struct{}{}:
		return nil
	default:
	}
	select {
	case room <- struct{}{}:
		return nil
	case <-late:
		return ErrBusy.WithRetryAfter(time.Second)
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return ErrBusy.WithCause(ctx.Err()).WithRetryAfter(time.Second)
		}
		return fmt.Errorf("wait for a turn to hash: %w", ctx.Err())
	}
}

func (p parsedHash) derive(password string, size uint32) []byte {
	if p.kind == "argon2i" {
		return argon2.Key([]byte(password), p.salt, p.cost.Time, p.cost.MemoryKiB, p.cost.Parallelism, size)
	}
	return argon2.IDKey([]byte(password), p.salt, p.cost.Time, p.cost.MemoryKiB, p.cost.Parallelism, size)
}

func (p parsedHash) matches(password string) bool {
	if p.kind == "bcrypt" {
		seen := []byte(password)[:min(len(password), bcryptSize)]
		return bcrypt.CompareHashAndPassword([]byte(p.encoded), seen) == nil
	}
	return subtle.ConstantTimeCompare(p.key, p.derive(password, uint32(len(p.key)))) == 1 //nolint:gosec // at most 64
}
