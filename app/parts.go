package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"rootstream/app/config"
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
	Config   config.Config
	Log      *slog.Logger
	Registry *prometheus.Registry
	DB       *postgres.DB
	Cache    *cache.Client  // nil without Redis
	Keys     *secret.Keyset // nil without a master key
	Users    *user.Store
	Hasher   *user.Hasher
	Sessions *session.Manager
	MFA      *mfa.Manager
	Streams  Streams
	Events   *event.Store
	Appender *event.Log
	Sync     *Sync
	Auth     *auth.Service
	Sender   *notify.Sender

	feedDB *postgres.DB
	served *servedBackups // nil where no backups are configured
	schema *event.Schema
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
func Open(ctx context.Context, cfg config.Config, opt Options) (*Parts, error) {
	if cfg.Postgres.DSN.IsZero() {
		return nil, config.ErrNoDatabase
	}
	if opt.OneShot && cfg.Log.Level == "info" {
		cfg.Log.Level = "warn" // a command's own output says what it did
	}
	p := &Parts{Config: cfg, Log: cfg.Log.Logger(opt.Stderr), Registry: prometheus.NewRegistry()}
	if cfg.Backup.Repo != "" && !opt.OneShot {
		p.served = &servedBackups{p: p}
	}
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
		p.openDatabase, p.openKeys, p.openCacheAndSessions, p.openSync, p.openAccounts, p.openAuth,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p *Parts) openDatabase(ctx context.Context) (err error) {
	if p.DB, err = openPostgres(ctx, p.Config, p.Registry, p.committed); err != nil {
		return err
	}
	// Revocations are read on connections of their own: a busy pool must not make an instance blind.
	feed := p.Config
	feed.Postgres.MaxConns = 2
	p.feedDB, err = openPostgres(ctx, feed, nil, nil)
	p.schema = event.NewSchema()
	p.Events = event.NewStore(p.DB).With(p.schema)
	return err
}

// openPostgres opens a pool as the configuration says.
func openPostgres(ctx context.Context, cfg config.Config, reg prometheus.Registerer, committed func(*postgres.Tx)) (*postgres.DB, error) {
	return postgres.Open(ctx, postgres.Config{
		DSN: cfg.Postgres.DSN.Reveal(), MaxConns: cfg.Postgres.MaxConns, AcquireTimeout: cfg.Postgres.AcquireTimeout,
		StatementTimeout: cfg.Postgres.StatementTimeout, Registerer: reg, OnCommit: committed,
	})
}

func (p *Parts) openKeys(ctx context.Context) error {
	file := p.Config.Keys.MasterKeyFile
	if file == "" {
		p.Log.WarnContext(ctx, "no master key: second factors and refresh answer 503 keyset_missing", "setting", "keys.master_key_file")
		return nil
	}
	master, err := secret.LoadMasterKey(file)
	if errors.Is(err, secret.ErrMasterKeyMissing) { // without a key the rest goes on; with a wrong one nothing should
		p.Log.ErrorContext(ctx, "the master key file is missing: second factors and refresh answer 503 keyset_missing", "file", file)
		return nil
	}
	if err != nil {
		return err
	}
	p.Keys, err = secret.Open(ctx, p.DB, master, config.KeysetName)
	if err != nil {
		return fmt.Errorf("open the keyset: %w", err)
	}
	return nil
}

