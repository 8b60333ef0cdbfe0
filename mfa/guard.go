package mfa

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/postgres"
)

// What became of a try; a reserved one whose end was never written counts as failed.
const (
	reserved  = "reserved"
	accepted  = "accepted"
	wrongCode = "wrong_code"
	spentCode = "used_code"
	noFactor  = "no_factor"
	forgiven  = "forgiven" // failed, and no longer counted: an operator lifted the suspension
)

// settleTime is how long a reserved try may still turn out right.
const settleTime = time.Minute

// try is a reserved attempt and the factor it is for.
type try struct {
	id       int64
	at       time.Time
	rowID    int64 // of the factor; 0 means there is none of this method
	factorID uuid.UUID
	secret   []byte
	salt     []byte
}

// guard is the state of an account's budget.
type guard struct {
	started     *time.Time
	tries       *int
	suspendedAt *time.Time
}

// reserve takes one try from the account's budget and writes it down, in a
// transaction of its own that is committed before any code is compared.
// pending names the factor being confirmed; nil means an enabled one.
func (m *Manager) reserve(ctx context.Context, a Attempt, pending *uuid.UUID) (try, error) {
	var t try
	var g guard
	var attempt *int64
	b := &pgx.Batch{}
	// Parallel tries see it at once. A crash can lose it only together with the
	// answer, since the commit that precedes every answer flushes it first.
	b.Queue(`select set_config('synchronous_commit', 'off', true)`)
	b.Queue(reserveGuard, a.UserID, m.clock(), m.cfg.Window, m.cfg.MaxTries, pending, m.cfg.PendingFor)
	b.Queue(reserveAttempt, a.UserID, m.clock(), a.Method, address(a.IP), m.cfg.SuspendWindow, m.cfg.SuspendAfter).
		Query(func(rows pgx.Rows) error {
			ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
			if len(ids) == 1 {
				attempt = &ids[0]
			}
			return err
		})
	b.Queue(readFactor, a.UserID, m.clock(), a.Method, pending, m.cfg.PendingFor).QueryRow(func(row pgx.Row) error {
		return row.Scan(&t.at, &g.started, &g.tries, &g.suspendedAt, &t.rowID, &t.factorID, &t.secret, &t.salt)
	})
	if err := m.db.SendBatch(ctx, b).Close(); err != nil {
		return try{}, fmt.Errorf("reserve a try: %w", err)
	}
	switch {
	case attempt != nil:
		t.id = *attempt
		return t, nil
	case g.suspendedAt != nil:
		return try{}, ErrSuspended
	case t.rowID == 0:
		return try{}, ErrFactorNotFound
	default:
		return try{}, m.refuse(ctx, a, g, t.at)
	}
}

// reserveGuard does nothing where the account has no such factor, its factors
// are suspended or its window is used up. A window begins with its first try.
const reserveGuard = `
insert into mfa_guards as g (user_id, window_started, tries)
select $1, c.at, 1 from (select coalesce($2::timestamptz, clock_timestamp()) as at) c
where exists (select from user_mfa f where f.user_id = $1 and case when $5::uuid is null then f.is_enabled
	else f.public_id = $5 and not f.is_enabled and f.created_at > c.at - $6::interval end)
on conflict (user_id) do update set
	window_started = case when g.tries = 0 or g.window_started <= excluded.window_started - $3::interval
		then excluded.window_started else g.window_started end,
	tries = case when g.tries = 0 or g.window_started <= excluded.window_started - $3::interval
		then 1 else g.tries + 1 end
where g.suspended_at is null and (g.tries < $4 or g.window_started <= excluded.window_started - $3::interval)`

// reserveAttempt runs after the guard is locked, so it sees every try before
// this one. The guard's row is this transaction's own if reserveGuard took a try.
const reserveAttempt = `
insert into mfa_attempts (user_id, method, reason, ip_address, attempted_at)
select $1, $3, '` + reserved + `', $4, c.at
from (select coalesce($2::timestamptz, clock_timestamp()) as at) c, mfa_guards g
where g.user_id = $1 and g.xmin = pg_current_xact_id()::xid
	and (select count(*) from (select from mfa_attempts a where a.user_id = $1 and not a.success
		and a.reason <> '` + forgiven + `' and a.attempted_at > c.at - $5::interval limit $6) failed) < $6
returning id`

