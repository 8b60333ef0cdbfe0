package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/postgres"
)

// viewColumns are what a View is made of. Rows of Phase 24.2 may lack what later writers always set. now() is the
// start of the transaction, so it is not later than the snapshot the row was read from.
const viewColumns = `s.id, s.public_id, s.user_id, u.public_id, u.role, coalesce(u.is_verified, false), s.version,
	s.generation, s.aal, s.is_remembered, coalesce(s.idle_seconds, 0), s.expires_at,
	coalesce(s.last_activity, s.created_at, now()), coalesce(s.created_at, s.expires_at), s.authenticated_at, s.mfa_at,
	coalesce(s.device_id, ''), coalesce(s.device_fingerprint, ''), now(),
	coalesce(s.is_active, false) and s.revoked_at is null and coalesce(u.is_active, false)`

// A token is a session's present one, or one that was replaced moments ago.
const (
	loadOne = `select ` + viewColumns + `, s.token_hash, null::timestamptz
		from sessions s join users u on u.id = s.user_id where s.token_hash = $1
		union all
		select ` + viewColumns + `, r.token_hash, r.valid_until
		from session_retired_tokens r join sessions s on s.id = r.session_id join users u on u.id = s.user_id
		where r.token_hash = $1 limit 1`
	// The array's length is hidden in a sub-select, so that one plan serves all: planning costs more than reading.
	loadMany = `select ` + viewColumns + `, s.token_hash, null::timestamptz
		from unnest((select $1::bytea[])) q(h) join sessions s on s.token_hash = q.h join users u on u.id = s.user_id
		union all
		select ` + viewColumns + `, r.token_hash, r.valid_until
		from unnest((select $1::bytea[])) q(h) join session_retired_tokens r on r.token_hash = q.h
		join sessions s on s.id = r.session_id join users u on u.id = s.user_id`
)

// viewRow reads the columns above.
type viewRow struct {
	View
	role          string
	idle          int64
	expires, last time.Time
	created, now  time.Time
	auth, mfa     *time.Time
	device, print string
	live          bool
	hash          []byte
	validUntil    *time.Time
}

func (r *viewRow) targets() []any {
	return []any{
		&r.DBSessionID, &r.SessionID, &r.DBUserID, &r.UserID, &r.role, &r.Verified, &r.Version,
		&r.Generation, &r.AAL, &r.Remembered, &r.idle, &r.expires,
		&r.last, &r.created, &r.auth, &r.mfa,
		&r.device, &r.print, &r.now, &r.live, &r.hash, &r.validUntil,
	}
}

// finish turns what was read into the view; false if the session has ended.
func (r *viewRow) finish() (View, bool) {
	v := &r.View
	v.Role = roleOf(r.role)
	v.IdleSeconds = uint32(r.idle) //nolint:gosec // the column is a positive integer
	v.ExpiresAt, v.LastActivity, v.CreatedAt = r.expires.UnixMicro(), r.last.UnixMicro(), r.created.UnixMicro()
	v.AuthAt, v.MFAAt = v.CreatedAt, 0
	if r.auth != nil {
		v.AuthAt = r.auth.UnixMicro()
	}
	if r.mfa != nil {
		v.MFAAt = r.mfa.UnixMicro()
	}
	if r.validUntil != nil {
		v.ExpiresAt = min(v.ExpiresAt, r.validUntil.UnixMicro())
	}
	v.DeviceHash, v.PrintHash = hash64(r.device), hash64(r.print)
	v.FilledAt = r.now.UnixMicro()
	return *v, r.live && !v.expired(v.FilledAt)
}

// load reads one token's session; false if there is none or it has ended. Idleness is not judged here.
func load(ctx context.Context, q postgres.Querier, hash [32]byte) (View, bool, error) {
	var r viewRow
	err := q.QueryRow(ctx, loadOne, hash[:]).Scan(r.targets()...)
	if errors.Is(err, postgres.ErrNoRows) {
		return View{}, false, nil
	}
	if err != nil {
		return View{}, false, fmt.Errorf("load session: %w", err)
	}
	v, live := r.finish()
	return v, live, nil
}

// loadAll reads the sessions of many tokens. Those that ended, or never were, are missing from the answer.
func loadAll(ctx context.Context, q postgres.Querier, hashes [][]byte) (map[[32]byte]View, error) {
	rows, err := q.Query(ctx, loadMany, hashes)
	if err != nil {
		return nil, fmt.Errorf("load sessions: %w", err)
	}
	out := make(map[[32]byte]View, len(hashes))
	var r viewRow
	_, err = pgx.ForEachRow(rows, r.targets(), func() error {
		if v, live := r.finish(); live && len(r.hash) == 32 {
			out[[32]byte(r.hash)] = v
		}
		r.View = View{}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load sessions: %w", err)
	}
	return out, nil
}
