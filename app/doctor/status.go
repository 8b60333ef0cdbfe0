package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"rootstream/app/config"
	"rootstream/internal/counted"
)

// PartStatus is how one part is.
type PartStatus struct {
	Name   string         `json:"name"`
	State  string         `json:"state"` // up, down or off
	Detail string         `json:"detail"`
	Facts  map[string]any `json:"facts,omitempty"` // what Detail says, for programs
}

// The states of a part. Off is one that is not there because nobody asked for it.
const (
	stateUp   = "up"
	stateDown = "down"
	stateOff  = "off"
)

// Down reports whether the part should work and does not.
func (s PartStatus) Down() bool { return s.State == stateDown }

// Status asks every part how it is.
func Status(ctx context.Context, t config.Target) ([]PartStatus, error) {
	if t.Config.Postgres.DSN.IsZero() && t.Config.Backup.Repo != "" {
		e := &examined{}
		e.backups.ask(ctx, t.Config, nil)
		return []PartStatus{e.backups.status(time.Now())}, nil
	}
	if t.Config.Postgres.DSN.IsZero() {
		return nil, config.ErrNoDatabase
	}
	e := examine(ctx, t.Config)
	parts := append([]PartStatus{e.postgresStatus(), e.redisStatus(), e.apiStatus(t), e.keysetStatus()}, e.contentStatus()...)
	if e.backups.configured {
		parts = append(parts, e.backups.status(time.Now()))
	}
	return parts, nil
}

// errUnknown is how a part is that lives in the database when that does not answer.
var errUnknown = errors.New("PostgreSQL does not answer")

func down(name string, err error) PartStatus {
	return PartStatus{Name: name, State: stateDown, Detail: flat(err)}
}

func (e *examined) postgresStatus() PartStatus {
	const name = "postgresql"
	if e.database.err != nil {
		return down(name, e.database.err)
	}
	s := e.database.server
	role := "primary"
	if s.Standby {
		role = "standby"
	}
	detail := fmt.Sprintf("%s, %s, %d of %d connections", s.Version, role, s.Connections, s.MaxConnections)
	if s.ReadOnly && !s.Standby {
		detail += ", read-only"
	}
	return PartStatus{name, stateUp, detail, map[string]any{
		"version": s.Version, "role": role, "read_only": s.ReadOnly, "connections": s.Connections, "max_connections": s.MaxConnections,
	}}
}

func (e *examined) redisStatus() PartStatus {
	const name = "redis"
	switch {
	case !e.redis.configured:
		return PartStatus{Name: name, State: stateOff, Detail: "none is configured: everything is read from PostgreSQL"}
	case e.redis.err != nil:
		return down(name, e.redis.err)
	}
	i := e.redis.info
	return PartStatus{name, stateUp, fmt.Sprintf("%s, %s, %s, %d MiB used", i.Version, i.Mode, counted.Of(i.Clients, "client"), i.UsedMemory>>20), map[string]any{
		"version": i.Version, "mode": i.Mode, "clients": i.Clients, "used_memory_bytes": i.UsedMemory,
	}}
}

func (e *examined) apiStatus(t config.Target) PartStatus {
	const name = "api"
	url := t.Config.PublicURL()
	switch {
	case e.api.absent && t.DataDir == "":
		return PartStatus{Name: name, State: stateOff, Detail: "nothing listens at " + url}
	case e.api.err != nil:
		return down(name, e.api.err)
	}
	s := PartStatus{name, stateUp, e.api.status + " at " + url, map[string]any{"status": e.api.status, "url": url, "parts": e.api.parts}}
	if e.api.status == "unavailable" {
		s.State = stateDown
		s.Detail += ": " + strings.Join(e.failing(), ", ")
	}
	return s
}

// failing names the parts the API misses.
func (e *examined) failing() []string {
	var names []string
	for _, part := range slices.Sorted(maps.Keys(e.api.parts)) {
		if e.api.parts[part] != "ok" {
			names = append(names, part+": "+e.api.parts[part])
		}
	}
	return names
}

func (e *examined) keysetStatus() PartStatus {
	const name = "keyset"
	k := e.keys
	switch {
	case k.err != nil:
		return down(name, k.err)
	case e.database.err != nil:
		return down(name, errUnknown)
	case !k.configured:
		return PartStatus{Name: name, State: stateOff, Detail: "no master key: second factors and refresh answer 503 keyset_missing"}
	case !k.opened:
		return PartStatus{Name: name, State: stateOff, Detail: "none yet: the first server makes it"}
	}
	return PartStatus{name, stateUp, counted.Of(len(k.status.Keys), "key") + ", opened by master key " + k.status.MasterKey, map[string]any{
		"keys": len(k.status.Keys), "master_key": k.status.MasterKey,
	}}
}

// contentStatus is the schema and what the tables hold.
func (e *examined) contentStatus() []PartStatus {
	d := e.database
	if d.err != nil {
		return []PartStatus{down("schema", errUnknown), down("sessions", errUnknown), down("outbox", errUnknown)}
	}
	expand, contract := pending(d.steps, "expand"), pending(d.steps, "contract")
	schema := PartStatus{"schema", stateUp, "up to date", map[string]any{"expand_pending": expand, "contract_pending": contract}}
	switch {
	case d.schema != nil:
		schema.State, schema.Detail = stateDown, flat(d.schema)
	case expand > 0:
		schema.State, schema.Detail = stateDown, counted.Of(expand, "step")+" pending"
	case contract > 0:
		schema.Detail = "up to date, but for " + counted.Of(contract, "step") + " to take once no program of Phase 24.2 writes"
	}
	c := d.content
	waiting := fmt.Sprintf("%d waiting", c.OutboxPending)
	if c.OutboxOldest != nil {
		waiting += " since " + c.OutboxOldest.UTC().Format(time.RFC3339)
	}
	return []PartStatus{
		schema,
		{"sessions", stateUp, fmt.Sprintf("%d live", c.LiveSessions), map[string]any{"live": c.LiveSessions}},
		{"outbox", stateUp, waiting, map[string]any{"pending": c.OutboxPending, "oldest": c.OutboxOldest}},
	}
}
