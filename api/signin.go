package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rootstream/auth"
	"rootstream/mfa"
	"rootstream/session"
	"rootstream/user"
)

type loginInput struct {
	Body struct {
		Login      string `json:"login" maxLength:"255" doc:"User name or e-mail address."`
		Password   string `json:"password" maxLength:"1024"`
		DeviceName string `json:"device_name,omitempty" maxLength:"400" doc:"What the list of sessions calls this device."`
		Remember   bool   `json:"remember,omitempty" doc:"Stay signed in on this device."`
	}
}

// loginBody is a token and its session, or the challenge for a second factor.
type loginBody struct {
	Token       string          `json:"token,omitempty" doc:"Shown this once."`
	Session     *grantedSession `json:"session,omitempty"`
	MFARequired bool            `json:"mfa_required,omitempty"`
	ChallengeID string          `json:"challenge_id,omitempty"`
	Methods     []mfa.Method    `json:"methods,omitempty"`
	ExpiresAt   *time.Time      `json:"challenge_expires_at,omitempty"`
}

// grantBody is a token and its session.
type grantBody struct {
	Token   string         `json:"token" doc:"Shown this once."`
	Session grantedSession `json:"session"`
}

// grantedSession is a new session, with what matters of its account.
type grantedSession struct {
	session.Session
	Role     user.Role `json:"role"`
	Verified bool      `json:"verified" doc:"The account's e-mail address is."`
}

func sessionOf(g auth.Grant) grantedSession {
	return grantedSession{g.Session, g.User.Role, g.User.IsVerified}
}

type signedIn[T any] struct {
	SetCookie []http.Cookie `header:"Set-Cookie"`
	Body      T
}

type answerInput struct {
	Body struct {
		ChallengeID string     `json:"challenge_id" maxLength:"200"`
		Method      mfa.Method `json:"method" enum:"totp,backup_code"`
		Code        string     `json:"code" maxLength:"64"`
	}
}

type proofInput struct {
	Body struct {
		Password string     `json:"password,omitempty" maxLength:"1024"`
		Method   mfa.Method `json:"method,omitempty" enum:"totp,backup_code"`
		Code     string     `json:"code,omitempty" maxLength:"64"`
	}
}

func granted(ctx context.Context, g auth.Grant, err error) (*signedIn[grantBody], error) {
	if err != nil {
		return nil, err
	}
	token := g.Token.Reveal()
	return &signedIn[grantBody]{signInCookies(ctx, token, g.Session), grantBody{token, sessionOf(g)}}, nil
}

func (s *Server) signInRoutes() {
	tags := []string{"signing in"}
	handle(s, huma.Operation{
		OperationID: "login", Method: http.MethodPost, Path: "/v1/auth/login", Tags: tags, Summary: "Sign in",
		Description: "Answers a token, or mfa_required with a challenge for /v1/auth/mfa/verify. Whatever is wrong, the answer is one 401.",
		Errors:      []int{http.StatusUnauthorized, http.StatusConflict},
	}, anybody, s.login)
	handle(s, huma.Operation{
		OperationID: "verify-mfa", Method: http.MethodPost, Path: "/v1/auth/mfa/verify", Tags: tags, Summary: "Finish signing in with a code",
		Errors: []int{http.StatusUnauthorized, http.StatusConflict, http.StatusGone},
	}, anybody, func(ctx context.Context, in *answerInput) (*signedIn[grantBody], error) {
		g, err := s.deps.Auth.VerifyMFA(ctx, auth.MFAAnswer(in.Body), client(ctx))
		return granted(ctx, g, err)
	})
	handle(s, huma.Operation{
		OperationID: "refresh", Method: http.MethodPost, Path: "/v1/auth/refresh", Tags: tags, Summary: "Replace the token of this session",
		Description: "For 10 s the old token goes on working and a repeated refresh gives the same new one; used here later, it ends the session.",
		Errors:      []int{http.StatusUnauthorized}, Security: []map[string][]string{{"bearer": {}}, {"cookie": {}}},
	}, anybody, func(ctx context.Context, _ *empty) (*signedIn[grantBody], error) {
		token := factsOf(ctx).token
		if token == "" {
			return nil, errSignIn
		}
		g, err := s.deps.Auth.Refresh(ctx, token, client(ctx))
		return granted(ctx, g, err)
	})
	handle(s, huma.Operation{
		OperationID: "logout", Method: http.MethodPost, Path: "/v1/auth/logout", DefaultStatus: http.StatusNoContent, Tags: tags, Summary: "Sign out",
	}, enrolling, func(ctx context.Context, _ *empty) (*signedOut, error) {
		return signOut(ctx, s.deps.Auth.Logout(ctx, factsOf(ctx).token))
	})
	handle(s, huma.Operation{
		OperationID: "reauthenticate", Method: http.MethodPost, Path: "/v1/auth/reauthenticate", Tags: tags, Summary: "Prove again that it is you",
		Description: "A password makes the sign-in fresh, a code raises the session to AAL2. The session gets a new token; the old one ends at once.",
	}, enrolling, func(ctx context.Context, in *proofInput) (*signedIn[grantBody], error) {
		g, err := s.deps.Auth.Reauthenticate(ctx, caller(ctx), auth.Proof(in.Body), client(ctx))
		return granted(ctx, g, err)
	})
}

func (s *Server) login(ctx context.Context, in *loginInput) (*signedIn[loginBody], error) {
	l, err := s.deps.Auth.Login(ctx, auth.Credentials(in.Body), client(ctx))
	if err != nil {
		return nil, err
	}
	if c := l.Challenge; c != nil {
		return &signedIn[loginBody]{Body: loginBody{MFARequired: true, ChallengeID: c.ID, Methods: c.Methods, ExpiresAt: &c.ExpiresAt}}, nil
	}
	token, opened := l.Grant.Token.Reveal(), sessionOf(*l.Grant)
	return &signedIn[loginBody]{signInCookies(ctx, token, l.Grant.Session), loginBody{Token: token, Session: &opened}}, nil
}
