package session

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/secret"
)

// Session is one session as its owner and operators see it. It holds no token.
type Session struct {
	ID              uuid.UUID  `json:"id"`
	UserID          uuid.UUID  `json:"user_id"`
	DBUserID        int64      `json:"-"`
	Class           string     `json:"class"`
	AAL             uint8      `json:"aal"`
	AMR             []string   `json:"amr"`
	Remembered      bool       `json:"remembered"`
	Active          bool       `json:"active"`
	Device          Device     `json:"device"`
	CreatedAt       time.Time  `json:"created_at"`
	AuthenticatedAt time.Time  `json:"authenticated_at"`
	MFAAt           *time.Time `json:"mfa_at,omitempty"`
	LastActivity    time.Time  `json:"last_activity"`
	ExpiresAt       time.Time  `json:"expires_at"`
	IdleExpiresAt   *time.Time `json:"idle_expires_at,omitempty"`
	RevokedAt       *time.Time `json:"revoked_at,omitempty"`
	RevokedReason   string     `json:"revoked_reason,omitempty"`
}

// Created is a session and its token, which is never seen again.
type Created struct {
	Token   secret.Secret `json:"-"`
	Session Session       `json:"session"`
}

// AnyOwner stands for an owner where an operator may act on everybody's sessions.
const AnyOwner int64 = -1

// notIdle is true of a session whose idle window is still open, by the rule of [View.IdleExpiresAt].
const notIdle = `(s.idle_seconds is null or coalesce(s.last_activity, s.created_at)
	+ make_interval(secs => s.idle_seconds + greatest(60, s.idle_seconds / 20.0)) > now())`

const liveSQL = `coalesce(s.is_active, false) and s.revoked_at is null and s.expires_at > now() and ` + notIdle

const sessionColumns = `s.public_id, u.public_id, s.user_id, s.class, s.aal, s.amr, s.is_remembered,
	(` + liveSQL + ` and coalesce(u.is_active, false)), coalesce(s.device_id, ''), coalesce(s.device_name, ''),
	coalesce(s.device_fingerprint, ''), coalesce(s.user_agent, ''), s.ip_address, coalesce(s.geo_location, ''),
	coalesce(s.created_at, s.expires_at), coalesce(s.authenticated_at, s.created_at, s.expires_at), s.mfa_at,
	coalesce(s.last_activity, s.created_at, s.expires_at), s.expires_at,
	coalesce(s.last_activity, s.created_at) + make_interval(secs => s.idle_seconds),
	s.revoked_at, coalesce(s.revoked_reason, '')`

// scan reads the columns above; more follows them.
func (s *Session) scan(row pgx.Row, more ...any) error {
	var ip *netip.Prefix
	err := row.Scan(append([]any{
		&s.ID, &s.UserID, &s.DBUserID, &s.Class, &s.AAL, &s.AMR, &s.Remembered,
		&s.Active, &s.Device.ID, &s.Device.Name,
		&s.Device.Fingerprint, &s.Device.UserAgent, &ip, &s.Device.Location,
		&s.CreatedAt, &s.AuthenticatedAt, &s.MFAAt,
		&s.LastActivity, &s.ExpiresAt,
		&s.IdleExpiresAt,
		&s.RevokedAt, &s.RevokedReason,
	}, more...)...)
	if ip != nil {
		s.Device.IP = ip.Addr()
	}
	for _, t := range []*time.Time{
		&s.CreatedAt, &s.AuthenticatedAt, s.MFAAt, &s.LastActivity, &s.ExpiresAt, s.IdleExpiresAt, s.RevokedAt,
	} {
		if t != nil {
			*t = t.UTC()
		}
	}
	return err
}

// List returns the live sessions of a user, the newest first.
func (m *Manager) List(ctx context.Context, userID int64) ([]Session, error) {
	rows, err := m.cfg.DB.Query(ctx, `select `+sessionColumns+` from sessions s join users u on u.id = s.user_id
		where s.user_id = $1 and coalesce(u.is_active, false) and `+liveSQL+` order by s.created_at desc, s.id desc`, userID)
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Session, e error) {
		e = s.scan(row)
		return s, e
	})
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	return list, nil
}

