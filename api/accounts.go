package api

import (
	"context"
	"encoding/binary"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rootstream/auth"
	"rootstream/errs"
	"rootstream/event"
	"rootstream/internal/base64url"
	"rootstream/user"
)

type registerInput struct {
	Body struct {
		Username string `json:"username" maxLength:"255" doc:"3 to 64 letters, digits, dots, dashes and underscores; unique, whatever the case." example:"ada"`
		Email    string `json:"email" maxLength:"255" example:"ada@example.org"`
		Password string `json:"password" maxLength:"1024" doc:"At least 15 characters; any characters."`
	}
}

type tokenInput struct {
	Body struct {
		Token string `json:"token" maxLength:"512" doc:"From the mail."`
	}
}

type profileInput struct {
	Body struct {
		DisplayName *string `json:"display_name,omitempty" maxLength:"400"`
		AvatarURL   *string `json:"avatar_url,omitempty" maxLength:"512"`
	}
}

type passwordInput struct {
	Body struct {
		Current string `json:"current_password" maxLength:"1024"`
		New     string `json:"new_password" maxLength:"1024"`
	}
}

type emailInput struct {
	Body struct {
		Email string `json:"email" maxLength:"255" example:"ada@example.org"`
	}
}

type recoveryInput struct {
	Body struct {
		Login string `json:"login" maxLength:"255" doc:"User name or e-mail address."`
	}
}

type recoverInput struct {
	Body struct {
		Token    string `json:"token" maxLength:"512" doc:"From the mail."`
		Password string `json:"password" maxLength:"1024"`
	}
}

// Paging is which part of a list is wanted.
type Paging struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
	Cursor string `query:"cursor" maxLength:"200"`
}

func (s *Server) accountRoutes() {
	tags := []string{"accounts"}
	handle(s, huma.Operation{
		OperationID: "register", Method: http.MethodPost, Path: "/v1/users", DefaultStatus: http.StatusCreated, Tags: tags,
		Summary:     "Sign up",
		Description: "Mails a link to verify the address. A taken user name is 409; a taken address gets the same 201, and its owner a mail.",
		Errors:      []int{http.StatusConflict},
	}, anybody, func(ctx context.Context, in *registerInput) (*output[user.User], error) {
		return reply(s.deps.Auth.Register(ctx, auth.Registration(in.Body), client(ctx)))
	})
	handle(s, huma.Operation{
		OperationID: "verify-email", Method: http.MethodPost, Path: "/v1/users/verify", DefaultStatus: http.StatusNoContent, Tags: tags,
		Summary: "Verify an e-mail address", Errors: []int{http.StatusGone},
	}, anybody, func(ctx context.Context, in *tokenInput) (*empty, error) {
		return nothing(s.deps.Auth.VerifyEmail(ctx, in.Body.Token, client(ctx)))
	})
	handle(s, huma.Operation{
		OperationID: "resend-verification", Method: http.MethodPost, Path: "/v1/users/me/verification", DefaultStatus: http.StatusAccepted, Tags: tags,
		Summary: "Mail the verification link again",
	}, anyUser, func(ctx context.Context, _ *empty) (*empty, error) {
		return nothing(s.deps.Auth.ResendVerification(ctx, caller(ctx)))
	})
	handle(s, huma.Operation{OperationID: "get-me", Method: http.MethodGet, Path: "/v1/users/me", Tags: tags, Summary: "My account"},
		enrolling, func(ctx context.Context, _ *empty) (*output[user.User], error) {
			return reply(s.deps.Users.ByPublicID(ctx, caller(ctx).UserID))
		})
	handle(s, huma.Operation{OperationID: "update-me", Method: http.MethodPatch, Path: "/v1/users/me", Tags: tags, Summary: "Change my profile"},
		anyUser, func(ctx context.Context, in *profileInput) (*output[user.User], error) {
			return reply(s.deps.Auth.UpdateProfile(ctx, caller(ctx), user.Profile{DisplayName: in.Body.DisplayName, AvatarURL: in.Body.AvatarURL}))
		})
	handle(s, huma.Operation{
		OperationID: "change-password", Method: http.MethodPut, Path: "/v1/users/me/password", Tags: tags,
		Summary: "Change my password", Description: "Ends all my other sessions; this one gets a new token, the old one ends at once. With a second factor enrolled, it must have been used a short while ago.",
	}, anyUser, func(ctx context.Context, in *passwordInput) (*signedIn[grantBody], error) {
		g, err := s.deps.Auth.ChangePassword(ctx, caller(ctx), in.Body.Current, in.Body.New, client(ctx))
		return granted(ctx, g, renamed(err, "password", "new_password"))
	})
	handle(s, huma.Operation{
		OperationID: "delete-me", Method: http.MethodDelete, Path: "/v1/users/me", DefaultStatus: http.StatusNoContent, Tags: tags,
		Summary: "Delete my account and all it has", Description: "Needs a fresh proof of identity: see reauthenticate. 409 email_settling for as long as a change of its address can be undone, and says until when.",
		Errors: []int{http.StatusConflict},
	}, anyUser, func(ctx context.Context, _ *empty) (*signedOut, error) {
		return signOut(ctx, s.deps.Auth.DeleteAccount(ctx, caller(ctx), client(ctx)))
	})
	handle(s, huma.Operation{OperationID: "export-me", Method: http.MethodGet, Path: "/v1/users/me/export", Tags: tags, Summary: "Everything that is kept about me", Description: "Needs a fresh proof of identity: see reauthenticate. At most 1000 tried codes and events each; truncated says that there are older ones."},
		anyUser, func(ctx context.Context, _ *empty) (*output[auth.Export], error) {
			return reply(s.deps.Auth.Export(ctx, caller(ctx)))
		})
	handle(s, huma.Operation{OperationID: "audit-me", Method: http.MethodGet, Path: "/v1/users/me/audit", Tags: tags, Summary: "My audit trail, newest first"},
		anyUser, func(ctx context.Context, in *Paging) (*output[list[event.Event]], error) {
			return reply(s.audit(ctx, in))
		})
	s.emailRoutes(tags)
	s.recoveryRoutes(tags)
}

