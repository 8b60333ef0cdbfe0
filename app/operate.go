package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"

	"rootstream/auth"
	"rootstream/errs"
	"rootstream/event"
	"rootstream/mfa"
	"rootstream/postgres"
	"rootstream/secret"
	"rootstream/session"
	"rootstream/stream"
	"rootstream/user"
)

// The rooms' own types, for the commands of operators, which open no room but this one.
//
//nolint:revive // each is documented where it is defined
type (
	User          = user.User
	Account       = auth.Account
	Registration  = auth.Registration
	Role          = user.Role
	UserFilter    = user.Filter
	ImportOptions = user.ImportOptions
	ImportSummary = user.ImportSummary
	ImportLine    = user.ImportLine
	Session       = session.Session
	MFAStatus     = mfa.Status
	Stream        = stream.Stream
	StreamDraft   = stream.Draft
	StreamAccount = stream.Account
	StreamFilter  = stream.Filter
	StreamStats   = stream.Stats
	StreamSession = stream.Session
	Event         = event.Event
	EventFindings = event.Findings
	EventsPruned  = event.Pruned
	SealingKey    = secret.KeyStatus
	ID            = uuid.UUID
	MFAEnrollment = mfa.Enrollment
	CreatedStream = stream.Created
)

// errNoUser names the account that was looked for.
func errNoUser(name string) error {
	return errs.New(errs.NotFound, "user_not_found", fmt.Sprintf("there is no account %q", name)).
		WithHint("rootstream user list shows them all")
}

// FindUser looks an account up by id, user name or e-mail address.
func (p *Parts) FindUser(ctx context.Context, name string) (User, error) {
	var u User
	var err error
	if id, bad := uuid.Parse(name); bad == nil {
		u, err = p.Users.ByPublicID(ctx, id)
	} else {
		u, err = p.Users.ByLogin(ctx, name)
	}
	if errs.KindOf(err) == errs.NotFound {
		return User{}, errNoUser(name)
	}
	return u, err
}

// ParseID reads a public id.
func ParseID(what, text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return uuid.Nil, errs.NewInvalid(what, "must be an id such as 0198c0de-0000-7000-8000-000000000000")
	}
	return id, nil
}

// AddUser makes an account, as the operator of this machine.
func (p *Parts) AddUser(ctx context.Context, a Account) (User, error) {
	return p.Auth.CreateUser(ctx, auth.Console(), a)
}

// SetRole changes what an account may do.
func (p *Parts) SetRole(ctx context.Context, name, role string) (User, error) {
	return p.onUser(ctx, name, func(u User) (User, error) { return p.Auth.SetRole(ctx, auth.Console(), u.PublicID, user.Role(role)) })
}

// VerifyUser marks an account's address as verified.
func (p *Parts) VerifyUser(ctx context.Context, name string) (User, error) {
	return p.onUser(ctx, name, func(u User) (User, error) { return p.Auth.VerifyUser(ctx, auth.Console(), u.PublicID) })
}

// SetEmail gives an account another address.
func (p *Parts) SetEmail(ctx context.Context, name, email string, verified bool) (User, error) {
	return p.onUser(ctx, name, func(u User) (User, error) { return p.Auth.SetEmail(ctx, auth.Console(), u.PublicID, email, verified) })
}

// DisableUser keeps an account from signing in and ends its sessions.
func (p *Parts) DisableUser(ctx context.Context, name string) (User, error) {
	return p.onUser(ctx, name, func(u User) (User, error) { return p.Auth.Disable(ctx, auth.Console(), u.PublicID) })
}

// EnableUser lets an account sign in again.
func (p *Parts) EnableUser(ctx context.Context, name string) (User, error) {
	return p.onUser(ctx, name, func(u User) (User, error) { return p.Auth.Enable(ctx, auth.Console(), u.PublicID) })
}

// DeleteUser removes an account and all it has.
func (p *Parts) DeleteUser(ctx context.Context, name string) error {
	_, err := p.onUser(ctx, name, func(u User) (User, error) { return u, p.Auth.DeleteUser(ctx, auth.Console(), u.PublicID) })
	return err
}

func (p *Parts) onUser(ctx context.Context, name string, fn func(User) (User, error)) (User, error) {
	u, err := p.FindUser(ctx, name)
	if err != nil {
		return User{}, err
	}
	return fn(u)
}