func (p *Parts) openCacheAndSessions(ctx context.Context) (err error) {
	// Redis may speak before the manager is there; what it says then concerns nothing that is cached.
	var manager atomic.Pointer[session.Manager]
	if p.Cache, err = p.openCache(ctx, func(keys []string) {
		if m := manager.Load(); m != nil {
			m.Invalidate(keys)
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
	if p.Sessions, err = session.NewManager(cfg); err != nil {
		return err
	}
	manager.Store(p.Sessions)
	return nil
}

// policies maps the configured lifetimes to the classes of sessions.
func policies(c config.Session) map[string]session.Policy {
	idle := func(l config.SessionLifetime) time.Duration {
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
	if !p.Config.Redis.Configured() {
		p.Log.WarnContext(ctx, "no Redis is configured: everything is read from PostgreSQL", "setting", "redis.url")
		return nil, nil //nolint:nilnil // no Redis is a legal state that every part knows
	}
	cfg, err := p.Config.Redis.Client()
	if err != nil {
		return nil, err
	}
	cfg.OnInvalidate, cfg.Registerer, cfg.Logger = invalidate, p.Registry, p.Log
	return cache.Open(ctx, cfg)
}

func (p *Parts) openAccounts(context.Context) (err error) {
	if p.Hasher, err = user.NewHasher(user.HasherConfig{QueueTimeout: p.Config.Auth.HashQueue}); err != nil {
		return err
	}
	p.Users = user.NewStore(p.DB)
	c := p.Config.MFA
	if p.MFA, err = mfa.New(p.DB, p.Keys, mfa.Config{Issuer: c.Issuer, Strict: c.Strict, Derive: p.Hasher.Derive, Logger: p.Log}); err != nil {
		return err
	}
	cfg := stream.Config{MaxStreams: p.Config.Streams.PerAccount, MaxViewers: p.Config.Streams.ViewersPerAccount, Logger: p.Log}
	if p.Keys != nil {
		cfg.Keys = p.Keys
	}
	streams, err := stream.New(p.DB, p.Cache, cfg)
	p.Streams = NewStreams(streams, p.DB)
	return err
}

func (p *Parts) openAuth(context.Context) (err error) {
	c := p.Config.Auth
	rules, err := user.NewRules(user.RulesConfig{MinPassword: c.PasswordMinLength})
	if err != nil {
		return err
	}
	if p.Sender, err = p.openSender(); err != nil {
		return err
	}
	p.Auth, err = auth.New(auth.Deps{
		DB: p.DB, Users: p.Users, Rules: rules, Hasher: p.Hasher, Sessions: p.Sessions, MFA: p.MFA,
		Limiter: p.limiter(), Cache: p.Cache, Keyset: p.Keys, Enqueue: p.Sender.Enqueue, Logger: p.Log,
		Streams: p.exportStreams, Erase: p.eraseAccount,
		Config: auth.Config{
			ChallengeFor: c.ChallengeTTL, FreshFor: c.FreshFor, FactorRequired: c.FactorRequired, NoSignInMail: !c.SignInMail,
			EmailChangeFor: c.EmailChangeTTL, EmailUndoFor: c.EmailUndoTTL, Rate: auth.Rates(c.Rate),
		},
	})
	return err
}

// maxExported bounds how many streams one export names.
const maxExported = 200

// exportStreams is the part of an account's export that lies in streams.
func (p *Parts) exportStreams(ctx context.Context, id uuid.UUID) (any, error) {
	u, err := p.Users.ByPublicID(ctx, id)
	if err != nil {
		return nil, err
	}
	page, err := p.Streams.Streams(ctx, stream.Account{ID: u.ID, PublicID: id}, stream.Filter{List: stream.List{Limit: maxExported}, Mine: true})
	return page.Items, err
}

// eraseAccount ends an account's streams and removes the values that its past holds, all but those of the log of its end.
func (p *Parts) eraseAccount(ctx context.Context, tx *postgres.Tx, u user.User) error {
	err := p.Streams.DeleteAll(ctx, tx, stream.Account{ID: u.ID, PublicID: u.PublicID}, func(id uuid.UUID) error {
		_, err := p.Sync.Erase(ctx, tx, event.Ref{Type: "stream", ID: id})
		return err
	})
	if err == nil {
		_, err = p.Sync.Erase(ctx, tx, event.Ref{Type: "user", ID: u.PublicID})
	}
	return err
}

// limiter counts attempts in Redis; nil without Redis, then auth counts in process.
func (p *Parts) limiter() *cache.Limiter {
	if p.Cache == nil {
		return nil
	}
	pepper, err := p.Keys.OldestMAC("auth.limiter") // for all instances the same, also while a key is rotated
	if err != nil {
		return cache.NewLimiter(p.Cache, cache.LimiterConfig{})
	}
	return cache.NewLimiter(p.Cache, cache.LimiterConfig{Pepper: pepper[:]})
}

func (p *Parts) openSender() (*notify.Sender, error) {
	cfg := p.Config.Notify()
	cfg.Renderers = auth.Renderers(p.Users, p.Sessions, auth.MailConfig{PublicURL: p.Config.PublicURL()})
	cfg.Logger, cfg.Registerer = p.Log, p.Registry
	return notify.New(p.DB, cfg)
}

// loops are what runs as long as the process, each a Run(ctx).
func (p *Parts) loops() []func(context.Context) error {
	loops := []func(context.Context) error{
		p.Sessions.Run, p.MFA.Run, p.Streams.Run, p.Auth.Run, p.Sender.Run,
		event.Importer{DB: p.DB, Logger: p.Log}.Run, p.Appender.Run, p.Sync.Run,
	}
	if p.Keys != nil {
		loops = append(loops, p.Keys.Run)
	}
	if p.served != nil {
		loops = append(loops, p.served.Run)
	}
	if len(p.Config.Webhooks) > 0 {
		loops = append(loops, p.webhookRelay().Run)
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

func prefixes(networks []string) []netip.Prefix {
	list := make([]netip.Prefix, 0, len(networks))
	for _, n := range networks {
		if p, err := netip.ParsePrefix(n); err == nil { // validated when it was loaded
			list = append(list, p.Masked())
		}
	}
	return list
}
