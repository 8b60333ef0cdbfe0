// Package watch serves people who watch: server-sent events, as they happen.
//
// The [Hub] keeps how many connections there are, what an event looks like on
// the wire (made once for all who get it), and for a second who may see which
// stream. [Hub.Enter] is the door: it counts somebody in, or refuses, and
// returns what then serves the connection until the client leaves, cannot
// follow, or may watch no longer. Whether somebody may begin to watch a topic
// is for the API to say; what they may see is decided here with every event.
// A connection starts one goroutine, and waits for it.
package watch

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"rootstream/errs"
	"rootstream/session"
	"rootstream/statesync"
	"rootstream/stream"
)

const (
	tick          = 25 * time.Millisecond // what happens within it leaves together
	beat          = 15 * time.Second
	recheck       = 500 * time.Millisecond // between looks at the session
	checkDeadline = 5 * time.Second
	writeDeadline = 5 * time.Second
	maxUnsent     = 256 << 10 // bytes that wait for a client before it is conflated
)

// Errors of a hub that is full.
var (
	errTooMany = errs.New(errs.RateLimited, "too_many_watches", "this account watches through too many connections").WithRetryAfter(time.Minute)
	errFull    = errs.New(errs.Unavailable, "watches_full", "this instance has no room for more who watch").WithRetryAfter(5 * time.Second)
)

// Config is what a hub asks, and how many it serves.
type Config struct {
	State interface {
		Subscribe(ctx context.Context, patterns []string, o statesync.SubOptions, fn func(statesync.Change) error) error
	}
	Streams interface {
		ByPublicID(ctx context.Context, a stream.Account, id uuid.UUID) (stream.Stream, error)
	}
	Sessions interface {
		Validate(ctx context.Context, token string, hint session.ClientHint) (session.View, error)
	}
	ForAll     func(kind string) bool // entities of which types everybody may see
	Most       int                    // connections; 0 means 10,000
	MostEach   int                    // those of one account; 0 means 50
	Registerer prometheus.Registerer
}

// Viewer is who watches.
type Viewer struct {
	ID       uuid.UUID
	Operator bool   // to begin with
	Token    string // what they are known by; it is looked at again and again
}

// Wish is what somebody wants to hear.
type Wish struct {
	Topics  []string
	From    statesync.Token // zero: what happens from now on
	Unknown bool            // they had a token that says nothing to us
}

// Hub is what all connections share.
type Hub struct {
	cfg       Config
	ending    chan struct{}
	end       func()
	envelopes envelopes
	sights    sights
	slow      prometheus.Counter

	mu sync.Mutex
	n  int
	by map[uuid.UUID]int
}

// New builds a hub.
func New(cfg Config) *Hub {
	if cfg.Most == 0 {
		cfg.Most = 10_000
	}
	if cfg.MostEach == 0 {
		cfg.MostEach = 50
	}
	h := &Hub{
		cfg: cfg, ending: make(chan struct{}), by: map[uuid.UUID]int{},
		sights: sights{of: map[uuid.UUID]*sight{}}, envelopes: envelopes{of: map[envelopeKey][]byte{}},
	}
	h.end = sync.OnceFunc(func() { close(h.ending) })
	h.count()
	return h
}

// End ends all connections, and new ones as they come: the server is about to end.
func (h *Hub) End() { h.end() }

// Enter counts somebody in. What it returns serves them, and must be called: it counts them out again.
func (h *Hub) Enter(v Viewer, wish Wish) (func(context.Context, http.ResponseWriter), error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.n >= h.cfg.Most:
		return nil, errFull
	case h.by[v.ID] >= h.cfg.MostEach:
		return nil, errTooMany
	}
	h.n++
	h.by[v.ID]++
	return func(ctx context.Context, w http.ResponseWriter) {
		defer h.leave(v.ID)
		c := &connection{
			viewer: viewer{hub: h, id: v.ID, token: v.Token}, w: w, rc: http.NewResponseController(w),
			wake: make(chan struct{}, 1), room: make(chan struct{}, 1),
		}
		c.operator.Store(v.Operator)
		c.run(ctx, wish)
	}, nil
}

func (h *Hub) leave(id uuid.UUID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n--
	if h.by[id]--; h.by[id] == 0 {
		delete(h.by, id)
	}
}

// count registers what is counted about watching.
func (h *Hub) count() {
	h.slow = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "rootstream_watch_slow_total", Help: "Connections to /v1/watch that were ended because the client was too slow.",
	})
	if h.cfg.Registerer != nil {
		h.cfg.Registerer.MustRegister(h.slow, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rootstream_watches", Help: "Open connections to /v1/watch.",
		}, h.open))
	}
}

func (h *Hub) open() float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return float64(h.n)
}

// ended counts why a connection was ended by us.
func (h *Hub) ended(err error) {
	if errors.Is(err, statesync.ErrSlow) {
		h.slow.Inc()
	}
}

// viewer is somebody who watches, as far as we know at the moment.
type viewer struct {
	hub      *Hub
	id       uuid.UUID
	token    string
	operator atomic.Bool
}

// sees reports whether the viewer may see a change. Of other people's public
// streams that is what the streams do, not who watches them.
func (v *viewer) sees(ctx context.Context, c *statesync.Change) (bool, error) {
	if c.Reset || v.operator.Load() {
		return true, nil
	}
	switch c.Ref.Type {
	case "user":
		return c.Ref.ID == v.id, nil
	case "session":
		return c.UserID != nil && *c.UserID == v.id, nil
	case "stream":
		return v.hub.seesStream(ctx, v.id, c)
	}
	return v.hub.cfg.ForAll(c.Ref.Type), nil
}

// check finds out whether the session is still good, and what it allows now.
func (v *viewer) check(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, checkDeadline) // nothing is sent meanwhile
	defer cancel()
	view, err := v.hub.cfg.Sessions.Validate(ctx, v.token, session.ClientHint{Quiet: true})
	v.operator.Store(err == nil && view.Role >= session.RoleOperator)
	return err == nil && view.UserID == v.id
}
