package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"rootstream/auth"
	"rootstream/cache"
	"rootstream/event"
	"rootstream/mfa"
	"rootstream/notify"
	"rootstream/postgres"
	"rootstream/secret"
	"rootstream/session"
	"rootstream/stream"
	"rootstream/user"
)

// Parts are the rooms, built from one configuration and connected.
type Parts struct {
	Config   Config
	Log      *slog.Logger
	Registry *prometheus.Registry
	DB       *postgres.DB
	Cache    *cache.Client  // nil without Redis
	Keys     *secret.Keyset // nil without a master key
	Users    *user.Store
	Hasher   *user.Hasher
	Sessions *session.Manager
	MFA      *mfa.Manager
	Streams  *stream.Manager
	Events   *event.Store
	Auth     *auth.Service
	Sender   *notify.Sender

	feedDB *postgres.DB
	geo    *session.Geo
}

// Options says how parts are used.
type Options struct {
	Stderr  io.Writer // where the log goes
	OneShot bool      // one command: few connections, no loops, no metrics
}

// oneShotConns is enough for one command.
const oneShotConns = 4

// Open builds the parts. PostgreSQL need not answer, except to open the keyset.
func Open(ctx context.Context, cfg Config, opt Options) (*Parts, error) {
	if cfg.Postgres.DSN.IsZero() {
		return nil, ErrNoDatabase
	}
	p := &Parts{Config: cfg, Log: newLogger(cfg.Log, opt.Stderr), Registry: prometheus.NewRegistry()}
	p.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if opt.OneShot {
		p.Config.Postgres.MaxConns = oneShotConns
	}
	if err := p.open(ctx); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Parts) open(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		p.openDatabase, p.openKeys, p.openCacheAndSessions, p.openAccounts, p.openAuth,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p *Parts) openDatabase(ctx context.Context) (err error) {
	if p.DB, err = openPostgres(ctx, p.Config, p.Registry); err != nil {
		return err
	}
	// Revocations are read on connections of their own: a busy pool must not make an instance blind.
	feed := p.Config
	feed.Postgres.MaxConns = 2
	p.feedDB, err = openPostgres(ctx, feed, nil)
	p.Events = event.NewStore(p.DB)
	return err
}

// openPostgres opens a pool as the configuration says.
func openPostgres(ctx context.Context, cfg Config, reg prometheus.Registerer) (*postgres.DB, error) {
	return postgres.Open(ctx, postgres.Config{
		DSN: cfg.Postgres.DSN.Reveal(), MaxConns: cfg.Postgres.MaxConns, AcquireTimeout: cfg.Postgres.AcquireTimeout,
		StatementTimeout: cfg.Postgres.StatementTimeout, Registerer: reg,
	})
}

// keysetName is the row of the one keyset there is.
const keysetName = "main"

func (p *Parts) openKeys(ctx context.Context) error {
	file := p.Config.Keys.MasterKeyFile
	if file == "" {
		p.Log.WarnContext(ctx, "no master key: second factors and refresh answer 503 keyset_missing", "setting", "keys.master_key_file")
		return nil
	}
	master, err := secret.LoadMasterKey(file)
	if err != nil {
		return err
	}
	p.Keys, err = secret.Open(ctx, p.DB, master, keysetName)
	if err != nil {
		return fmt.Errorf("open the keyset: %w", err)
	}
	return nil
}

func (p *Parts) openCacheAndSessions(ctx context.Context) (err error) {
	var manager *session.Manager
	if p.Cache, err = p.openCache(ctx, func(keys []string) {
		if manager != nil {
			manager.Invalidate(keys)
		}
	}); err != nil {
		return err
	}
	cfg := session.Config{
		DB: p.DB, FeedDB: p.feedDB, Cache: p.Cache, Keys: p.Keys, Policies: policies(p.Config.Session),
		MaxSessions: p.Config.Session.Limit, OnLimit: session.LimitRule(p.Config.Session.LimitPolicy),
		NearCapacity: p.Config.Session.NearCapacity, MaxBlind: p.Config.Session.MaxBlind, Keep: p.Config.Session.RetainExpired,
		Registerer: p.Registry, Logger: p.Log,
	}
	if file := p.Config.Session.GeoIPFile; file != "" {
		if p.geo, err = session.OpenGeo(file); err != nil {
			return err
		}
		cfg.Locate = p.geo.Locate
	}
	manager, err = session.New(cfg)
	p.Sessions = manager
	return err
}

