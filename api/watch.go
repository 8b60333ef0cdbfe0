package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/google/uuid"

	"rootstream/api/strict"
	"rootstream/api/watch"
	"rootstream/errs"
	"rootstream/event"
	"rootstream/session"
	"rootstream/statesync"
)

const (
	watchPath = "/v1/watch"
	maxTopics = 100
)

type watchInput struct {
	Topics      string `query:"topics" required:"true" maxLength:"9000" doc:"At most 100, separated by commas: <type>.<uuid or *>." example:"stream.*"`
	Token       string `query:"token" maxLength:"240" doc:"Resume after it; what a state was answered with, or the id of an event."`
	LastEventID string `header:"Last-Event-ID" doc:"The same; browsers send it by themselves."`
}

var errTopic = errs.New(errs.Forbidden, "topic_forbidden", "you may not watch this")

func (s *Server) watchRoutes() {
	handle(s, huma.Operation{
		OperationID: "watch", Method: http.MethodGet, Path: watchPath, Tags: []string{"state"}, Summary: "What happens, as it happens (server-sent events)",
		Description: "event: is the name of the event (stream.started), data: one envelope {type,id,version,name,at,data}, id: where to resume. " +
			"event: reset means that something may have been missed: read the state again. " +
			"Users see their own user and sessions, streams that are public or theirs, and types of the configuration; operators everything.",
		Responses: map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{"text/event-stream": {}}}},
	}, anyUser, s.watch)
}

func (s *Server) newHub() *watch.Hub {
	return watch.New(watch.Config{
		State: s.deps.State, Streams: s.deps.Streams, Sessions: s.deps.Sessions,
		ForAll: func(kind string) bool { _, configured := s.deps.StateTypes[kind]; return configured },
		Most:   s.cfg.MaxWatches, MostEach: s.cfg.MaxWatchesPerAccount, Registerer: s.cfg.Registerer,
	})
}

// EndWatches ends all connections to /v1/watch, and new ones as they come: the server is about to end.
func (s *Server) EndWatches() { s.watches.End() }

func (s *Server) watch(ctx context.Context, in *watchInput) (*huma.StreamResponse, error) {
	topics, err := readTopics(in.Topics)
	if err != nil {
		return nil, err
	}
	if err = s.mayWatchAll(ctx, topics); err != nil {
		return nil, err
	}
	from, unknown := statesync.ParseToken(cmp.Or(in.LastEventID, in.Token))
	me := caller(ctx)
	serve, err := s.watches.Enter(
		watch.Viewer{ID: me.UserID, Operator: me.Role >= session.RoleOperator, Token: factsOf(ctx).token},
		watch.Wish{Topics: topics, From: from, Unknown: unknown != nil})
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		_, w := humago.Unwrap(hc)
		serve(ctx, w)
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

func (s *Server) mayWatchAll(ctx context.Context, topics []string) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	for _, t := range topics {
		if err := s.mayWatch(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// mayWatch refuses a topic of which the caller may see nothing: one entity they
// may not read, or all of a kind of which nothing is ever theirs.
func (s *Server) mayWatch(ctx context.Context, topic string) error {
	kind, rest, _ := strings.Cut(topic, ".")
	_, configured := s.deps.StateTypes[kind]
	if configured || caller(ctx).Role >= session.RoleOperator || rest == "*" && (kind == "stream" || kind == "session") {
		return nil
	}
	err := error(errNoEntity)
	if id, bad := uuid.Parse(rest); bad == nil {
		err = s.mayReadState(ctx, event.Ref{Type: kind, ID: id})
	}
	if errs.KindOf(err) == errs.NotFound {
		return errTopic.WithHint("not " + strict.Clip(topic))
	}
	return err
}
