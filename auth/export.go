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
}

// Export collects everything that is kept about the owner of a session.
func (s *Service) Export(ctx context.Context, p Principal) (Export, error) {
	if err := s.allowProof(ctx, p); err != nil {
		return Export{}, err
	}
	e, err := s.export(ctx, p.UserID, p.DBUserID)
	return e, signedOut(err)
}

// ExportUser collects everything that is kept about an account, for an administrator.
func (s *Service) ExportUser(ctx context.Context, by Actor, id uuid.UUID) (Export, error) {
	if err := by.require(session.RoleAdmin); err != nil {
		return Export{}, err
	}
	u, err := s.users.ByPublicID(ctx, id)
	if err != nil {
		return Export{}, err
	}
	return s.export(ctx, id, u.ID)
}

func (s *Service) export(ctx context.Context, id uuid.UUID, dbID int64) (e Export, err error) {
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
		if cursor == "" {
			break
		}
	}
	if s.streams != nil {
		if e.Streams, err = s.streams(ctx, id); err != nil {
			return Export{}, fmt.Errorf("export streams: %w", err)
		}
	}
	e.Audit, err = s.trail(ctx, id)
	return e, err
}

const (
	exportAttempts = 200  // of a page
	exportEvents   = 1000 // of a page
)

// trail reads an account's whole audit trail. Pages overlap in time, since
// several events may bear the same one.
func (s *Service) trail(ctx context.Context, id uuid.UUID) ([]event.Event, error) {
	type place struct {
		shard int
		seq   int64
	}
	history := event.NewStore(s.db)
	seen := map[place]bool{}
	var all []event.Event
	for before := s.cfg.Now().AddDate(1, 0, 0); ; {
		page, err := history.Audit(ctx, id, before, exportEvents)
		if err != nil {
			return nil, err
		}
		grown := false
		for _, e := range page {
			if at := (place{e.Shard, e.Seq}); !seen[at] {
				seen[at], grown = true, true
				all = append(all, e)
			}
		}
		if len(page) < exportEvents || !grown {
			slices.Reverse(all)
			return all, nil
		}
		before = page[len(page)-1].At.Add(1000) // the column holds microseconds
	}
}
