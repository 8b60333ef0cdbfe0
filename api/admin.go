package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"rootstream/auth"
	"rootstream/mfa"
	"rootstream/session"
	"rootstream/user"
)

type adminUsersInput struct {
	Paging
	Role     user.Role `query:"role" enum:"user,operator,admin"`
	Active   string    `query:"active" enum:"true,false"`
	Verified string    `query:"verified" enum:"true,false"`
	Search   string    `query:"search" maxLength:"100" doc:"Part of the user name, address or display name."`
}

type adminCreateInput struct {
	Body struct {
		Username string    `json:"username" maxLength:"255"`
		Email    string    `json:"email" maxLength:"255"`
		Password string    `json:"password" maxLength:"1024"`
		Role     user.Role `json:"role,omitempty" enum:"user,operator,admin" default:"user"`
		Verified bool      `json:"verified,omitempty"`
	}
}

type roleInput struct {
	PathID
	Body struct {
		Role user.Role `json:"role" enum:"user,operator,admin"`
	}
}

type adminEmailInput struct {
	PathID
	Body struct {
		Email    string `json:"email" maxLength:"255"`
		Verified bool   `json:"verified,omitempty" doc:"The address is known to be right; otherwise it is asked to verify."`
	}
}

type revoked struct {
	Revoked int `json:"revoked" doc:"Sessions that ended."`
}

