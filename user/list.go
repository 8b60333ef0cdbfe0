package user

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/internal/base64url"
)

const (
	defaultLimit = 50
	maxLimit     = 200
	cursorForm   = 1 // first byte of a cursor
)

// Filter narrows a list; zero values mean no filter.
type Filter struct {
	Role     Role
	Active   *bool
	Verified *bool
	Search   string // part of the user name, address or display name, in any case
}

// Page is a part of a list.
type Page struct {
	Items      []User `json:"items"`
	NextCursor string `json:"next_cursor,omitempty"` // "" on the last page
}

// List returns accounts in the order of their public ids, which is the order
// of their making but for rows of Phase 24.2. Limit is at most 200; 0 means 50.
func (s *Store) List(ctx context.Context, limit int, cursor string, f Filter) (Page, error) {
	after, err := checkList(&limit, cursor, f)
	if err != nil {
		return Page{}, err
	}
	rows, err := s.db.Query(ctx, "select "+columns+` from users u
		where u.public_id > $1 and ($2 = '' or u.role = $2)
		  and ($3::bool is null or coalesce(u.is_active, false) = $3) and ($4::bool is null or coalesce(u.is_verified, false) = $4)
		  and ($5 = '' or strpos(lower(u.username), lower($5)) > 0 or strpos(lower(u.email), lower($5)) > 0
		       or strpos(lower(u.display_name), lower($5)) > 0)
		order by u.public_id limit $6`, after, f.Role, f.Active, f.Verified, f.Search, limit+1)
	if err != nil {
		return Page{}, fmt.Errorf("list users: %w", err)
	}
	items, err := pgx.CollectRows(rows, pgx.RowToStructByName[User])
	if err != nil {
		return Page{}, fmt.Errorf("list users: %w", err)
	}
	p := Page{Items: items}
	if len(items) > limit {
		p.Items = slices.Clip(items[:limit])
		last := p.Items[limit-1].PublicID
		p.NextCursor = base64url.Encode(append([]byte{cursorForm}, last[:]...))
	}
	for i, u := range p.Items {
		p.Items[i] = u.inUTC()
	}
	return p, nil
}

func checkList(limit *int, cursor string, f Filter) (after uuid.UUID, err error) {
	var faults errs.Fields
	switch {
	case *limit == 0:
		*limit = defaultLimit
	case *limit < 0 || *limit > maxLimit:
		faults.Add("limit", "must be from 1 to 200")
	}
	if cursor != "" {
		b, err := base64url.Decode(cursor)
		if err != nil || len(b) != 17 || b[0] != cursorForm {
			faults.Add("cursor", "must be a next_cursor of an earlier page")
		} else {
			after = uuid.UUID(b[1:])
		}
	}
	if f.Role != "" && !f.Role.Valid() {
		faults.Add("role", "must be user, operator or admin")
	}
	if !storable(f.Search) || len(f.Search) > maxEmail {
		faults.Add("search", "must be text of at most 254 bytes")
	}
	return after, faults.Err()
}

// Finding is an account that is kept although it breaks a rule of today.
type Finding struct {
	Kind     string      `json:"kind"` // case_duplicate
	UserID   uuid.UUID   `json:"user_id"`
	Username string      `json:"username"`
	Email    string      `json:"email"`
	Others   []uuid.UUID `json:"others"` // the accounts it collides with, oldest first
	FoundAt  time.Time   `json:"found_at"`
}

// LegacyFindings returns the accounts whose name or address differs from an
// older one's only by case. They sign in by exact spelling; giving them
// another address, or deleting the other account, resolves it.
func (s *Store) LegacyFindings(ctx context.Context) ([]Finding, error) {
	rows, err := s.db.Query(ctx, `select 'case_duplicate' as kind, u.public_id as user_id, u.username, u.email,
			array(select o.public_id from users o where o.id <> u.id
				and (lower(o.username) = lower(u.username) or lower(o.email) = lower(u.email)) order by o.id) as others,
			coalesce((select min(a.found_at) from adoption_findings a
				where a.kind = 'case_duplicate' and a.found_in = 'users' and a.row_id = u.id), u.created_at, 'epoch') as found_at
		from users u where u.is_case_duplicate order by u.id`)
	if err != nil {
		return nil, fmt.Errorf("list findings: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[Finding])
	if err != nil {
		return nil, fmt.Errorf("list findings: %w", err)
	}
	for i := range found {
		found[i].FoundAt = found[i].FoundAt.UTC()
	}
	return found, nil
}
