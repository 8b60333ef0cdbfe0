package app

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"rootstream/api"
	"rootstream/app/config"
	"rootstream/errs"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/session"
	"rootstream/statesync"
	"rootstream/statesync/merge"
	"rootstream/stream"
)

// Sync is the state that all instances share, and what is lent to it over HTTP.
type Sync struct {
	*statesync.Manager
	mu    sync.Mutex
	lent  map[event.Ref]time.Time // volatile state set over HTTP, until when
	types []config.SyncType
}

// committed tells the log what a transaction appended.
func (p *Parts) committed(tx *postgres.Tx) {
	if events := event.Appended(tx); len(events) > 0 && p.Appender != nil {
		p.Appender.Committed(events)
	}
}

// openSync builds the log that commits for many and the state that follows from it.
func (p *Parts) openSync(context.Context) (err error) {
	s := &Sync{lent: map[event.Ref]time.Time{}, types: p.Config.Sync.Types}
	log, err := event.NewLog(event.LogConfig{
		DB: p.DB, Schema: p.schema, Registerer: p.Registry, Logger: p.Log,
		OnCommit: func(events []event.Event) { s.Offer(events) },
	})
	if err != nil {
		return err
	}
	cfg := statesync.Config{
		DB: p.DB, Log: log, Address: p.Config.InstanceURL(), CacheBytes: int64(p.Config.Sync.CacheMiB) << 20,
		SnapshotEvery: p.Config.Sync.SnapshotEvery, Registerer: p.Registry, Logger: p.Log,
	}
	if p.Keys != nil { // what comes through Redis must be known to be ours
		cfg.Cache, cfg.Auth = p.Cache, p.Keys
	}
	if s.Manager, err = statesync.New(cfg); err != nil {
		return err
	}
	for _, t := range p.syncTypes() {
		if err := s.Register(t); err != nil {
			return err
		}
	}
	p.Appender, p.Sync = log, s
	return nil
}

// syncTypes are ours and those of the configuration.
func (p *Parts) syncTypes() []statesync.Type {
	types := []statesync.Type{
		{Name: "stream", Fold: stream.Fold, FoldVersion: stream.FoldVersion, Reserved: stream.Folded(), Once: true},
		{Name: "user", Once: true},
		{Name: "session", ReadOnly: true, Fold: foldSession, FoldVersion: 1},
	}
	for _, c := range p.Config.Sync.Types {
		t := statesync.Type{Name: c.Name, MaxBytes: c.MaxBytes}
		if c.Volatile() {
			t.Class, t.Join = statesync.Volatile, joins()[c.Merge]
		} else {
			t.Rebase = rebases()[c.Merge]
		}
		types = append(types, t)
	}
	return types
}

// foldSession is what the history of a session tells of it.
func foldSession(state map[string]any, e event.Event) (map[string]any, error) {
	data, err := e.Fields()
	if err != nil {
		return nil, err
	}
	if user, ok := data["user_id"]; ok {
		state["user_id"] = user
	}
	switch e.Name {
	case "session.created":
		state["active"], state["created_at"] = true, e.At.UTC().Format(time.RFC3339Nano)
	case "session.revoked":
		state["active"], state["revoked_at"], state["reason"] = false, e.At.UTC().Format(time.RFC3339Nano), data["reason"]
	}
	return state, nil
}

// The merges of the configuration, by name.
func rebases() map[string]statesync.Rebase {
	return map[string]statesync.Rebase{
		"": nil, "reject": nil, "mine": statesync.KeepMine, "theirs": statesync.DropMine, "per_field": statesync.PerField(nil),
	}
}

func joins() map[string]merge.Docs {
	return map[string]merge.Docs{
		"": merge.Latest(), "latest": merge.Latest(), "per_field": merge.LatestPerField(), "max": merge.Max(), "sum": merge.Sum(),
	}
}

// apiTypes says who may change state of the configured types.
func (s *Sync) apiTypes() map[string]api.StateType {
	types := map[string]api.StateType{}
	for _, c := range s.types {
		t := api.StateType{Volatile: c.Volatile(), Write: session.RoleOperator}
		switch c.Write {
		case "user":
			t.Write = session.RoleUser
		case "admin":
			t.Write = session.RoleAdmin
		}
		types[c.Name] = t
	}
	return types
}

// lease is how long volatile state that was set over HTTP lasts: who set it may be gone.
const lease = 30 * time.Second

// Lend makes doc what this instance says of a volatile entity, for a while. An empty one takes it back.
func (s *Sync) Lend(ref event.Ref, doc json.RawMessage) (time.Duration, error) {
	var values map[string]json.RawMessage // numbers stay as they are written
	if err := json.Unmarshal(doc, &values); err != nil {
		return 0, errs.NewInvalid("body", "must be a JSON object").WithCause(err)
	}
	fields := make(map[string]any, len(values))
	for name, value := range values {
		fields[name] = value
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(fields) == 0 {
		delete(s.lent, ref)
		s.DropVolatile(ref)
		return 0, nil
	}
	if err := s.SetVolatile(ref, fields); err != nil {
		return 0, err
	}
	s.lent[ref] = time.Now().Add(lease)
	return lease, nil
}

// Run keeps the state until ctx ends, and takes back what was lent for too long.
func (s *Sync) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.Manager.Run(ctx) })
	g.Go(func() error {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case now := <-tick.C:
				s.expire(now)
			}
		}
	})
	return g.Wait()
}

func (s *Sync) expire(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ref, until := range s.lent {
		if now.After(until) {
			delete(s.lent, ref)
			s.DropVolatile(ref)
		}
	}
}

// errNoSync is an instance that does not know yet where in the log it is.
var errNoSync = errs.New(errs.Unavailable, "sync_not_ready", "the event log has not been read yet")

func (s *Sync) probe(context.Context) error {
	select {
	case <-s.Ready():
		return nil
	default:
		return errNoSync
	}
}