const readFactor = `
select c.at, g.window_started, g.tries, g.suspended_at, coalesce(f.id, 0), coalesce(f.public_id, '00000000-0000-0000-0000-000000000000'),
	f.secret, f.backup_salt
from (select coalesce($2::timestamptz, clock_timestamp()) as at) c
left join mfa_guards g on g.user_id = $1
left join user_mfa f on f.user_id = $1 and f.method = $3 and case when $4::uuid is null then f.is_enabled
	else f.public_id = $4 and not f.is_enabled and f.created_at > c.at - $5::interval end`

// refuse says why there was no try left.
func (m *Manager) refuse(ctx context.Context, a Attempt, g guard, now time.Time) error {
	if g.started != nil && g.tries != nil && *g.tries >= m.cfg.MaxTries {
		if wait := g.started.Add(m.cfg.Window).Sub(now); wait > 0 {
			return ErrTooManyAttempts.WithRetryAfter(max(wait, time.Second))
		}
	}
	suspended := false
	err := m.db.InTx(ctx, func(tx *postgres.Tx) (err error) {
		suspended, err = m.suspend(ctx, tx, a, now)
		return err
	})
	if err != nil {
		return err
	}
	if suspended {
		return ErrSuspended
	}
	// A try under way decides between right and suspended, or another one got there first.
	return ErrTooManyAttempts.WithRetryAfter(time.Second)
}

// suspend stops the account's factors if it has failed often enough.
func (m *Manager) suspend(ctx context.Context, tx *postgres.Tx, a Attempt, now time.Time) (bool, error) {
	tag, err := tx.Exec(ctx, `update mfa_guards g set suspended_at = $2
		where g.user_id = $1 and g.suspended_at is null
			and (select count(*) from (select from mfa_attempts a where a.user_id = $1 and not a.success
				and a.reason <> $5 and (a.reason <> $6 or a.attempted_at < $2::timestamptz - $7::interval)
				and a.attempted_at > $2::timestamptz - $3::interval limit $4) failed) >= $4`,
		a.UserID, now, m.cfg.SuspendWindow, m.cfg.SuspendAfter, forgiven, reserved, settleTime)
	if err != nil {
		return false, fmt.Errorf("suspend a factor: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return false, nil
	}
	return true, tell(tx, a.UserPublicID, "mfa.suspended", map[string]any{"failures": m.cfg.SuspendAfter})
}

// fail writes down why a try failed and returns what the caller is told. It is
// written even if the caller has gone: hanging up must not hide a guess.
func (m *Manager) fail(ctx context.Context, t try, a Attempt, reason string) error {
	ctx = context.WithoutCancel(ctx)
	err := m.db.InTx(ctx, func(tx *postgres.Tx) error {
		b := &pgx.Batch{}
		queueGuard(b, a.UserID)
		b.Queue(`update mfa_attempts set reason = $2 where id = $1`, t.id, reason)
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return fmt.Errorf("write down a failed try: %w", err)
		}
		if err := tell(tx, a.UserPublicID, "mfa.failed", map[string]any{"method": a.Method, "reason": reason}); err != nil {
			return err
		}
		_, err := m.suspend(ctx, tx, a, t.at)
		return err
	})
	if err != nil {
		return err
	}
	return ErrInvalidCode
}

// refund gives back a try that came to no judgement because a part of ours was
// down. A caller who hung up gets nothing back.
func (m *Manager) refund(ctx context.Context, t try, a Attempt) {
	if ctx.Err() != nil {
		return
	}
	ctx = context.WithoutCancel(ctx)
	b := &pgx.Batch{}
	b.Queue(`update mfa_guards g set tries = greatest(tries - 1, 0) where user_id = $1
		and exists (select from mfa_attempts where id = $2 and reason = $3)`, a.UserID, t.id, reserved)
	b.Queue(`delete from mfa_attempts where id = $1 and reason = $2`, t.id, reserved)
	if err := m.db.SendBatch(ctx, b).Close(); err != nil {
		m.cfg.Logger.WarnContext(ctx, "a try could not be given back", "user_id", a.UserPublicID, "err", err)
	}
}
