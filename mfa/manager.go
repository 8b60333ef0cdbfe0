package mfa

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"rootstream/event"
	"rootstream/postgres"
	"rootstream/secret"
)

// Method is a way to prove the second factor.
type Method string

// The methods there are.
const (
	TOTP       Method = "totp"
	BackupCode Method = "backup_code"
)

// Config tunes a [Manager]. Zero values mean the defaults.
type Config struct {
	Issuer        string        // name shown in the authenticator; "" means RootStream
	Strict        bool          // accept the current and the previous step only, not the next one
	MaxTries      int           // tries an account has in one window; 0 means 5
	Window        time.Duration // length of that window; 0 means 15m
	SuspendAfter  int           // failures that suspend an account's factors; 0 means 100
	SuspendWindow time.Duration // how far back failures count for that; 0 means 30 days
	PendingFor    time.Duration // how long an enrolment waits for its first code; 0 means 10m
	KeepAttempts  time.Duration // how long tries are kept; 0 means 90 days
	SweepEvery    time.Duration // between clean-ups of Run; 0 means 5m

	// Derive turns a backup code and its salt into the hash that is kept; nil
	// means Argon2id (19 MiB, 2 passes) on all but one core at a time. Give the
	// hasher of passwords to share one limit.
	Derive func(ctx context.Context, password, salt []byte) ([]byte, error)
	// Now replaces the database's clock; nil means the database's.
	Now    func() time.Time
	Logger *slog.Logger // nil means slog.Default
}

func (c Config) withDefaults() Config {
	day := 24 * time.Hour
	c.Issuer = cmp.Or(c.Issuer, "RootStream")
	c.MaxTries = cmp.Or(c.MaxTries, 5)
	c.Window = cmp.Or(c.Window, 15*time.Minute)
	c.SuspendAfter = cmp.Or(c.SuspendAfter, 100)
	c.SuspendWindow = cmp.Or(c.SuspendWindow, 30*day)
	c.PendingFor = cmp.Or(c.PendingFor, 10*time.Minute)
	c.KeepAttempts = cmp.Or(c.KeepAttempts, 90*day)
	c.SweepEvery = cmp.Or(c.SweepEvery, 5*time.Minute)
	if c.Derive == nil {
		c.Derive = newDerive()
	}
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return c
}

func (c Config) validate() error {
	var faults []error
	for _, n := range []struct {
		name  string
		value int64
	}{
		{"MaxTries", int64(c.MaxTries)},
		{"Window", int64(c.Window)},
		{"SuspendAfter", int64(c.SuspendAfter)},
		{"SuspendWindow", int64(c.SuspendWindow)},
		{"PendingFor", int64(c.PendingFor)},
		{"KeepAttempts", int64(c.KeepAttempts)},
		{"SweepEvery", int64(c.SweepEvery)},
	} {
		if n.value < 0 {
			faults = append(faults, fmt.Errorf("mfa: %s must not be negative", n.name))
		}
	}
	if c.KeepAttempts != 0 && c.KeepAttempts < cmp.Or(c.SuspendWindow, 30*24*time.Hour) {
		faults = append(faults, errors.New("mfa: KeepAttempts must reach as far back as SuspendWindow"))
	}
	return errors.Join(faults...)
}

// Manager enrols, verifies and removes second factors. It is safe for concurrent use.
type Manager struct {
	db   *postgres.DB
	keys *secret.Keyset
	cfg  Config
}

// New makes a Manager. Without a keyset everything that seals or unseals
// answers secret.ErrKeysetMissing.
func New(db *postgres.DB, keys *secret.Keyset, cfg Config) (*Manager, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Manager{db: db, keys: keys, cfg: cfg.withDefaults()}, nil
}

// Account is whose factor it is.
type Account struct {
	UserID       int64     // users.id
	UserPublicID uuid.UUID // users.public_id
	Label        string    // name shown in the authenticator, such as the e-mail address
}

// clock is the time as statements take it: nil lets the database use its own.
func (m *Manager) clock() *time.Time {
	if m.cfg.Now == nil {
		return nil
	}
	t := m.cfg.Now().UTC()
	return &t
}

// tell appends an event to the account's history.
func tell(tx *postgres.Tx, user uuid.UUID, name string, data map[string]any) error {
	return tellBy(tx, user, user, name, data)
}

// tellBy is tell for what somebody else did; uuid.Nil means nobody with an account.
func tellBy(tx *postgres.Tx, user, by uuid.UUID, name string, data map[string]any) error {
	e := event.New{Aggregate: event.Ref{Type: "user", ID: user}, Name: name, Data: data, UserID: &user, Expect: event.Any}
	if by != uuid.Nil && by != user {
		e.ActorID = &by
	}
	return event.Append(tx, e)
}

// bind names what a sealed TOTP secret belongs to: it opens in its own row only.
func bind(factor, user uuid.UUID) secret.AD {
	return secret.AD{Table: "user_mfa", Column: "secret", Row: factor.String(), User: user.String()}
}

// address is ip as a column value: null where it is not known.
func address(ip netip.Addr) *netip.Addr {
	if !ip.IsValid() {
		return nil
	}
	ip = ip.Unmap().WithZone("")
	return &ip
}
