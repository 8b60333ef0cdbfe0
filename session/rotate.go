package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/secret"
)

// holder is the session that a token belongs to, now or once.
type holder struct {
	id         int64
	public     uuid.UUID
	user       uuid.UUID
	userID     int64
	generation int32  // of the token
	current    []byte // hash of the session's present token
	live       bool
	retired    *time.Time // when the token was replaced; nil if it is the present one
	honoured   bool       // a replaced token still validates
	inGrace    bool       // it was replaced moments ago
}

const holderSQL = `select s.id, s.public_id, u.public_id, s.user_id, s.generation, s.token_hash,
		` + liveSQL + ` and coalesce(u.is_active, false), null::timestamptz, true, true
	from sessions s join users u on u.id = s.user_id where s.token_hash = $1
	union all
	select s.id, s.public_id, u.public_id, s.user_id, r.generation, s.token_hash,
		` + liveSQL + ` and coalesce(u.is_active, false), r.retired_at, r.valid_until > now(),
		r.retired_at + make_interval(secs => $2) > now()
	from session_retired_tokens r join sessions s on s.id = r.session_id join users u on u.id = s.user_id
	where r.token_hash = $1 limit 1`

func readHolder(ctx context.Context, q postgres.Querier, hash [32]byte) (h holder, err error) {
	err = q.QueryRow(ctx, holderSQL, hash[:], graceOfOld.Seconds()).Scan(&h.id, &h.public, &h.user, &h.userID,
		&h.generation, &h.current, &h.live, &h.retired, &h.honoured, &h.inGrace)
	if errors.Is(err, postgres.ErrNoRows) {
		return holder{}, ErrInvalid
	}
	if err != nil {
		return holder{}, fmt.Errorf("read session: %w", err)
	}
	return h, nil
}

// Refresh replaces a token. Whoever presents the same one again within ten seconds, to any instance, gets the same
// successor, since answers get lost; whoever does so later ends the session, since then one of the two was stolen
// ([ReusedError]). Tokens of Phase 24.2 become tokens of ours.
func (m *Manager) Refresh(ctx context.Context, token string) (Created, error) {
	c, ok := parse(token)
	if !ok {
		return Created{}, ErrInvalid
	}
	for range 3 { // a race lost to another refresh is decided at the next look
		h, err := readHolder(ctx, m.cfg.DB, c.hash)
		if err != nil {
			return Created{}, err
		}
		if !h.live {
			return Created{}, ErrInvalid
		}
		next, err := successors(m.cfg.Keys, h.public, h.generation, token)
		if err != nil {
			return Created{}, err
		}
		if h.retired != nil {
			return m.repeated(ctx, &h, next)
		}
		s, rotated, err := m.rotate(ctx, &h, &c, next[0])
		if err != nil {
			return Created{}, err
		}
		if rotated {
			return Created{Token: secret.FromString(next[0]), Session: s}, nil
		}
	}
	return Created{}, errs.New(errs.Unavailable, "session_busy", "the session is being changed").WithRetryAfter(time.Second)
}

// rotate makes next the session's token, unless the session was changed meanwhile. The old one is written down as
// replaced first, because the trigger that tells all instances reads there until when it is honoured.
func (m *Manager) rotate(ctx context.Context, h *holder, c *credential, next string) (s Session, done bool, err error) {
	successor, _ := parse(next)
	err = m.cfg.DB.InTx(ctx, func(tx *postgres.Tx) error {
		var version int64
		b := &pgx.Batch{}
		b.Queue(`insert into session_retired_tokens (token_hash, session_id, generation, retired_at, valid_until)
			select s.token_hash, s.id, s.generation, now(), now() + make_interval(secs => $4)
			from sessions s where s.id = $1 and s.token_hash = $2 and s.generation = $3 and `+liveSQL+` for no key update
			on conflict do nothing`, h.id, c.hash[:], h.generation, graceOfOld.Seconds())
		b.Queue(`update sessions s set token_hash = $4, session_token = 'h1:' || encode($4::bytea, 'hex'),
				generation = generation + 1, version = version + 1, last_activity = now()
			where s.id = $1 and s.token_hash = $2 and s.generation = $3 and `+liveSQL+`
			returning s.version`, h.id, c.hash[:], h.generation, successor.hash[:]).QueryRow(func(row pgx.Row) error {
			e := row.Scan(&version)
			done = e == nil
			return ignoreNoRows(e)
		})
		if e := tx.SendBatch(ctx, b).Close(); e != nil {
			return fmt.Errorf("refresh session: %w", e)
		}
		if !done {
			return nil
		}
		var e error
		if s, e = m.ByPublicID(ctx, tx, h.userID, h.public); e != nil {
			return e
		}
		return note(tx, "session.refreshed", h.public, h.user, Cause{})
	})
	return s, done, err
}