func (s *Server) adminRoutes() {
	tags := []string{"administration"}
	handle(s, huma.Operation{OperationID: "admin-list-users", Method: http.MethodGet, Path: "/v1/admin/users", Tags: tags, Summary: "List accounts"},
		anyOperator, func(ctx context.Context, in *adminUsersInput) (*output[user.Page], error) {
			return reply(s.deps.Users.List(ctx, in.Limit, in.Cursor, user.Filter{Role: in.Role, Active: yesNo(in.Active), Verified: yesNo(in.Verified), Search: in.Search}))
		})
	handle(s, huma.Operation{
		OperationID: "admin-get-user", Method: http.MethodGet, Path: "/v1/admin/users/{id}", Tags: tags,
		Summary: "One account", Errors: []int{http.StatusNotFound},
	}, anyOperator, func(ctx context.Context, in *PathID) (*output[user.User], error) {
		return reply(s.deps.Users.ByPublicID(ctx, in.ID))
	})
	handle(s, huma.Operation{
		OperationID: "admin-create-user", Method: http.MethodPost, Path: "/v1/admin/users", DefaultStatus: http.StatusCreated, Tags: tags,
		Summary: "Make an account for somebody", Errors: []int{http.StatusConflict},
	}, freshAdmin, func(ctx context.Context, in *adminCreateInput) (*output[user.User], error) {
		b := in.Body
		return reply(s.deps.Auth.CreateUser(ctx, caller(ctx).Actor(), auth.Account{
			Registration: auth.Registration{Username: b.Username, Email: b.Email, Password: b.Password}, Role: b.Role, Verified: b.Verified,
		}))
	})
	handle(s, huma.Operation{
		OperationID: "admin-set-role", Method: http.MethodPut, Path: "/v1/admin/users/{id}/role", Tags: tags,
		Summary: "Change what an account may do", Errors: []int{http.StatusNotFound, http.StatusConflict},
	}, freshAdmin, func(ctx context.Context, in *roleInput) (*output[user.User], error) {
		return reply(s.deps.Auth.SetRole(ctx, caller(ctx).Actor(), in.ID, in.Body.Role))
	})
	handle(s, huma.Operation{
		OperationID: "admin-set-email", Method: http.MethodPut, Path: "/v1/admin/users/{id}/email", Tags: tags,
		Summary:     "Give an account another e-mail address",
		Description: "Sessions go on, links mailed so far end. The old address is told and cannot undo it.",
		Errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, freshAdmin, func(ctx context.Context, in *adminEmailInput) (*output[user.User], error) {
		return reply(s.deps.Auth.SetEmail(ctx, caller(ctx).Actor(), in.ID, in.Body.Email, in.Body.Verified))
	})
	s.adminAccount(tags, "disable", "Disable an account and end its sessions", s.deps.Auth.Disable)
	s.adminAccount(tags, "enable", "Enable an account again", s.deps.Auth.Enable)
	s.adminAccount(tags, "verify", "Mark an account's address as verified", s.deps.Auth.VerifyUser)
	handle(s, huma.Operation{
		OperationID: "admin-delete-user", Method: http.MethodDelete, Path: "/v1/admin/users/{id}", DefaultStatus: http.StatusNoContent, Tags: tags,
		Summary: "Delete an account and all it has", Errors: []int{http.StatusNotFound, http.StatusConflict},
	}, freshAdmin, func(ctx context.Context, in *PathID) (*empty, error) {
		return nothing(s.deps.Auth.DeleteUser(ctx, caller(ctx).Actor(), in.ID))
	})
	s.adminSessionRoutes(tags)
	s.adminFactorRoutes(tags)
}

// adminAccount registers one act on an account that answers the account.
func (s *Server) adminAccount(tags []string, act, summary string, fn func(context.Context, auth.Actor, uuid.UUID) (user.User, error)) {
	handle(s, huma.Operation{
		OperationID: "admin-" + act + "-user", Method: http.MethodPost, Path: "/v1/admin/users/{id}/" + act, Tags: tags,
		Summary: summary, Errors: []int{http.StatusNotFound, http.StatusConflict},
	}, freshAdmin, func(ctx context.Context, in *PathID) (*output[user.User], error) {
		return reply(fn(ctx, caller(ctx).Actor(), in.ID))
	})
}

func (s *Server) adminSessionRoutes(tags []string) {
	handle(s, huma.Operation{
		OperationID: "admin-list-sessions", Method: http.MethodGet, Path: "/v1/admin/users/{id}/sessions", Tags: tags,
		Summary: "Somebody's live sessions", Errors: []int{http.StatusNotFound},
	}, anyOperator, func(ctx context.Context, in *PathID) (*output[list[session.Session]], error) {
		u, err := s.deps.Users.ByPublicID(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		sessions, err := s.deps.Sessions.List(ctx, u.ID)
		for i, x := range sessions {
			sessions[i] = shown(x, caller(ctx).SessionID)
		}
		return reply(list[session.Session]{Items: sessions}, err)
	})
	handle(s, huma.Operation{
		OperationID: "admin-revoke-sessions", Method: http.MethodDelete, Path: "/v1/admin/users/{id}/sessions", Tags: tags,
		Summary: "End all of somebody's sessions", Errors: []int{http.StatusNotFound},
	}, freshAdmin, func(ctx context.Context, in *PathID) (*output[revoked], error) {
		n, err := s.deps.Auth.RevokeSessions(ctx, caller(ctx).Actor(), in.ID)
		return reply(revoked{n}, err)
	})
	handle(s, huma.Operation{
		OperationID: "admin-get-session", Method: http.MethodGet, Path: "/v1/admin/sessions/{id}", Tags: tags,
		Summary: "One session, live or not", Errors: []int{http.StatusNotFound},
	}, anyOperator, func(ctx context.Context, in *PathID) (*output[session.Session], error) {
		found, err := s.deps.Auth.Session(ctx, in.ID)
		return reply(shown(found, caller(ctx).SessionID), err)
	})
	handle(s, huma.Operation{
		OperationID: "admin-revoke-session", Method: http.MethodDelete, Path: "/v1/admin/sessions/{id}", DefaultStatus: http.StatusNoContent, Tags: tags,
		Summary: "End one session", Errors: []int{http.StatusNotFound},
	}, operating, func(ctx context.Context, in *PathID) (*empty, error) {
		return nothing(s.deps.Auth.EndSession(ctx, caller(ctx).Actor(), in.ID))
	})
}

func (s *Server) adminFactorRoutes(tags []string) {
	handle(s, huma.Operation{
		OperationID: "admin-mfa-status", Method: http.MethodGet, Path: "/v1/admin/users/{id}/mfa", Tags: tags,
		Summary: "Somebody's second factors", Errors: []int{http.StatusNotFound},
	}, anyOperator, func(ctx context.Context, in *PathID) (*output[mfa.Status], error) {
		u, err := s.deps.Users.ByPublicID(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		return reply(s.deps.Factors.Status(ctx, u.ID))
	})
	handle(s, huma.Operation{
		OperationID: "admin-reset-mfa", Method: http.MethodDelete, Path: "/v1/admin/users/{id}/mfa", DefaultStatus: http.StatusNoContent, Tags: tags,
		Summary: "Remove all of somebody's factors", Errors: []int{http.StatusNotFound},
	}, freshAdmin, func(ctx context.Context, in *PathID) (*empty, error) {
		return nothing(s.deps.Auth.ResetMFA(ctx, caller(ctx).Actor(), in.ID))
	})
	handle(s, huma.Operation{
		OperationID: "admin-resume-mfa", Method: http.MethodPost, Path: "/v1/admin/users/{id}/mfa/resume", DefaultStatus: http.StatusNoContent, Tags: tags,
		Summary: "Lift the suspension of somebody's factors", Errors: []int{http.StatusNotFound},
	}, freshAdmin, func(ctx context.Context, in *PathID) (*empty, error) {
		return nothing(s.deps.Auth.ResumeMFA(ctx, caller(ctx).Actor(), in.ID))
	})
}

// yesNo is a filter that may be absent.
func yesNo(v string) *bool {
	if v == "" {
		return nil
	}
	yes := v == "true"
	return &yes
}
