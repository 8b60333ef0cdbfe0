package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"rootstream/cache"
	"rootstream/devstack"
	"rootstream/internal/wait"
	"rootstream/pgserver"
	"rootstream/postgres"
	"rootstream/secret"
	"rootstream/session"
)

// stack is the servers that everything is measured on, and what lies in them.
type stack struct {
	options
	stderr io.Writer
	begun  time.Time
	dir    string

	pg       *pgserver.Server
	dsn      string
	password string
	redis    *child
	redisURL string
	redisAt  string // host:port

	db   *postgres.DB
	keys *secret.Keyset
	key  string // file of the master key

	data    data
	closers []func() error
}

const (
	database  = "rootstream"
	redisPass = "bench-redis-password"
	patience  = 2 * time.Minute
)

// startStack starts PostgreSQL and Redis as `rootstream up` configures them.
func startStack(ctx context.Context, o options, stderr io.Writer) (_ *stack, err error) {
	s := &stack{options: o, stderr: stderr, begun: time.Now()}
	if s.dir, err = os.MkdirTemp("", "rootstream-bench-"); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error { return os.RemoveAll(s.dir) })
	for _, step := range []func(context.Context) error{s.startPostgres, s.startRedis, s.openDatabase} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

// say tells the reader of standard error what is going on.
func (s *stack) say(format string, args ...any) {
	_, _ = fmt.Fprintf(s.stderr, "%7.1fs  %s\n", time.Since(s.begun).Seconds(), fmt.Sprintf(format, args...))
}

func (s *stack) close() error {
	var all error
	for _, end := range slices.Backward(s.closers) {
		all = errors.Join(all, end())
	}
	s.closers = nil
	return all
}

// postgresParams are those of `up`, over the careless ones of a throw-away server.
func postgresParams() map[string]string {
	params := map[string]string{
		"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "autovacuum_naptime": "1min",
	}
	maps.Copy(params, devstack.PostgresParams())
	return params
}

func (s *stack) startPostgres(ctx context.Context) (err error) {
	if s.pg, err = pgserver.Throwaway(ctx, pgserver.ThrowawayConfig{Params: postgresParams()}); err != nil {
		return err
	}
	s.closers = append(s.closers, func() error {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		return s.pg.Discard(end)
	})
	if err = s.pg.EnsureDatabase(ctx, database, database); err != nil {
		return err
	}
	if s.password, err = s.pg.Password(); err != nil {
		return err
	}
	s.dsn = s.pg.TCPDSN(database)
	return nil
}

func (s *stack) startRedis(ctx context.Context) error {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return fmt.Errorf("redis-server is needed (apt-get install redis-server): %w", err)
	}
	port, err := pgserver.FreePort(ctx)
	if err != nil {
		return err
	}
	conf := fmt.Sprintf("bind 127.0.0.1\nport %d\nrequirepass %s\ndaemonize no\ndir %s\nlogfile %q\n"+
		"appendonly yes\nappendfsync everysec\nsave \"\"\nmaxmemory-policy noeviction\n", port, redisPass, s.dir, filepath.Join(s.dir, "redis.log"))
	file := filepath.Join(s.dir, "redis.conf")
	if err = os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, bin, file) //nolint:gosec // the program we looked for
	if s.redis, err = startChild(ctx, cmd, ""); err != nil {
		return err
	}
	s.closers = append(s.closers, s.redis.kill)
	s.redisAt = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	s.redisURL = "redis://:" + redisPass + "@" + s.redisAt + "/0"
	for end := time.Now().Add(patience); ; {
		c, err := cache.Open(ctx, cache.Config{URL: s.redisURL, Logger: quiet()})
		if err != nil {
			return err
		}
		healthy := c.Healthy()
		c.Close()
		if healthy {
			return nil
		}
		if time.Now().After(end) {
			return errors.New("redis-server does not answer")
		}
	}
}

func (s *stack) openDatabase(ctx context.Context) (err error) {
	if _, err = postgres.Migrate(ctx, s.dsn, postgres.MigrateOptions{Logger: quiet()}); err != nil {
		return err
	}
	if s.db, err = s.pool(ctx, 20); err != nil {
		return err
	}
	s.key = filepath.Join(s.dir, "master.key")
	if _, err = secret.NewMasterKeyFile(s.key); err != nil {
		return err
	}
	master, err := secret.LoadMasterKey(s.key)
	if err != nil {
		return err
	}
	s.keys, err = secret.Open(ctx, s.db, master, "main")
	return err
}

// pool opens connections that are closed with the stack.
func (s *stack) pool(ctx context.Context, conns int) (*postgres.DB, error) {
	db, err := postgres.Open(ctx, postgres.Config{DSN: s.dsn, MaxConns: conns, Logger: quiet()})
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error { db.Close(); return nil })
	return db, nil
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// instance is one session.Manager with all that `serve` gives it.
type instance struct {
	*session.Manager
	db    *postgres.DB
	cache *cache.Client
	reg   *prometheus.Registry
	stop  func() error
}

// instance makes a manager and runs its loops until its stop is called.
func (s *stack) instance(ctx context.Context, shape func(*session.Config)) (*instance, error) {
	in := &instance{reg: prometheus.NewRegistry()}
	var err error
	if in.db, err = postgres.Open(ctx, postgres.Config{DSN: s.dsn, Logger: quiet()}); err != nil {
		return nil, err
	}
	feed, err := postgres.Open(ctx, postgres.Config{DSN: s.dsn, MaxConns: 2, Logger: quiet()})
	if err != nil {
		in.db.Close()
		return nil, err
	}
	made := make(chan *session.Manager, 1)
	in.cache, err = cache.Open(ctx, cache.Config{URL: s.redisURL, Registerer: in.reg, Logger: quiet(), OnInvalidate: func(keys []string) {
		select {
		case m := <-made:
			made <- m
			m.Invalidate(keys)
		default: // nothing is cached yet
		}
	}})
	if err == nil {
		cfg := session.Config{DB: in.db, FeedDB: feed, Cache: in.cache, Keys: s.keys, Registerer: in.reg, Logger: quiet()}
		if shape != nil {
			shape(&cfg)
		}
		in.Manager, err = session.NewManager(cfg)
	}
	if err != nil {
		in.db.Close()
		feed.Close()
		return nil, err
	}
	made <- in.Manager
	run, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- in.Run(run) }()
	in.stop = func() error {
		cancel()
		err := <-done
		in.cache.Close()
		in.db.Close()
		feed.Close()
		return err
	}
	return in, in.awaitReady(ctx)
}

// awaitReady waits for the first reading of revocations and of legacy sessions, and for the tracking of Redis.
func (in *instance) awaitReady(ctx context.Context) error {
	for end := time.Now().Add(patience); !in.Ready() || !in.cache.Tracking(); {
		if err := wait.For(ctx, 10*time.Millisecond); err != nil {
			return err
		}
		if time.Now().After(end) {
			return errors.New("a session manager did not get ready")
		}
	}
	return wait.For(ctx, 300*time.Millisecond)
}

// counter reads one of the instance's metrics.
func (in *instance) counter(name string) float64 {
	families, err := in.reg.Gather()
	if err != nil {
		return 0
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return 0
}

// exec runs statements as they are.
func (s *stack) exec(ctx context.Context, statements ...string) error {
	conn, err := pgx.Connect(ctx, s.dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%.60s: %w", sql, err)
		}
	}
	return nil
}
