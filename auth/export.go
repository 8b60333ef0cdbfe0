package auth

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"rootstream/event"
	"rootstream/mfa"
	"rootstream/session"
	"rootstream/user"
)

// Export is everything that is kept about somebody. It holds no secret that
// would let anybody in.
type Export struct {
	Account  user.Export       `json:"account"`
	Sessions []session.Session `json:"sessions"`
	Factors  mfa.Status        `json:"factors"`
	Attempts []mfa.Record      `json:"attempts"` // codes that were tried, newest first
	Streams  any               `json:"streams,omitempty"`
	Audit    []event.Event     `json:"audit"` // oldest first
	// Truncated says that older attempts or events are left out.
	Truncated bool `json:"truncated,omitempty" doc:"Older attempts and events are left out: page through /v1/mfa/attempts and /v1/users/me/audit."`
}

// Export collects what is kept about the owner of a fresh session, at most 1000
// tries and events each, one export of an account at a time.
func (s *Service) Export(ctx context.Context, p Principal) (Export, error) {
	if err := s.RequireFresh(ctx, p); err != nil {
		return Export{}, err
	}
	if err := s.allow(ctx, "export", p.UserID.String(), perHour(s.cfg.Rate.ExportAccount)); err != nil {
		return Export{}, err
	}
	next, err := s.turns.Take(ctx, "export:"+p.UserID.String())
	if err != nil {
		return Export{}, err
	}
	defer next()
	e, err := s.export(ctx, p.UserID, p.DBUserID, ownExport)
	return e, signedOut(err)
}

// ExportUser collects everything that is kept about an account, however much, for an administrator.
func (s *Service) ExportUser(ctx context.Context, by Actor, id uuid.UUID) (Export, error) {
	if err := by.require(session.RoleAdmin); err != nil {
		return Export{}, err
	}
	u, err := s.users.ByPublicID(ctx, id)
	if err != nil {
		return Export{}, err
	}
	return s.export(ctx, id, u.ID, wholeExport)
}

func (s *Service) export(ctx context.Context, id uuid.UUID, dbID int64, most int) (e Export, err error) {
	if e.Account, err = s.users.Export(ctx, id); err != nil {
		return Export{}, err
	}
	if e.Sessions, err = s.sessions.List(ctx, dbID); err != nil {
		return Export{}, err
	}
	if e.Factors, err = s.mfa.Status(ctx, dbID); err != nil {
		return Export{}, err
	}
	for cursor := ""; ; {
		var page []mfa.Record
		if page, cursor, err = s.mfa.Attempts(ctx, dbID, exportAttempts, cursor); err != nil {
			return Export{}, err
		}
		e.Attempts = append(e.Attempts, page...)
		if cursor == "" || len(e.Attempts) > most {
			break
		}
	}
	if s.streams != nil {
		if e.Streams, err = s.streams(ctx, id); err != nil {
			return Export{}, fmt.Errorf("export streams: %w", err)
		}
	}
	if e.Audit, err = event.NewStore(s.db).Trail(ctx, id, most+1); err != nil {
		return Export{}, err
	}
	slices.Reverse(e.Audit)
	if len(e.Attempts) > most {
		e.Attempts, e.Truncated = e.Attempts[:most], true
	}
	if len(e.Audit) > most { // the first is the oldest
		e.Audit, e.Truncated = e.Audit[len(e.Audit)-most:], true
	}
	return e, nil
}

const (
	exportAttempts = 200  // of a page
	ownExport      = 1000 // tries and events that somebody gets at once
	wholeExport    = 1 << 62
)