// policies maps the configured lifetimes to the classes of sessions.
func policies(c SessionConfig) map[string]session.Policy {
	idle := func(l SessionLifetimeConfig) time.Duration {
		if l.Idle == l.Absolute {
			return 0
		}
		return l.Idle
	}
	return map[string]session.Policy{
		session.ClassUser: {
			Absolute: c.User.Absolute, Idle: idle(c.User),
			RememberAbsolute: c.Remembered.Absolute, RememberIdle: idle(c.Remembered),
		},
		session.ClassCreator: {Absolute: c.Creator.Absolute, Idle: idle(c.Creator)},
		session.ClassAdmin:   {Absolute: c.Admin.Absolute, Idle: idle(c.Admin)},
	}
}

// openCache connects to Redis as configured; nil without any.
func (p *Parts) openCache(ctx context.Context, invalidate func([]string)) (*cache.Client, error) {
	r := p.Config.Redis
	if r.URL.IsZero() && r.SentinelMaster == "" && len(r.ClusterAddrs) == 0 {
		p.Log.WarnContext(ctx, "no Redis is configured: everything is read from PostgreSQL", "setting", "redis.url")
		return nil, nil //nolint:nilnil // no Redis is a legal state that every part knows
	}
	cfg := cache.Config{CommandTimeout: r.CommandTimeout, OnInvalidate: invalidate, Registerer: p.Registry, Logger: p.Log}
	switch {
	case r.SentinelMaster != "" || len(r.ClusterAddrs) > 0:
		if !r.URL.IsZero() { // gives the account, the addresses come from elsewhere
			u, err := url.Parse(r.URL.Reveal())
			if err != nil {
				return nil, cache.ErrBadURL
			}
			cfg.Username = u.User.Username()
			cfg.Password, _ = u.User.Password()
		}
		cfg.Cluster, cfg.Addrs = len(r.ClusterAddrs) > 0, r.ClusterAddrs
		cfg.Sentinel = cache.SentinelConfig{Master: r.SentinelMaster, Addrs: r.SentinelAddrs, Password: r.SentinelPassword.Reveal()}
	default:
		cfg.URL = r.URL.Reveal()
	}
	return cache.Open(ctx, cfg)
}

func (p *Parts) openAccounts(context.Context) (err error) {
	p.Hasher = user.NewHasher(user.HasherConfig{Queue: p.Config.Auth.HashQueue})
	p.Users = user.NewStore(p.DB)
	if p.MFA, err = mfa.New(p.DB, p.Keys, mfa.Config{Issuer: p.Config.MFA.Issuer, Strict: p.Config.MFA.Strict, Derive: p.Hasher.Derive, Logger: p.Log}); err != nil {
		return err
	}
	p.Streams, err = stream.New(p.DB, p.Cache, stream.Config{Logger: p.Log})
	return err
}

func (p *Parts) openAuth(context.Context) error { return errors.New("not yet") }

// loops are what runs as long as the process, each a Run(ctx).
func (p *Parts) loops() []func(context.Context) error {
	loops := []func(context.Context) error{
		p.Sessions.Run, p.MFA.Run, p.Streams.Run, p.Auth.Run, p.Sender.Run,
		event.Importer{DB: p.DB, Logger: p.Log}.Run,
	}
	if p.Keys != nil {
		loops = append(loops, p.Keys.Run)
	}
	return loops
}

// Run runs every loop until ctx ends or one of them fails.
func (p *Parts) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, loop := range p.loops() {
		g.Go(func() error { return loop(ctx) })
	}
	return g.Wait()
}

// Close gives back connections and files; it may be called on parts that were never wholly built.
func (p *Parts) Close() {
	if p.Cache != nil {
		p.Cache.Close()
	}
	for _, db := range []*postgres.DB{p.feedDB, p.DB} {
		if db != nil {
			db.Close()
		}
	}
	if p.geo != nil {
		_ = p.geo.Close()
	}
}

// newLogger writes the log as configured.
func newLogger(c LogConfig, w io.Writer) *slog.Logger {
	if w == nil {
		w = io.Discard
	}
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // validated when it was loaded
	opts := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

func prefixes(networks []string) []netip.Prefix {
	list := make([]netip.Prefix, 0, len(networks))
	for _, n := range networks {
		if p, err := netip.ParsePrefix(n); err == nil { // validated when it was loaded
			list = append(list, p.Masked())
		}
	}
	return list
}
