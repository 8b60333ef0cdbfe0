package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"

	"rootstream/app/config"
	"rootstream/cache"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/secret"
	"rootstream/statesync"
	"rootstream/statesync/merge"
)

// servers say where to find PostgreSQL, and with a data folder Redis and the key.
type servers struct{ data, postgres string }

// instance is what one process needs to share state.
type instance struct {
	db    *postgres.DB
	cache *cache.Client // nil without Redis
	state *statesync.Manager
	stop  func()
}

// open joins the rooms and runs their loops.
func open(ctx context.Context, at servers, log *slog.Logger) (_ *instance, err error) {
	cfg := config.Config{}
	if at.data != "" {
		if cfg, err = config.Resolve(config.Source{}, at.data); err != nil {
			return nil, err
		}
		at.postgres = cfg.Postgres.DSN.Reveal()
	}
	if _, err = postgres.Migrate(ctx, at.postgres, postgres.MigrateOptions{Rolling: true, Logger: log}); err != nil {
		return nil, err
	}
	i := &instance{stop: func() {}}
	defer func() {
		if err != nil {
			i.close()
		}
	}()
	if i.db, err = postgres.Open(ctx, postgres.Config{DSN: at.postgres, Logger: log}); err != nil {
		return nil, err
	}
	// What this process commits is handed on at once.
	appender, err := event.NewLog(event.LogConfig{DB: i.db, Logger: log, OnCommit: func(e []event.Event) { i.state.Offer(e) }})
	if err != nil {
		return nil, err
	}
	shared := statesync.Config{DB: i.db, Log: appender, Logger: log}
	if cfg.Keys.MasterKeyFile != "" && !cfg.Redis.URL.IsZero() {
		if err = i.throughRedis(ctx, cfg, &shared, log); err != nil {
			return nil, err
		}
	}
	if i.state, err = statesync.New(shared); err != nil {
		return nil, err
	}
	for _, t := range []statesync.Type{
		{Name: "example"}, {Name: "example_viewers", Class: statesync.Volatile, Join: merge.Sum()},
	} {
		if err = i.state.Register(t); err != nil {
			return nil, err
		}
	}
	i.run(ctx, appender.Run, i.state.Run)
	<-i.state.Ready()
	return i, nil
}

// throughRedis lets changes travel through Redis; the keyset says which of them are ours.
func (i *instance) throughRedis(ctx context.Context, cfg config.Config, to *statesync.Config, log *slog.Logger) error {
	master, err := secret.LoadMasterKey(cfg.Keys.MasterKeyFile)
	if err != nil {
		return err
	}
	keys, err := secret.Open(ctx, i.db, master, "main")
	if err != nil {
		return err
	}
	i.cache, err = cache.Open(ctx, cache.Config{URL: cfg.Redis.URL.Reveal(), Logger: log})
	to.Cache, to.Auth = i.cache, keys
	return err
}

// run keeps loops going until stop is called.
func (i *instance) run(ctx context.Context, loops ...func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var g sync.WaitGroup
	for _, loop := range loops {
		g.Go(func() { _ = loop(ctx) })
	}
	i.stop = func() {
		cancel()
		g.Wait()
	}
}

// close ends what open began.
func (i *instance) close() {
	i.stop()
	if i.cache != nil {
		i.cache.Close()
	}
	if i.db != nil {
		i.db.Close()
	}
}

func text(d statesync.Doc) string {
	b, err := json.Marshal(d.Data)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// number reads what JSON made of a number; 0 if there is none.
func number(v any) int {
	var n int
	_, _ = fmt.Sscan(fmt.Sprint(v), &n)
	return n
}
