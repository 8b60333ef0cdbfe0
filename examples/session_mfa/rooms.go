package main

import (
	"context"
	"crypto/rand"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"rootstream/app/config"
	"rootstream/auth"
	"rootstream/cache"
	"rootstream/mfa"
	"rootstream/notify"
	"rootstream/postgres"
	"rootstream/secret"
	"rootstream/session"
	"rootstream/user"
)

// servers say where to find PostgreSQL and Redis.
type servers struct{ data, postgres, redis string }

// rooms are the parts the example uses, joined as package app joins all of them.
type rooms struct {
	db       *postgres.DB
	cache    *cache.Client // nil without Redis
	sessions *session.Manager
	auth     *auth.Service
	stop     func()
}

// open joins the rooms and starts the loop of the sessions.
func open(ctx context.Context, at servers, log *slog.Logger) (_ *rooms, err error) {
	cfg := config.Config{}
	if at.data != "" {
		if cfg, err = config.Resolve(config.Source{}, at.data); err != nil {
			return nil, err
		}
		at.postgres, at.redis = cfg.Postgres.DSN.Reveal(), cfg.Redis.URL.Reveal()
	}
	if _, err = postgres.Migrate(ctx, at.postgres, postgres.MigrateOptions{Rolling: true, Logger: log}); err != nil {
		return nil, err
	}
	r := &rooms{stop: func() {}}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if r.db, err = postgres.Open(ctx, postgres.Config{DSN: at.postgres, Logger: log}); err != nil {
		return nil, err
	}
	// Redis may speak before the manager is there; what it says then concerns nothing that is cached.
	var manager atomic.Pointer[session.Manager]
	if at.redis != "" {
		forget := func(keys []string) {
			if m := manager.Load(); m != nil {
				m.Invalidate(keys)
			}
		}
		if r.cache, err = cache.Open(ctx, cache.Config{URL: at.redis, OnInvalidate: forget, Logger: log}); err != nil {
			return nil, err
		}
	}
	keys, forgetKeys, err := openKeys(ctx, r.db, cfg.Keys.MasterKeyFile)
	if err != nil {
		return nil, err
	}
	r.stop = forgetKeys
	if r.sessions, err = session.NewManager(session.Config{DB: r.db, Cache: r.cache, Keys: keys, Logger: log}); err != nil {
		return nil, err
	}
	manager.Store(r.sessions)
	if err = r.run(ctx); err != nil {
		return nil, err
	}
	r.auth, err = openAuth(r, keys, log)
	return r, err
}

// openKeys opens the system's keyset, or makes one that is forgotten at the end.
func openKeys(ctx context.Context, db *postgres.DB, masterKeyFile string) (*secret.Keyset, func(), error) {
	if masterKeyFile != "" {
		master, err := secret.LoadMasterKey(masterKeyFile)
		if err != nil {
			return nil, func() {}, err
		}
		keys, err := secret.Open(ctx, db, master, "main")
		return keys, func() {}, err
	}
	master, err := secret.NewMasterKey([]byte(rand.Text() + rand.Text()))
	if err != nil {
		return nil, func() {}, err
	}
	name := "session_mfa_" + strings.ToLower(rand.Text()[:10])
	keys, err := secret.Open(ctx, db, master, name)
	return keys, func() {
		_, _ = db.Exec(context.WithoutCancel(ctx), "delete from keysets where name = $1", name)
	}, err
}

func openAuth(r *rooms, keys *secret.Keyset, log *slog.Logger) (*auth.Service, error) {
	hasher, err := user.NewHasher(user.HasherConfig{})
	if err != nil {
		return nil, err
	}
	factors, err := mfa.New(r.db, keys, mfa.Config{Issuer: "Example", Derive: hasher.Derive, Logger: log})
	if err != nil {
		return nil, err
	}
	var limiter *cache.Limiter // nil counts attempts in this process
	if r.cache != nil {
		limiter = cache.NewLimiter(r.cache, cache.LimiterConfig{})
	}
	return auth.New(auth.Deps{
		DB: r.db, Users: user.NewStore(r.db), Hasher: hasher, Sessions: r.sessions, MFA: factors,
		Limiter: limiter, Cache: r.cache, Keyset: keys, Logger: log,
		Enqueue: func(*postgres.Tx, notify.Message) error { return nil }, // nobody reads this visitor's mail
	})
}

// run keeps the sessions' manager up to date about revocations until stop is called.
func (r *rooms) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	done, before := make(chan struct{}), r.stop
	go func() {
		defer close(done)
		_ = r.sessions.Run(ctx) // ends when it is told to; without news it makes Validate refuse
	}()
	r.stop = func() {
		cancel()
		<-done
		before()
	}
	for !r.sessions.Ready() { // until it has heard of revocations, it accepts no token
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// close ends what open began.
func (r *rooms) close() {
	r.stop()
	if r.cache != nil {
		r.cache.Close()
	}
	if r.db != nil {
		r.db.Close()
	}
}
