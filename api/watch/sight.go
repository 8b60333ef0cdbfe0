package watch

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"rootstream/statesync"
	"rootstream/stream"
)

// sights know who may see which stream.
type sights struct {
	mu sync.Mutex
	of map[uuid.UUID]*sight
}

// sight is one stream, read a moment ago.
type sight struct {
	mu     sync.Mutex
	owner  uuid.UUID
	public bool
	gone   bool
	read   time.Time
	since  int64 // version of the entity that the row is at least as new as
}

const (
	sightLife = time.Second
	maxSights = 20_000
)

func (x *sights) at(id uuid.UUID) *sight {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.of[id]
	if s == nil {
		if len(x.of) >= maxSights {
			clear(x.of)
		}
		s = &sight{}
		x.of[id] = s
	}
	return s
}

// seesStream reports whether somebody may see a change of a stream. Where what may be
// seen was conflated with what may not, only that something changed is left of it.
func (h *Hub) seesStream(ctx context.Context, who uuid.UUID, c *statesync.Change) (bool, error) {
	s := h.sights.at(c.Ref.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.read) > sightLife || s.since < c.Version && changesSight(c) {
		if err := h.look(ctx, s, c); err != nil {
			return false, err
		}
	}
	about := strings.HasPrefix(c.Name, "stream.")
	switch {
	case s.gone:
		return about && (c.UserID != nil && *c.UserID == who || c.Name == "stream.deleted" && wasPublic(c.Data)), nil
	case s.owner == who:
		return true, nil
	case s.public && !about && c.FirstVersion < c.Version:
		c.Name, c.Data = "stream.updated", json.RawMessage("{}")
		return true, nil
	}
	return s.public && about, nil
}

// look reads the stream's row.
func (h *Hub) look(ctx context.Context, s *sight, c *statesync.Change) error {
	ctx, cancel := context.WithTimeout(ctx, checkDeadline)
	defer cancel()
	is, err := h.cfg.Streams.ByPublicID(ctx, stream.Account{Operator: true}, c.Ref.ID)
	if err != nil && !errors.Is(err, stream.ErrNotFound) {
		return err
	}
	s.owner, s.public, s.gone = is.UserID, is.IsPublic, err != nil
	s.read, s.since = time.Now(), max(s.since, c.Version)
	return nil
}

// wasPublic reads what the end of a stream says about it.
func wasPublic(data json.RawMessage) bool {
	var said struct {
		IsPublic bool `json:"is_public"`
	}
	return json.Unmarshal(data, &said) == nil && said.IsPublic
}

// changesSight reports whether a change may be one of who may see the stream.
func changesSight(c *statesync.Change) bool {
	return c.FirstVersion < c.Version || c.Name == "stream.created" || c.Name == "stream.deleted" ||
		c.Name == "stream.updated" && strings.Contains(string(c.Data), "is_public")
}