const sessionSQL = `select ` + sessionColumns + ` from sessions s join users u on u.id = s.user_id
	where s.public_id = $1 and ($2 = s.user_id or $2 = $3)`

// ByPublicID returns one session of owner ([AnyOwner] for anybody's), live or not.
func (m *Manager) ByPublicID(ctx context.Context, q postgres.Querier, owner int64, id uuid.UUID) (Session, error) {
	var s Session
	err := s.scan(q.QueryRow(ctx, sessionSQL, id, owner, AnyOwner))
	if errors.Is(err, postgres.ErrNoRows) {
		return Session{}, ErrNotFound
	}
	if err != nil {
		return Session{}, fmt.Errorf("read session: %w", err)
	}
	return s, nil
}

// CheckLive refuses a session that has ended, as the database knows it ([ErrInvalid]): for what must not begin once a
// session is revoked, not even for as long as a cache believes in it. In a transaction that holds the account it is
// final, since whatever ends all sessions of an account holds it, too.
func (m *Manager) CheckLive(ctx context.Context, q postgres.Querier, id uuid.UUID) error {
	var live bool
	err := q.QueryRow(ctx, `select exists (select from sessions s join users u on u.id = s.user_id
		where s.public_id = $1 and coalesce(u.is_active, false) and `+liveSQL+`)`, id).Scan(&live)
	if err != nil {
		return fmt.Errorf("look at a session again: %w", err)
	}
	if !live {
		return ErrInvalid
	}
	return nil
}

// KnowsDevice reports whether there is a session of owner, live or not, that was made on a device. It asks for
// accounts that do not exist as well, so that finding nobody takes as long.
func (m *Manager) KnowsDevice(ctx context.Context, owner int64, device string) (bool, error) {
	if device == "" || utf8.RuneCountInString(device) > maxDeviceID || !printable(device) { // no session has it
		return false, nil
	}
	var known bool
	err := m.cfg.DB.QueryRow(ctx, `select exists (select from sessions where user_id = $1 and device_id = $2)`, owner, device).Scan(&known)
	if err != nil {
		return false, fmt.Errorf("look for a device: %w", err)
	}
	return known, nil
}

// Count is how many live sessions owner has, or all accounts together.
func (m *Manager) Count(ctx context.Context, owner int64) (int, error) {
	var n int
	err := m.cfg.DB.QueryRow(ctx, `select count(*) from sessions s join users u on u.id = s.user_id
		where ($1 = s.user_id or $1 = $2) and coalesce(u.is_active, false) and `+liveSQL, owner, AnyOwner).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count sessions: %w", err)
	}
	return n, nil
}

// Rename sets what the owner calls the session's device.
func (m *Manager) Rename(ctx context.Context, tx *postgres.Tx, owner int64, id uuid.UUID, name string) error {
	var f errs.Fields
	checkName(&f, "device_name", name)
	if err := f.Err(); err != nil {
		return err
	}
	var user uuid.UUID
	err := tx.QueryRow(ctx, `update sessions s set device_name = nullif($4, '') from users u
		where s.public_id = $1 and u.id = s.user_id and ($2 = s.user_id or $2 = $3) and s.revoked_at is null
		returning u.public_id`, id, owner, AnyOwner, name).Scan(&user)
	if errors.Is(err, postgres.ErrNoRows) {
		return ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("rename session: %w", err)
	}
	return note(tx, "session.renamed", id, user, Cause{})
}

// Cause is why something was done, and by whom.
type Cause struct {
	Reason string    // logout, admin, password_changed …; goes on record
	Actor  uuid.UUID // public id; zero means the owner
}

// note appends an event of a session.
func note(tx *postgres.Tx, name string, session, user uuid.UUID, why Cause) error {
	data := map[string]any{"session_id": session, "user_id": user}
	if why.Reason != "" {
		data["reason"] = why.Reason
	}
	e := event.New{
		Aggregate: event.Ref{Type: "session", ID: session}, Name: name, Data: data, UserID: &user, Expect: event.Any,
	}
	if why.Actor != uuid.Nil && why.Actor != user {
		e.ActorID = &why.Actor
	}
	if err := event.Append(tx, e); err != nil {
		return fmt.Errorf("note %s: %w", name, err)
	}
	return nil
}
