package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/session"
	"rootstream/statesync"
)

const (
	watchPath     = "/v1/watch"
	maxTopics     = 100
	watchTick     = 25 * time.Millisecond // what happens within it leaves together
	watchBeat     = 15 * time.Second
	watchCheck    = 500 * time.Millisecond // between looks at the session
	checkDeadline = 5 * time.Second
	writeDeadline = 5 * time.Second
	maxUnsent     = 256 << 10 // bytes that wait for a client before it is conflated
)

type watchInput struct {
	Topics      string `query:"topics" required:"true" maxLength:"9000" doc:"At most 100, separated by commas: <type>.<uuid or *>." example:"stream.*"`
	Token       string `query:"token" maxLength:"240" doc:"Resume after it; what a state was answered with, or the id of an event."`
	LastEventID string `header:"Last-Event-ID" doc:"The same; browsers send it by themselves."`
}

// Errors of watching.
var (
	errTopic       = errs.New(errs.Forbidden, "topic_forbidden", "you may not watch this")
	errManyWatches = errs.New(errs.RateLimited, "too_many_watches", "this account watches through too many connections").WithRetryAfter(time.Minute)
	errFullWatches = errs.New(errs.Unavailable, "watches_full", "this instance has no room for more who watch").WithRetryAfter(5 * time.Second)
)

func (s *Server) watchRoutes() {
	handle(s, huma.Operation{
		OperationID: "watch", Method: http.MethodGet, Path: watchPath, Tags: []string{"state"}, Summary: "What happens, as it happens (server-sent events)",
		Description: "event: is the name of the event (stream.started), data: one envelope {type,id,version,name,at,data}, id: where to resume. " +
			"event: reset means that something may have been missed: read the state again. " +
			"Users see their own user and sessions, streams that are public or theirs, and types of the configuration; operators everything.",
		Responses: map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{"text/event-stream": {}}}},
	}, anyUser, s.watch)
}

func (s *Server) watch(ctx context.Context, in *watchInput) (*huma.StreamResponse, error) {
	topics, err := readTopics(in.Topics)
	if err != nil {
		return nil, err
	}
	v := &viewer{s: s, id: caller(ctx).UserID}
	v.operator.Store(caller(ctx).Role >= session.RoleOperator)
	if err = v.mayWatchAll(ctx, topics); err != nil {
		return nil, err
	}
	leave, err := s.watches.enter(v.id)
	if err != nil {
		return nil, err
	}
	from, unknown := statesync.ParseToken(cmp.Or(in.LastEventID, in.Token))
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		defer leave()
		_, w := humago.Unwrap(hc)
		c := &connection{viewer: v, w: w, rc: http.NewResponseController(w), wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
		c.run(ctx, topics, from, unknown != nil)
	}}, nil
}

// readTopics splits what is asked for.
func readTopics(text string) ([]string, error) {
	topics := strings.Split(text, ",")
	slices.Sort(topics)
	topics = slices.Compact(topics)
	if len(topics) > maxTopics {
		return nil, errs.NewInvalid("topics", fmt.Sprintf("must be at most %d", maxTopics))
	}
	for _, t := range topics {
		if err := statesync.ParsePattern(t); err != nil {
			return nil, err
		}
	}
	return topics, nil
}

// viewer is who watches.
type viewer struct {
	s        *Server
	id       uuid.UUID
	operator atomic.Bool
}

func (v *viewer) mayWatchAll(ctx context.Context, topics []string) error {
	ctx, cancel := context.WithTimeout(ctx, v.s.cfg.RequestTimeout)
	defer cancel()
	for _, t := range topics {
		if err := v.mayWatch(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// mayWatch refuses a topic of which the viewer may see nothing.
func (v *viewer) mayWatch(ctx context.Context, topic string) error {
	kind, rest, _ := strings.Cut(topic, ".")
	id, err := uuid.Parse(rest)
	one := err == nil
	_, configured := v.s.deps.StateTypes[kind]
	switch {
	case v.operator.Load(), configured, !one && (kind == "stream" || kind == "session"), one && kind == "user" && id == v.id:
		return nil
	case one && kind == "stream":
		_, err = v.s.deps.Streams.ByPublicID(ctx, streamAccount(ctx), id)
	case one && kind == "session":
		err = v.s.isMySession(ctx, id)
	default:
		return errTopic.WithHint("not " + clip(topic))
	}
	if errs.KindOf(err) == errs.NotFound {
		return errTopic.WithHint("not " + clip(topic))
	}
	return err
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
		return v.s.watches.sights.sees(ctx, v.id, c)
	}
	_, configured := v.s.deps.StateTypes[c.Ref.Type]
	return configured, nil
}

// check finds out whether the session is still good, and what it allows now.
func (v *viewer) check(ctx context.Context, token string) bool {
	ctx, cancel := context.WithTimeout(ctx, checkDeadline) // nothing is sent meanwhile
	defer cancel()
	view, err := v.s.deps.Sessions.Validate(ctx, token, session.ClientHint{Quiet: true})
	v.operator.Store(err == nil && view.Role >= session.RoleOperator)
	return err == nil && view.UserID == v.id
}

// watches is what all connections share.
type watches struct {
	most, mostEach int
	ending         chan struct{}
	end            func()
	envelopes      envelopes
	sights         sights
	counts         watchCounts

	mu sync.Mutex
	n  int
	by map[uuid.UUID]int
}

func newWatches(cfg Config, streams Streams) *watches {
	x := &watches{
		most: cfg.MaxWatches, mostEach: cfg.MaxWatchesPerAccount, ending: make(chan struct{}), by: map[uuid.UUID]int{},
		sights: sights{streams: streams, of: map[uuid.UUID]*sight{}}, envelopes: envelopes{of: map[envelopeKey][]byte{}},
	}
	if x.most == 0 {
		x.most = 10_000
	}
	if x.mostEach == 0 {
		x.mostEach = 50
	}
	x.end = sync.OnceFunc(func() { close(x.ending) })
	x.counts.register(cfg.Registerer, x.open)
	return x
}

// EndWatches ends all connections to /v1/watch, and new ones as they come: the server is about to end.
func (s *Server) EndWatches() { s.watches.end() }

// enter counts a connection in; leave counts it out.
func (x *watches) enter(id uuid.UUID) (leave func(), err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.n >= x.most:
		return nil, errFullWatches
	case x.by[id] >= x.mostEach:
		return nil, errManyWatches
	}
	x.n++
	x.by[id]++
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.n--
		if x.by[id]--; x.by[id] == 0 {
			delete(x.by, id)
		}
	}, nil
}

func (x *watches) open() float64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return float64(x.n)
}

// ended counts why a connection was ended by us.
func (x *watches) ended(err error) {
	if errors.Is(err, statesync.ErrSlow) {
		x.counts.slow.Inc()
	}
}