// ListUsers lists the accounts that f lets through, at most so many.
func (p *Parts) ListUsers(ctx context.Context, f UserFilter, most int) ([]User, error) {
	var all []User
	for cursor := ""; len(all) < most; {
		page, err := p.Users.List(ctx, min(200, most-len(all)), cursor, f)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	return all, nil
}

// ExportUser writes everything that is kept about an account as JSON.
func (p *Parts) ExportUser(ctx context.Context, name string, w io.Writer) error {
	u, err := p.FindUser(ctx, name)
	if err != nil {
		return err
	}
	all, err := p.Auth.ExportUser(ctx, auth.Console(), u.PublicID)
	if err != nil {
		return err
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(all)
}

// SessionsOf lists an account's live sessions.
func (p *Parts) SessionsOf(ctx context.Context, name string) ([]Session, error) {
	u, err := p.FindUser(ctx, name)
	if err != nil {
		return nil, err
	}
	return p.Sessions.List(ctx, u.ID)
}

// ShowSession returns one session, live or not.
func (p *Parts) ShowSession(ctx context.Context, id uuid.UUID) (Session, error) {
	return p.Auth.Session(ctx, id)
}

// RevokeSession ends one session.
func (p *Parts) RevokeSession(ctx context.Context, id uuid.UUID) error {
	return p.Auth.EndSession(ctx, auth.Console(), id)
}

// RevokeSessions ends all sessions of an account and returns how many.
func (p *Parts) RevokeSessions(ctx context.Context, name string) (n int, err error) {
	_, err = p.onUser(ctx, name, func(u User) (User, error) {
		n, err = p.Auth.RevokeSessions(ctx, auth.Console(), u.PublicID)
		return u, err
	})
	return n, err
}

// MFAStatusOf returns what an account has set up.
func (p *Parts) MFAStatusOf(ctx context.Context, name string) (MFAStatus, error) {
	u, err := p.FindUser(ctx, name)
	if err != nil {
		return MFAStatus{}, err
	}
	return p.MFA.Status(ctx, u.ID)
}

// EnrollMFA begins an authenticator for an account; its owner confirms it.
func (p *Parts) EnrollMFA(ctx context.Context, name string) (e MFAEnrollment, err error) {
	u, err := p.FindUser(ctx, name)
	if err != nil {
		return e, err
	}
	return inTx(ctx, p.DB, func(tx *postgres.Tx) (MFAEnrollment, error) {
		return p.MFA.EnrollTOTP(ctx, tx, mfa.Account{UserID: u.ID, UserPublicID: u.PublicID, Label: u.Username})
	})
}

// ResetMFA removes all factors of an account and lifts a suspension.
func (p *Parts) ResetMFA(ctx context.Context, name string) error {
	_, err := p.onUser(ctx, name, func(u User) (User, error) { return u, p.Auth.ResetMFA(ctx, auth.Console(), u.PublicID) })
	return err
}

// ResumeMFA lifts the suspension of an account's factors, which stay as they are.
func (p *Parts) ResumeMFA(ctx context.Context, name string) error {
	_, err := p.onUser(ctx, name, func(u User) (User, error) { return u, p.Auth.ResumeMFA(ctx, auth.Console(), u.PublicID) })
	return err
}

// StreamOwner is the account a stream command acts for; "" is the operator of this machine.
func (p *Parts) StreamOwner(ctx context.Context, name string) (StreamAccount, error) {
	if name == "" {
		return StreamAccount{Operator: true}, nil
	}
	u, err := p.FindUser(ctx, name)
	return StreamAccount{ID: u.ID, PublicID: u.PublicID}, err
}

// ListStreams lists the streams that f lets through, at most so many.
func (p *Parts) ListStreams(ctx context.Context, a StreamAccount, f StreamFilter, most int) ([]Stream, error) {
	var all []Stream
	for {
		f.Limit = min(200, most-len(all))
		page, err := p.Streams.Streams(ctx, a, f)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if f.Cursor = page.NextCursor; f.Cursor == "" || len(all) >= most {
			return all, nil
		}
	}
}

// AppendEvent appends one event; data is JSON.
func (p *Parts) AppendEvent(ctx context.Context, entity, name, data string, expect int64) (int64, error) {
	ref, err := parseRef(entity)
	if err != nil {
		return 0, err
	}
	var fields map[string]any
	if data != "" {
		if err = json.Unmarshal([]byte(data), &fields); err != nil {
			return 0, errs.NewInvalid("--payload", "must be a JSON object")
		}
	}
	err = p.DB.InTx(ctx, func(tx *postgres.Tx) error {
		return event.Append(tx, event.New{Aggregate: ref, Name: name, Data: fields, Expect: expect})
	})
	if err != nil {
		return 0, err
	}
	return p.Events.Version(ctx, ref)
}

// PruneEvents removes events that snapshots older than a time make dispensable; a dry run only counts them.
func (p *Parts) PruneEvents(ctx context.Context, before time.Time, dry bool) (EventsPruned, error) {
	if before.IsZero() || before.After(time.Now()) {
		return EventsPruned{}, errs.NewInvalid("--before", "must be a time in the past")
	}
	return p.Events.Prune(ctx, before, dry)
}

// EraseEvents removes the values that the past of an entity holds, and returns how many events lost theirs.
func (p *Parts) EraseEvents(ctx context.Context, entity string) (int, error) {
	ref, err := parseRef(entity)
	if err != nil {
		return 0, err
	}
	return inTx(ctx, p.DB, func(tx *postgres.Tx) (int, error) {
		v, err := event.NewStore(tx).Version(ctx, ref)
		if err == nil && v == 0 {
			err = event.ErrNotFound
		}
		if err != nil {
			return 0, err
		}
		return p.Sync.Erase(ctx, tx, ref)
	})
}

// parseRef reads type:id, and as well how topics and paths name an entity: type.id and type/id.
func parseRef(text string) (event.Ref, error) {
	i := strings.IndexAny(text, ":./")
	if i < 0 {
		return event.Ref{}, errs.NewInvalid("entity", "must be TYPE:ID, for example stream:0198c0de-0000-7000-8000-000000000000")
	}
	id, err := ParseID("entity", text[i+1:])
	return event.Ref{Type: text[:i], ID: id}, err
}

// EventsOf reads an entity's events from a version on, all of them.
func (p *Parts) EventsOf(ctx context.Context, entity string, from int64, most int) ([]Event, error) {
	ref, err := parseRef(entity)
	if err != nil {
		return nil, err
	}
	var all []Event
	for len(all) < most {
		page, err := p.Events.Read(ctx, event.Page{Entity: ref, FromVersion: from, Limit: min(1000, most-len(all))})
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < min(1000, most-len(all)+len(page)) {
			break
		}
		from = page[len(page)-1].Version + 1
	}
	return all, nil
}

// AuditOf reads an account's audit trail, newest first.
func (p *Parts) AuditOf(ctx context.Context, name string, most int) ([]Event, error) {
	u, err := p.FindUser(ctx, name)
	if err != nil {
		return nil, err
	}
	return p.Events.Trail(ctx, u.PublicID, most)
}

// StateOf returns the state that an entity's events made of it: at a version, else at a time, else now.
func (p *Parts) StateOf(ctx context.Context, entity string, version int64, at time.Time) (event.State, error) {
	ref, err := parseRef(entity)
	if err != nil {
		return event.State{}, err
	}
	return p.Events.State(ctx, ref, event.At{Version: version, Time: at})
}

// EventsBetween returns all entities' events of a time, oldest first.
func (p *Parts) EventsBetween(ctx context.Context, since, until time.Time, most int) ([]Event, error) {
	var all []Event
	span := event.Span{From: since, To: until}
	for len(all) < most {
		span.Limit = min(1000, most-len(all))
		page, err := p.Events.Between(ctx, span)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < span.Limit {
			break
		}
		span.After = page[len(page)-1].Position()
	}
	return all, nil
}

// ReplayEvents writes an entity's events from a version on, one JSON object a line.
func (p *Parts) ReplayEvents(ctx context.Context, entity string, from int64, w io.Writer) error {
	ref, err := parseRef(entity)
	if err != nil {
		return err
	}
	out := json.NewEncoder(w)
	for {
		page, err := p.Events.Read(ctx, event.Page{Entity: ref, FromVersion: from, Limit: 1000})
		if err != nil || len(page) == 0 {
			return err
		}
		for _, e := range page {
			if err := out.Encode(e); err != nil {
				return err
			}
		}
		from = page[len(page)-1].Version + 1
	}
}
