package session

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/secret"
)

// New is a session to be.
type New struct {
	UserID       int64
	UserPublicID uuid.UUID // checked against UserID's, if set
	Class        string    // of Config.Policies; "" means ClassUser
	AAL          uint8     // 1 or 2; 0 means 1
	AMR          []string  // how the user proved who they are: pwd, otp, …
	Remember     bool      // if the class allows it
	Device       Device
}

const lockUser = `select public_id, coalesce(is_active, false) from users where id = $1 for no key update`

// endedColumns are what must be done about a session that an UPDATE of s just ended.
const endedColumns = `s.id, s.public_id, s.token_hash, s.version`

// The limit is hidden in a sub-select: a plan made for its value looks cheaper than one that serves all, so that
// there would be another one for every session, which costs more than all the rest.
const evictSQL = `update sessions s
	set is_active = false, revoked_at = clock_timestamp(), revoked_reason = 'session_limit', version = version + 1
	where s.is_active and s.id in (select s.id from sessions s where s.user_id = $1 and ` + liveSQL + `
		order by s.created_at desc, s.id desc offset (select $2::bigint))
	returning ` + endedColumns

const insertSQL = `insert into sessions (user_id, session_token, token_hash, public_id, class, aal, amr, authenticated_at,
		mfa_at, idle_seconds, is_remembered, device_id, device_name, device_fingerprint, user_agent, ip_address,
		geo_location, created_at, last_activity, expires_at)
	select u.id, 'h1:' || encode($2::bytea, 'hex'), $2, $3, $4, $5::smallint, $6, now(),
		case when $5 > 1 then now() end, nullif($7::integer, 0), $8, nullif($9, ''), nullif($10, ''), nullif($11, ''),
		nullif($12, ''), $13::inet, nullif($14, ''), now(), now(), now() + make_interval(secs => $15)
	from users u where u.id = $1 and coalesce(u.is_active, false)
		and ($16 = 0 or (select count(*) from sessions s where s.user_id = $1 and ` + liveSQL + `) < $16)
	returning created_at, expires_at`

// Create begins a session and returns its token. The user's row is locked, so of many logins at once no more sessions
// live than the limit; the oldest are ended or, by [Deny], the new one is refused with [ErrLimit].
func (m *Manager) Create(ctx context.Context, tx *postgres.Tx, in New) (Created, error) {
	dev, err := in.Device.completed(m.cfg.Locate)
	if err != nil {
		return Created{}, err
	}
	if in.Class == "" {
		in.Class = ClassUser
	}
	policy, ok := m.cfg.Policies[in.Class]
	if !ok {
		return Created{}, ErrNoPolicy
	}
	in.AAL = max(in.AAL, 1)
	if in.AAL > 2 {
		return Created{}, errs.NewInvalid("aal", "must be 1 or 2")
	}
	t := policy.terms(in.Remember)
	id, err := uuid.NewV7()
	if err != nil {
		return Created{}, fmt.Errorf("make session id: %w", err)
	}
	s := Session{
		ID: id, DBUserID: in.UserID, Class: in.Class, AAL: in.AAL, AMR: slices.Clone(in.AMR), Remembered: t.remembered,
		Active: true, Device: dev,
	}
	if s.AMR == nil {
		s.AMR = []string{}
	}
	token := newToken()
	evicted, err := m.insert(ctx, tx, &s, t, token)
	if err != nil {
		return Created{}, err
	}
	if in.UserPublicID != uuid.Nil && in.UserPublicID != s.UserID {
		return Created{}, ErrUserInactive
	}
	if err := m.conclude(ctx, tx, evicted, s.UserID, Cause{Reason: "session_limit"}); err != nil {
		return Created{}, err
	}
	tx.AfterCommit(func() { m.counts.created.Add(1) })
	if err := note(tx, "session.created", s.ID, s.UserID, Cause{}); err != nil {
		return Created{}, err
	}
	return Created{Token: secret.FromString(token), Session: s}, nil
}

// insert locks, evicts and inserts in one round trip and completes s.
func (m *Manager) insert(ctx context.Context, tx *postgres.Tx, s *Session, t terms, token string) ([]gone, error) {
	c, _ := parse(token)
	var active bool
	var evicted []gone
	lockErr, insertErr := error(nil), error(nil)
	denyAt := 0
	b := &pgx.Batch{}
	b.Queue(lockUser, s.DBUserID).QueryRow(func(row pgx.Row) error {
		lockErr = row.Scan(&s.UserID, &active)
		return ignoreNoRows(lockErr)
	})
	if m.cfg.OnLimit == Deny {
		denyAt = m.cfg.MaxSessions
	} else {
		b.Queue(evictSQL, s.DBUserID, m.cfg.MaxSessions-1).Query(func(rows pgx.Rows) (err error) {
			evicted, err = collectGone(rows)
			return err
		})
	}
	d := &s.Device
	b.Queue(insertSQL, s.DBUserID, c.hash[:], s.ID, s.Class, int16(s.AAL), s.AMR, int(t.idle.Seconds()), s.Remembered,
		d.ID, d.Name, d.Fingerprint, d.UserAgent, addrOrNull(d.IP), d.Location, t.absolute.Seconds(), denyAt,
	).QueryRow(func(row pgx.Row) error {
		insertErr = row.Scan(&s.CreatedAt, &s.ExpiresAt)
		return ignoreNoRows(insertErr)
	})
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("create session: %w", err)
	}
	switch {
	case lockErr != nil || !active:
		return nil, ErrUserInactive
	case insertErr != nil:
		return nil, ErrLimit
	}
	s.CreatedAt, s.ExpiresAt = s.CreatedAt.UTC(), s.ExpiresAt.UTC()
	s.AuthenticatedAt, s.LastActivity = s.CreatedAt, s.CreatedAt
	if s.AAL > 1 {
		s.MFAAt = &s.AuthenticatedAt
	}
	if t.idle > 0 {
		at := s.CreatedAt.Add(t.idle.Truncate(time.Second))
		s.IdleExpiresAt = &at
	}
	return evicted, nil
}

func ignoreNoRows(err error) error {
	if errors.Is(err, postgres.ErrNoRows) {
		return nil
	}
	return err
}

func addrOrNull(a netip.Addr) *netip.Addr {
	if !a.IsValid() {
		return nil
	}
	return &a
}