// repeated answers a token that has been replaced.
func (m *Manager) repeated(ctx context.Context, h *holder, next []string) (Created, error) {
	if !h.inGrace {
		return Created{}, m.endFamily(ctx, h)
	}
	if !h.honoured {
		return Created{}, ErrInvalid // a step-up replaced it, and that is at once
	}
	for _, token := range next {
		if c, _ := parse(token); [32]byte(h.current) == c.hash {
			s, err := m.ByPublicID(ctx, m.cfg.DB, h.userID, h.public)
			return Created{Token: secret.FromString(token), Session: s}, err
		}
	}
	return Created{}, ErrInvalid // its successor has been replaced as well
}

// endFamily ends a session one of whose old tokens came back.
func (m *Manager) endFamily(ctx context.Context, h *holder) error {
	err := m.cfg.DB.InTx(ctx, func(tx *postgres.Tx) error {
		if err := note(tx, "session.token_reused", h.public, h.user, Cause{}); err != nil {
			return err
		}
		return m.Revoke(ctx, tx, h.userID, h.public, Cause{Reason: "token_reused"})
	})
	if err != nil {
		return err
	}
	return &ReusedError{SessionID: h.public, UserID: h.user, DBUserID: h.userID}
}

// cutRetired ends what is left of the life of replaced tokens, and tells all instances.
const cutRetired = `with cut as (
		update session_retired_tokens r set valid_until = now() from sessions s
		where s.public_id = $1 and r.session_id = s.id and r.valid_until > now() returning r.token_hash, s.version),
	told as (
		insert into session_invalidations (token_hash, version, denied_from)
		select token_hash, version + 1, clock_timestamp() from cut)
	select token_hash from cut`

const retireNow = `insert into session_retired_tokens (token_hash, session_id, generation, retired_at, valid_until)
	select s.token_hash, s.id, s.generation, now(), now() from sessions s
	where s.public_id = $1 and ` + liveSQL + ` for no key update
	on conflict do nothing returning token_hash`

const elevateSQL = `update sessions s set token_hash = $2, session_token = 'h1:' || encode($2::bytea, 'hex'),
		generation = generation + 1, version = version + 1, last_activity = now(), aal = greatest(s.aal, $3::smallint),
		mfa_at = case when $3 > 1 then now() else s.mfa_at end,
		authenticated_at = case when 'pwd' = any($4::text[]) then now() else s.authenticated_at end,
		amr = array(select distinct x from unnest(s.amr || $4::text[]) x order by x)
	where s.public_id = $1 and ` + liveSQL + ` returning s.version`

// Elevate gives a session the assurance that was just proven and a new token. The old one, and those it replaced
// moments ago, are dead at once. An amr with "pwd" says that the password was proven again.
func (m *Manager) Elevate(ctx context.Context, tx *postgres.Tx, id uuid.UUID, aal uint8, amr []string) (Created, error) {
	if aal < 1 || aal > 2 {
		return Created{}, errs.NewInvalid("aal", "must be 1 or 2")
	}
	if amr == nil {
		amr = []string{}
	}
	token := newToken()
	c, _ := parse(token)
	var dead [][]byte
	var version int64
	var s Session
	collect := func(rows pgx.Rows) error {
		hashes, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
		dead = append(dead, hashes...)
		return err
	}
	var updated bool
	b := &pgx.Batch{}
	b.Queue(retireNow, id).Query(collect)
	b.Queue(cutRetired, id).Query(collect)
	b.Queue(elevateSQL, id, c.hash[:], int16(aal), amr).QueryRow(func(row pgx.Row) error {
		err := row.Scan(&version)
		updated = err == nil
		return ignoreNoRows(err)
	})
	b.Queue(sessionSQL, id, AnyOwner, AnyOwner).QueryRow(func(row pgx.Row) error { return ignoreNoRows(s.scan(row)) })
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return Created{}, fmt.Errorf("elevate session: %w", err)
	}
	if !updated {
		return Created{}, ErrInvalid
	}
	var tokens []ended
	for _, h := range dead {
		tokens = append(tokens, ended{[32]byte(h), version})
	}
	tx.AfterCommit(func() { m.bury(ctx, tokens) })
	return Created{Token: secret.FromString(token), Session: s}, note(tx, "session.elevated", s.ID, s.UserID, Cause{})
}
