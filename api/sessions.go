package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"rootstream/session"
)

// PathID is the id in a path.
type PathID struct {
	ID uuid.UUID `path:"id" format:"uuid"`
}

// ownSession is a session in its owner's list.
type ownSession struct {
	session.Session
	Current bool `json:"current" doc:"The session of this request."`
}

type renameInput struct {
	PathID
	Body struct {
		DeviceName string `json:"device_name" maxLength:"400"`
	}
}

type scopeInput struct {
	Scope string `query:"scope" enum:"others,all" required:"true" doc:"others keeps the session of this request."`
}

// shown is a session as others than its own client see it: by the id of its device a client is known to the account.
func shown(s session.Session, to uuid.UUID) session.Session {
	if s.ID != to {
		s.Device.ID = ""
	}
	return s
}

func (s *Server) sessionRoutes() {
	tags := []string{"sessions"}
	handle(s, huma.Operation{
		OperationID: "list-sessions", Method: http.MethodGet, Path: "/v1/sessions", Tags: tags,
		Summary: "My live sessions, newest first",
	}, anyUser, func(ctx context.Context, _ *empty) (*output[list[ownSession]], error) {
		p := caller(ctx)
		sessions, err := s.deps.Sessions.List(ctx, p.DBUserID)
		page := list[ownSession]{Items: make([]ownSession, 0, len(sessions))}
		for _, x := range sessions {
			page.Items = append(page.Items, ownSession{shown(x, p.SessionID), x.ID == p.SessionID})
		}
		return reply(page, err)
	})
	handle(s, huma.Operation{
		OperationID: "rename-session", Method: http.MethodPatch, Path: "/v1/sessions/{id}", Tags: tags,
		Summary: "Name the device of one of my sessions", Errors: []int{http.StatusNotFound},
	}, anyUser, func(ctx context.Context, in *renameInput) (*output[session.Session], error) {
		p := caller(ctx)
		renamed, err := s.deps.Auth.RenameSession(ctx, p, in.ID, in.Body.DeviceName)
		return reply(shown(renamed, p.SessionID), err)
	})
	handle(s, huma.Operation{
		OperationID: "revoke-session", Method: http.MethodDelete, Path: "/v1/sessions/{id}", DefaultStatus: http.StatusNoContent, Tags: tags,
		Summary: "End one of my sessions", Errors: []int{http.StatusNotFound},
	}, anyUser, func(ctx context.Context, in *PathID) (*empty, error) {
		return nothing(s.deps.Auth.RevokeSession(ctx, caller(ctx), in.ID))
	})
	handle(s, huma.Operation{
		OperationID: "revoke-sessions", Method: http.MethodDelete, Path: "/v1/sessions", DefaultStatus: http.StatusNoContent, Tags: tags,
		Summary: "End my other sessions, or all of them",
	}, anyUser, func(ctx context.Context, in *scopeInput) (*signedOut, error) {
		if in.Scope == "others" {
			_, err := s.deps.Auth.RevokeOtherSessions(ctx, caller(ctx))
			return nil, err
		}
		_, err := s.deps.Auth.RevokeAllSessions(ctx, caller(ctx))
		return signOut(ctx, err)
	})
	s.validateRoutes(tags)
}
