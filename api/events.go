package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/session"
	"rootstream/stream"
)

type eventsInput struct {
	Type string    `query:"aggregate_type" required:"true" maxLength:"50" doc:"user, session or stream."`
	ID   uuid.UUID `query:"aggregate_id" required:"true" format:"uuid"`
	From int64     `query:"from_version" minimum:"0" doc:"The first version wanted."`
	Size int       `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

type eventsBody struct {
	Items       []event.Event `json:"items"`
	NextVersion int64         `json:"next_version,omitempty" doc:"Give it as from_version to get what follows; absent at the end."`
}

func (s *Server) eventRoutes() {
	handle(s, huma.Operation{
		OperationID: "list-events", Method: http.MethodGet, Path: "/v1/events", Tags: []string{"events"}, Summary: "The history of one entity, by version",
		Description: "Users see what is theirs, operators everything.", Errors: []int{http.StatusNotFound},
	}, anyUser, func(ctx context.Context, in *eventsInput) (*output[eventsBody], error) {
		if err := s.maySee(ctx, event.Ref{Type: in.Type, ID: in.ID}); err != nil {
			return nil, err
		}
		events, err := s.deps.Events.Read(ctx, event.Page{Entity: event.Ref{Type: in.Type, ID: in.ID}, FromVersion: in.From, Limit: in.Size})
		body := eventsBody{Items: events}
		if len(events) == in.Size {
			body.NextVersion = events[in.Size-1].Version + 1
		}
		return reply(body, err)
	})
}

// errNoEntity is the one answer to an entity that is not there and one that is somebody else's.
var errNoEntity = errs.New(errs.NotFound, "entity_not_found", "there is no such entity")

// maySee refuses a history that is not the caller's. What others did to the
// entity (who watched a stream) is a part of it.
func (s *Server) maySee(ctx context.Context, entity event.Ref) error {
	p := caller(ctx)
	if p.Role >= session.RoleOperator {
		return nil
	}
	switch entity.Type {
	case "user":
		if entity.ID == p.UserID {
			return nil
		}
		return errNoEntity
	case "stream": // 24.2 wrote events without an owner
		owner, err := s.deps.Streams.Owner(ctx, entity.ID)
		switch {
		case err == nil && owner == p.UserID:
			return nil
		case err == nil:
			return errNoEntity
		case !errors.Is(err, stream.ErrNotFound): // one that is gone is whose its first event says
			return err
		}
	}
	first, err := s.deps.Events.Read(ctx, event.Page{Entity: entity, Limit: 1})
	if err != nil {
		return err
	}
	if len(first) == 0 || first[0].UserID == nil || *first[0].UserID != p.UserID {
		return errNoEntity
	}
	return nil
}
