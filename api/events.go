package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/session"
)

type eventsInput struct {
	Type string    `query:"aggregate_type" required:"true" maxLength:"50" doc:"user, session, stream or factor."`
	ID   uuid.UUID `query:"aggregate_id" required:"true" format:"uuid"`
	From int64     `query:"from_version" minimum:"0"`
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
		events, err := s.deps.Events.Read(ctx, event.Page{Entity: event.Ref{Type: in.Type, ID: in.ID}, FromVersion: in.From, Limit: in.Size})
		if err != nil {
			return nil, err
		}
		body := eventsBody{Items: events}
		if len(events) == in.Size {
			body.NextVersion = events[len(events)-1].Version + 1
		}
		p := caller(ctx)
		if p.Role < session.RoleOperator && !owns(p.UserID, in, events) {
			return nil, errNoEntity
		}
		return reply(body, nil)
	})
}

// errNoEntity is the one answer to an entity that is not there and one that is somebody else's.
var errNoEntity = errs.New(errs.NotFound, "entity_not_found", "there is no such entity")

func owns(user uuid.UUID, in *eventsInput, events []event.Event) bool {
	if in.Type == "user" {
		return in.ID == user
	}
	for _, e := range events {
		if e.UserID == nil || *e.UserID != user {
			return false
		}
	}
	return len(events) > 0
}
