package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/postgres"
	"rootstream/session/near"
)

// gone is a session that a statement just ended.
type gone struct {
	row     int64
	id      uuid.UUID
	user    uuid.UUID // set where the statement says whose it was
	hash    []byte
	version int64
}

func collectGone(rows pgx.Rows) ([]gone, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (gone, error) {
		var g gone
		err := row.Scan(&g.row, &g.id, &g.hash, &g.version)
		return g, err
	})
}

// honouredSQL finds the replaced tokens of sessions that had just been ended. It is a statement of its own, after the one
// that ended them: that one may have waited for a refresh, whose replaced token its snapshot does not show.
const honouredSQL = `select r.token_hash, s.version from session_retired_tokens r join sessions s on s.id = r.session_id
	where r.session_id = any($1) and r.valid_until > now()`

// tokens are all tokens that were valid for sessions.
func tokens(ctx context.Context, tx *postgres.Tx, sessions []gone) ([]ended, error) {
	rowIDs := make([]int64, len(sessions))
	var out []ended
	add := func(hash []byte, version int64) {
		if len(hash) == 32 {
			out = append(out, ended{[32]byte(hash), version})
		}
	}
	for i, g := range sessions {
		rowIDs[i] = g.row
		add(g.hash, g.version)
	}
	rows, err := tx.Query(ctx, honouredSQL, rowIDs)
	if err != nil {
		return nil, fmt.Errorf("read replaced tokens: %w", err)
	}
	var hash []byte
	var version int64
	_, err = pgx.ForEachRow(rows, []any{&hash, &version}, func() error {
		add(hash, version)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read replaced tokens: %w", err)
	}
	return out, nil
}

// conclude notes the end of sessions and, once it is committed, makes all caches forget them.
func (m *Manager) conclude(ctx context.Context, tx *postgres.Tx, sessions []gone, user uuid.UUID, why Cause) error {
	if len(sessions) == 0 {
		return nil
	}
	dead, err := tokens(ctx, tx, sessions)
	if err != nil {
		return err
	}
	for _, g := range sessions {
		if g.user != uuid.Nil {
			user = g.user
		}
		if err := note(tx, "session.revoked", g.id, user, why); err != nil {
			return err
		}
	}
	tx.AfterCommit(func() {
		m.counts.revoked.Add(uint64(len(sessions)))
		m.bury(ctx, dead)
	})
	return nil
}

// bury makes this process forget tokens that have ended, and Redis for all others. The tombstone comes first: a reader
// of this process who is under way then finds either it or the mark.
func (m *Manager) bury(ctx context.Context, tokens []ended) {
	err := m.shared.putUp(ctx, tokens)
	now := m.clock.now()
	if m.clock.polled.Load() == 0 {
		now = time.Now().UnixMicro() // never read the database's: a mark that holds at once is what is needed
	}
	at := time.UnixMicro(now)
	for _, t := range tokens {
		m.forget(near.Key(t.hash[:16]), t.version, &at, now)
	}
	if err != nil {
		m.cfg.Logger.WarnContext(ctx, "other instances will hear of a revocation from the database only", "err", err)
	}
}

const revokeSet = `update sessions s
	set is_active = false, revoked_at = clock_timestamp(), revoked_reason = $2, version = version + 1`

// Revoke ends one session of owner ([AnyOwner] for anybody's). Ending one that has ended changes nothing.
func (m *Manager) Revoke(ctx context.Context, tx *postgres.Tx, owner int64, id uuid.UUID, why Cause) error {
	var g gone
	err := tx.QueryRow(ctx, revokeSet+` from users u
		where s.public_id = $1 and u.id = s.user_id and ($3 = s.user_id or $3 = $4)
			and coalesce(s.is_active, false) and s.revoked_at is null
		returning `+endedColumns+`, u.public_id`, id, why.Reason, owner, AnyOwner).
		Scan(&g.row, &g.id, &g.hash, &g.version, &g.user)
	if errors.Is(err, postgres.ErrNoRows) {
		_, err = m.ByPublicID(ctx, tx, owner, id)
		return err
	}
	if err != nil {
		return fmt.Errorf("revoke session: %w", err)
	}
	return m.conclude(ctx, tx, []gone{g}, g.user, why)
}

// RevokeAll ends all sessions of a user and returns how many had not expired. A login under way either is among them or
// comes after.
func (m *Manager) RevokeAll(ctx context.Context, tx *postgres.Tx, userID int64, why Cause) (int, error) {
	return m.RevokeOthers(ctx, tx, userID, uuid.Nil, why)
}

// revokeOthersSQL also ends those that have expired, so that nobody gives them time again. But that is no news of them.
const revokeOthersSQL = `with s as (` + revokeSet + `
		where s.user_id = $1 and s.public_id <> $3 and s.is_active returning s.*)
	select ` + endedColumns + ` from s where s.expires_at > now()`

// RevokeOthers ends all sessions of a user but one and returns how many had not expired.
func (m *Manager) RevokeOthers(ctx context.Context, tx *postgres.Tx, userID int64, but uuid.UUID, why Cause) (int, error) {
	var user uuid.UUID
	var active bool
	err := tx.QueryRow(ctx, lockUser, userID).Scan(&user, &active)
	if errors.Is(err, postgres.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("revoke sessions: %w", err)
	}
	rows, err := tx.Query(ctx, revokeOthersSQL, userID, why.Reason, but)
	if err != nil {
		return 0, fmt.Errorf("revoke sessions: %w", err)
	}
	all, err := collectGone(rows)
	if err != nil {
		return 0, fmt.Errorf("revoke sessions: %w", err)
	}
	return len(all), m.conclude(ctx, tx, all, user, why)
}