// emailRoutes change an account's address: asked for by its owner, confirmed from the new one, undone from the old one.
func (s *Server) emailRoutes(tags []string) {
	handle(s, huma.Operation{
		OperationID: "change-email", Method: http.MethodPost, Path: "/v1/users/me/email", DefaultStatus: http.StatusAccepted, Tags: tags,
		Summary: "Ask for another e-mail address", Description: "Needs a fresh proof of identity: see reauthenticate. Nothing changes until the token mailed to the new address is confirmed. A taken address gets the same 202, and its owner a mail. The newest request counts.",
		Errors: []int{http.StatusConflict},
	}, anyUser, func(ctx context.Context, in *emailInput) (*empty, error) {
		return nothing(s.deps.Auth.ChangeEmail(ctx, caller(ctx), in.Body.Email, client(ctx)))
	})
	handle(s, huma.Operation{
		OperationID: "confirm-email", Method: http.MethodPost, Path: "/v1/users/email/confirm", DefaultStatus: http.StatusNoContent, Tags: tags,
		Summary: "Confirm a new e-mail address", Description: "Sessions go on; links mailed to the old address end, but for the one that it gets now and that undoes this.",
		Errors: []int{http.StatusConflict, http.StatusGone},
	}, anybody, func(ctx context.Context, in *tokenInput) (*empty, error) {
		return nothing(s.deps.Auth.ConfirmEmail(ctx, in.Body.Token, client(ctx)))
	})
	handle(s, huma.Operation{
		OperationID: "undo-email", Method: http.MethodPost, Path: "/v1/users/email/undo", DefaultStatus: http.StatusNoContent, Tags: tags,
		Summary: "Undo a change of e-mail address", Description: "The account gets its old address back. All its sessions end and its password is good no more: a link to set another one is mailed.",
		Errors: []int{http.StatusConflict, http.StatusGone},
	}, anybody, func(ctx context.Context, in *tokenInput) (*empty, error) {
		return nothing(s.deps.Auth.UndoEmail(ctx, in.Body.Token, client(ctx)))
	})
}

func (s *Server) recoveryRoutes(tags []string) {
	handle(s, huma.Operation{
		OperationID: "request-recovery", Method: http.MethodPost, Path: "/v1/auth/recovery", DefaultStatus: http.StatusAccepted, Tags: tags,
		Summary: "Ask for a link to set a new password", Description: "Always 202, whether or not there is such an account.",
	}, anybody, func(ctx context.Context, in *recoveryInput) (*empty, error) {
		return nothing(s.deps.Auth.RequestRecovery(ctx, in.Body.Login, client(ctx)))
	})
	handle(s, huma.Operation{
		OperationID: "confirm-recovery", Method: http.MethodPost, Path: "/v1/auth/recovery/confirm", DefaultStatus: http.StatusNoContent, Tags: tags,
		Summary: "Set a new password", Description: "Ends all sessions of the account. It does not sign in, and second factors stay.",
		Errors: []int{http.StatusGone},
	}, anybody, func(ctx context.Context, in *recoverInput) (*empty, error) {
		return nothing(s.deps.Auth.ConfirmRecovery(ctx, in.Body.Token, in.Body.Password, client(ctx)))
	})
}

func (s *Server) audit(ctx context.Context, in *Paging) (list[event.Event], error) {
	last, err := readAuditCursor(in.Cursor)
	if err != nil {
		return list[event.Event]{}, err
	}
	events, err := s.deps.Events.Audit(ctx, caller(ctx).UserID, last, in.Limit+1)
	if err != nil || len(events) <= in.Limit {
		return list[event.Event]{Items: events}, err
	}
	events = events[:in.Limit]
	return list[event.Event]{Items: events, NextCursor: auditCursor(events[in.Limit-1].Position())}, nil
}

// auditCursor is where a page ended: a time, which several events may bear, and a place in the log.
func auditCursor(p event.Position) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(p.At.UnixMicro()))                               // read as it is written
	return base64url.Encode(binary.BigEndian.AppendUint64(append(b, byte(p.Shard)), uint64(p.Seq))) //nolint:gosec // a shard is less than 16
}

func readAuditCursor(cursor string) (event.Position, error) {
	if cursor == "" {
		return event.Position{}, nil
	}
	b, err := base64url.Decode(cursor)
	if err == nil && len(b) == 17 && b[8] < event.Shards {
		micros, seq := int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[9:])) //nolint:gosec // what is negative is refused
		if micros > 0 && seq > 0 {
			return event.Position{At: time.UnixMicro(micros), Shard: int(b[8]), Seq: seq}, nil
		}
	}
	return event.Position{}, errs.NewInvalid("cursor", "must be next_cursor of an earlier answer")
}
