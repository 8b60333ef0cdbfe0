package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"rootstream/api"
	"rootstream/app/config"
	"rootstream/errs"
	"rootstream/postgres"
)

// Serve runs the API until ctx ends. It waits for PostgreSQL, expands the
// schema, and writes the ready line to stdout once requests can be answered.
func Serve(ctx context.Context, cfg config.Config, stdout, stderr io.Writer) error {
	logger := cfg.Log.Logger(stderr)
	if cfg.Postgres.DSN.IsZero() {
		return config.ErrNoDatabase
	}
	if err := cfg.MayListen(); err != nil {
		return err
	}
	if err := prepareSchema(ctx, cfg, logger); err != nil {
		return err
	}
	boundMemory(cfg.Session.NearCapacity)
	p, err := Open(ctx, cfg, Options{Stderr: stderr})
	if err != nil {
		return err
	}
	defer p.Close()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.HTTP.Listen)
	if err != nil {
		return errs.New(errs.Conflict, "listen", "cannot listen on "+cfg.HTTP.Listen).WithCause(err).
			WithHint("choose another address with --listen HOST:PORT")
	}
	g, ctx := errgroup.WithContext(ctx)
	loops, stop := context.WithCancel(context.WithoutCancel(ctx)) // they end after the last request
	g.Go(func() error { return p.Run(loops) })
	g.Go(func() error {
		defer stop()
		return p.serveHTTP(ctx, listener)
	})
	g.Go(func() error { return p.announce(ctx, listener.Addr(), stdout, stderr) })
	return g.Wait()
}

// boundMemory lets the garbage collector rest until the process has grown to a
// bound, and work harder there: each password hashed leaves 19 MiB behind.
func boundMemory(nearCapacity int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(192<<20 + int64(nearCapacity)*256)
	}
}

const retryEvery = time.Second

// prepareSchema waits for PostgreSQL to answer and applies what only expands.
func prepareSchema(ctx context.Context, cfg config.Config, logger *slog.Logger) error {
	for said := false; ; {
		steps, err := postgres.Migrate(ctx, cfg.Postgres.DSN.Reveal(),
			postgres.MigrateOptions{Rolling: true, LegacyTimezone: cfg.Postgres.LegacyTimezone})
		switch {
		case err == nil:
			for _, s := range steps {
				logger.InfoContext(ctx, "migrated", "step", s.Name)
			}
			return nil
		case ctx.Err() != nil:
			return nil //nolint:nilerr // a wanted stop
		case errs.KindOf(err) != errs.Unavailable:
			return err
		case !said:
			logger.WarnContext(ctx, "waiting for PostgreSQL", "err", err)
			said = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryEvery):
		}
	}
}

// api builds the HTTP API over the parts.
func (p *Parts) api() *api.Server {
	tokens := map[string]string{}
	for _, t := range p.Config.ServiceTokens {
		tokens[t.Token.Reveal()] = t.Name
	}
	return api.New(api.Deps{
		Auth: p.Auth, Sessions: p.Sessions, Factors: p.MFA, Users: p.Users, Streams: p.Streams, Events: p.Events,
		State: p.Sync, StateTypes: p.Sync.apiTypes(), Checks: p.checks(), Backups: p.backups(), MinPassword: p.Config.Auth.PasswordMinLength,
	}, api.Config{
		Version: config.Version(), TrustedProxies: prefixes(p.Config.HTTP.TrustedProxies), ServiceTokens: tokens,
		RequestTimeout: p.Config.HTTP.Timeout, Registerer: p.Registry,
		MaxWatches: p.Config.Sync.Watches, MaxWatchesPerAccount: p.Config.Sync.WatchesPerAccount,
		Metrics: promhttp.HandlerFor(p.Registry, promhttp.HandlerOpts{}), Logger: p.Log,
	})
}

// errNoRevocations is an instance that would refuse every session.
var errNoRevocations = errs.New(errs.Unavailable, "revocations_unknown", "revocations have not been read lately")

// checks are what readiness depends on.
func (p *Parts) checks() []api.Check {
	checks := []api.Check{
		{Name: "postgresql", Required: true, Probe: func(ctx context.Context) error {
			_, err := p.DB.Exec(ctx, "select 1 from users, sessions, events limit 0")
			return err
		}},
		{Name: "revocations", Required: true, Probe: func(context.Context) error {
			if !p.Sessions.Ready() {
				return errNoRevocations
			}
			return nil
		}},
		{Name: "sync", Required: true, Probe: p.Sync.probe},
	}
	if p.Cache != nil {
		checks = append(checks, api.Check{Name: "redis", Probe: p.Cache.Ping})
	}
	return checks
}

func (p *Parts) serveHTTP(ctx context.Context, l net.Listener) error {
	c := p.Config.HTTP
	handler := p.api()
	srv := &http.Server{
		Handler: handler,
		// A read deadline that passes under a handler ends the context of its whole connection, so none may outlast it.
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: c.Timeout + 15*time.Second,
		WriteTimeout: c.Timeout + 10*time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(p.Log.Handler(), slog.LevelDebug),
	}
	srv.RegisterOnShutdown(handler.EndWatches)
	done := make(chan error, 1)
	go func() {
		if c.TLSCert != "" {
			done <- srv.ServeTLS(l, c.TLSCert, c.TLSKey)
		} else {
			done <- srv.Serve(l)
		}
	}()
	select {
	case err := <-done:
		return fmt.Errorf("serve HTTP: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.ShutdownGrace)
	defer cancel()
	err := srv.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	if served := <-done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// announce writes the ready line once requests can be answered.
func (p *Parts) announce(ctx context.Context, at net.Addr, stdout, stderr io.Writer) error {
	for _, c := range p.checks() {
		for c.Required {
			err := c.Probe(ctx)
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(50 * time.Millisecond):
			}
		}
		if !c.Required && c.Probe(ctx) != nil {
			_, _ = fmt.Fprintf(stderr, "rootstream: %s does not answer: everything works, more slowly\n", c.Name)
		}
	}
	_, err := fmt.Fprintf(stdout, "rootstream is ready: %s\n", config.URLOf(at.String(), p.Config.HTTP.TLSCert != ""))
	return err
}
