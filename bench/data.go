package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// data is what lies in the database.
type data struct {
	tokens []string // of live sessions, distinct
	spare  []string // of further live sessions, to be revoked
	owners []int64  // users.id of the spare sessions' accounts, ten sessions each

	firstUser int64 // of those without a session
	users     int

	warm time.Time // when Redis got all tokens; zero if it has not
}

const (
	perUser   = 10 // live sessions of an account
	twinEvery = 5  // beside each fifth session lies one whose hash pgbench can compute
	fresh     = "bench-fresh-"
	heard     = 66 * time.Minute // how long ago sessions were used, at most
)

// spares is how many sessions there are to be revoked.
func (s *stack) spares() int { return max(2000, s.scale.tokens/20) }

// load fills the database, once: accounts, the live sessions with known
// tokens, their twins, and sessions to revoke. It does what a restored database
// looks like: rows copied in, then indexes, statistics and visibility.
func (s *stack) load(ctx context.Context) error {
	if s.data.tokens != nil {
		return nil
	}
	n, spares := s.scale.tokens, s.spares()
	s.say("loading %d live sessions", n)
	s.data.tokens = tokensFrom(0, n)
	s.data.spare = tokensFrom(n, spares)
	s.data.users = max(1000, n/20)
	owners := (n + n/twinEvery + spares + perUser - 1) / perUser
	if err := s.loadUsers(ctx, owners); err != nil {
		return err
	}
	if err := s.loadSessions(ctx); err != nil {
		return err
	}
	first, err := s.number(ctx, `select min(id) from users where username like 'bench-owner-%'`)
	if err != nil {
		return err
	}
	for i := range spares / perUser {
		s.data.owners = append(s.data.owners, first+int64(owners-1-i))
	}
	s.data.firstUser, err = s.number(ctx, `select min(id) from users where username like '`+fresh+`%'`)
	s.say("loaded")
	return err
}

// lighten forgets the tokens until back is called: what lives in this process must not collect their garbage.
func (s *stack) lighten() (back func()) {
	n, spares := len(s.data.tokens), len(s.data.spare)
	s.data.tokens, s.data.spare = nil, nil
	debug.FreeOSMemory()
	return func() {
		if n > 0 {
			s.data.tokens, s.data.spare = tokensFrom(0, n), tokensFrom(n, spares)
		}
	}
}

// number reads one number.
func (s *stack) number(ctx context.Context, sql string, args ...any) (n int64, err error) {
	err = s.db.QueryRow(ctx, sql, args...).Scan(&n)
	return n, err
}

func (s *stack) loadUsers(ctx context.Context, owners int) error {
	insert := `insert into users (username, email, password_hash, is_verified)
		select '%[1]s' || n, '%[1]s' || n || '@example.org', 'x', true from generate_series(1, %[2]d) n order by n`
	return s.exec(ctx, `alter table users disable trigger user`,
		fmt.Sprintf(insert, "bench-owner-", owners), fmt.Sprintf(insert, fresh, s.data.users),
		`alter table users enable trigger user`, `vacuum analyze users`)
}

// loadSessions copies the rows in without indexes and makes those afterwards.
func (s *stack) loadSessions(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	// What drops an index, and what makes it again.
	rows, err := conn.Query(ctx, `select coalesce('alter table sessions drop constraint ' || c.conname, 'drop index ' || i.indexname),
			coalesce('alter table sessions add constraint ' || c.conname || ' ' || pg_get_constraintdef(c.oid), i.indexdef)
		from pg_indexes i left join pg_constraint c on c.conname = i.indexname and c.conrelid = 'sessions'::regclass
		where i.tablename = 'sessions' and coalesce(c.contype, 'i') <> 'p'`)
	if err != nil {
		return err
	}
	type index struct{ Drop, Make string }
	indexes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[index])
	if err != nil {
		return err
	}
	statements := []string{
		"set session_replication_role = replica", "set maintenance_work_mem = '256MB'", "set synchronous_commit = off",
	}
	for _, i := range indexes {
		statements = append(statements, i.Drop)
	}
	if err := execAll(ctx, conn, statements); err != nil {
		return err
	}
	var first int64
	if err := conn.QueryRow(ctx, `select min(id) from users where username like 'bench-owner-%'`).Scan(&first); err != nil {
		return err
	}
	src := &sessionRows{s: s, user: first, now: time.Now().UTC(), total: s.scale.tokens + s.spares()}
	if _, err := conn.CopyFrom(ctx, pgx.Identifier{"sessions"}, sessionFields(), src); err != nil {
		return fmt.Errorf("copy sessions: %w", err)
	}
	statements = nil
	for _, i := range indexes {
		statements = append(statements, i.Make)
	}
	s.say("rows are in, making indexes")
	return execAll(ctx, conn, append(statements, "vacuum (freeze, analyze) sessions", "checkpoint"))
}

func execAll(ctx context.Context, conn *pgx.Conn, statements []string) error {
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%.60s: %w", sql, err)
		}
	}
	return nil
}

func sessionFields() []string {
	return []string{
		"user_id", "session_token", "token_hash", "public_id", "class", "aal", "amr", "authenticated_at",
		"device_fingerprint", "user_agent", "created_at", "last_activity", "expires_at",
	}
}

// userAgent is what sessions were made with.
const userAgent = "Mozilla/5.0 (X11, Linux x86_64) AppleWebKit/537.36 Chrome/126.0 Safari/537.36"

// sessionRows yields the sessions: each with a known token and, after every
// fifth, its twin, whose hash is sha256 of the number.
type sessionRows struct {
	s     *stack
	user  int64
	now   time.Time
	total int

	at, row int
	twin    bool
	hash    [32]byte
}

func (r *sessionRows) Next() bool {
	if r.at > 0 && r.at <= r.s.scale.tokens && r.at%twinEvery == 0 && !r.twin {
		r.twin = true
		r.hash = sha256.Sum256([]byte(strconv.Itoa(r.at / twinEvery)))
		r.row++
		return true
	}
	r.twin = false
	if r.at == r.total {
		return false
	}
	token := r.s.data.spare
	i := r.at - r.s.scale.tokens
	if i < 0 {
		token, i = r.s.data.tokens, r.at
	}
	r.hash = sha256.Sum256([]byte(token[i]))
	r.at++
	r.row++
	return true
}

func (r *sessionRows) Values() ([]any, error) {
	owner := r.user + int64((r.row-1)/perUser)
	made := r.now.Add(-3 * time.Hour)
	return []any{
		owner, "h1:" + hex.EncodeToString(r.hash[:]), r.hash[:], uuid.New(), "user", int16(1),
		[]string{"pwd"},
		made,
		"chrome/linux/desktop", userAgent, made, r.now.Add(-time.Duration(rand.Int64N(int64(heard)))), made.Add(24 * time.Hour), //nolint:gosec // data, not secrets
	}, nil
}

func (r *sessionRows) Err() error { return nil }
