package secret

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"rootstream/errs"
	"rootstream/postgres"
)

// kickDelay bounds how often values with an unknown key make Run ask the database.
const kickDelay = 100 * time.Millisecond

// Config says how a keyset is kept. Zero values mean the defaults.
type Config struct {
	Name        string        // row of the table keysets; empty means "main"
	RotateAfter time.Duration // how long a new key is known before it is used; 0 means 30s
	Poll        time.Duration // between looks for what others rotated; 0 means 10s
	Logger      *slog.Logger  // nil means slog.Default
}

func (c Config) withDefaults() Config {
	if c.Name == "" {
		c.Name = "main"
	}
	if c.RotateAfter == 0 {
		c.RotateAfter = 30 * time.Second
	}
	if c.Poll == 0 {
		c.Poll = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Logger = c.Logger.With("component", "secret")
	return c
}

// Keyset seals, unseals and authenticates. It is safe for concurrent use; a
// nil *Keyset answers ErrKeysetMissing.
type Keyset struct {
	db   *postgres.DB
	cfg  Config
	ring atomic.Pointer[ring]
	load sync.Mutex    // one reload at a time, so that an older one cannot win
	kick chan struct{} // a value was met whose key is unknown
}

// Open opens the named keyset with the default configuration, creating it on
// first use; of several processes that create it at once, one does.
func Open(ctx context.Context, db *postgres.DB, master MasterKey, name string) (*Keyset, error) {
	return OpenWith(ctx, db, master, Config{Name: name})
}

// OpenWith is [Open] with a configuration.
func OpenWith(ctx context.Context, db *postgres.DB, master MasterKey, cfg Config) (*Keyset, error) {
	cfg = cfg.withDefaults()
	if master.IsZero() {
		return nil, ErrKeysetMissing
	}
	k := &Keyset{db: db, cfg: cfg, kick: make(chan struct{}, 1)}
	row, err := readRow(ctx, db, cfg.Name)
	if errors.Is(err, postgres.ErrNoRows) {
		if err = createRow(ctx, db, master, cfg.Name); err != nil {
			return nil, err
		}
		row, err = readRow(ctx, db, cfg.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("read keyset %s: %w", cfg.Name, err)
	}
	r, err := unwrap(row, master)
	if err != nil {
		return nil, err
	}
	k.ring.Store(r)
	return k, nil
}

// KeyStatus is one key of a keyset.
type KeyStatus struct {
	ID      uint32    `json:"id"`
	State   string    `json:"state"` // primary, pending, or old: opens and verifies only
	AddedAt time.Time `json:"added_at"`
}

// Status is what an operator wants to know of a keyset.
type Status struct {
	Name      string      `json:"name"`
	Revision  int64       `json:"revision"`
	MasterKey string      `json:"master_key"` // its fingerprint
	Keys      []KeyStatus `json:"keys"`       // oldest first
	PromoteAt *time.Time  `json:"promote_at"` // when the pending key takes over; nil without one
	UpdatedAt time.Time   `json:"updated_at"`
}

// Status reads the keyset from the database and proves that it opens.
func (k *Keyset) Status(ctx context.Context) (Status, error) {
	if k == nil {
		return Status{}, ErrKeysetMissing
	}
	row, err := readRow(ctx, k.db, k.cfg.Name)
	if err != nil {
		return Status{}, fmt.Errorf("read keyset %s: %w", k.cfg.Name, err)
	}
	r, err := unwrapAgain(row, k.ring.Load().master)
	if err != nil {
		return Status{}, err
	}
	s := Status{Name: row.name, Revision: row.revision, MasterKey: r.master.ID(), UpdatedAt: row.updatedAt.UTC()}
	for i, key := range r.meta.Keys {
		ks := KeyStatus{ID: key.Seal, State: "old", AddedAt: time.UnixMilli(key.AddedAt).UTC()}
		switch {
		case i == r.meta.Primary:
			ks.State = "primary"
		case i > r.meta.Primary:
			ks.State = "pending"
		}
		s.Keys = append(s.Keys, ks)
	}
	if r.pending() {
		at := time.UnixMilli(r.meta.PromoteAt).UTC()
		s.PromoteAt = &at
	}
	return s, nil
}

// Reload reads the keyset again.
func (k *Keyset) Reload(ctx context.Context) error {
	if k == nil {
		return ErrKeysetMissing
	}
	k.load.Lock()
	defer k.load.Unlock()
	have := k.ring.Load()
	revision, err := readRevision(ctx, k.db, k.cfg.Name)
	if err != nil {
		return fmt.Errorf("read keyset %s: %w", k.cfg.Name, err)
	}
	if revision == have.revision {
		return nil
	}
	row, err := readRow(ctx, k.db, k.cfg.Name)
	if err != nil {
		return fmt.Errorf("read keyset %s: %w", k.cfg.Name, err)
	}
	r, err := unwrapAgain(row, have.master)
	if err != nil {
		return err
	}
	k.ring.Store(r)
	return nil
}

// unwrapAgain is unwrap for a process that opened the keyset before: when the
// master key was changed meanwhile, the new one is in the same file.
func unwrapAgain(row keysetRow, master MasterKey) (*ring, error) {
	r, err := unwrap(row, master)
	if errs.CodeOf(err) != ErrWrongMasterKey.Code || master.path == "" {
		return r, err
	}
	changed, loadErr := LoadMasterKey(master.path)
	if loadErr != nil {
		return nil, errors.Join(err, loadErr)
	}
	return unwrap(row, changed)
}

// Run picks up what other processes rotated and promotes a pending key when
// its time has come.
func (k *Keyset) Run(ctx context.Context) error {
	if k == nil {
		<-ctx.Done()
		return nil
	}
	failing := false
	for {
		wait, err := k.follow(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // a wanted stop
		}
		if failing != (err != nil) {
			failing = err != nil
			if failing {
				k.cfg.Logger.WarnContext(ctx, "keyset cannot be followed", "keyset", k.cfg.Name, "err", err)
			} else {
				k.cfg.Logger.InfoContext(ctx, "keyset is followed again", "keyset", k.cfg.Name)
			}
		}
		k.rest(ctx, wait)
	}
}

// rest waits until the next round, or until shortly after a value with an unknown key was met.
func (k *Keyset) rest(ctx context.Context, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-timer.C:
		return
	case <-k.kick:
		timer.Reset(kickDelay)
	}
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// follow does one round of Run and returns how long to wait for the next.
func (k *Keyset) follow(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := k.Reload(ctx); err != nil {
		return k.cfg.Poll, err
	}
	if !k.ring.Load().pending() {
		return k.cfg.Poll, nil
	}
	left, err := k.promote(ctx)
	if err != nil {
		return k.cfg.Poll, err
	}
	if left == 0 {
		return k.cfg.Poll, k.Reload(ctx)
	}
	return min(left, k.cfg.Poll), nil
}
