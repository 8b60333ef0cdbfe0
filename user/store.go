package user

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/secret"
)

// Store keeps accounts in PostgreSQL. Methods that write join the caller's
// transaction and append their events to it. It is safe for concurrent use.
type Store struct{ db *postgres.DB }

// NewStore returns the accounts of db.
func NewStore(db *postgres.DB) *Store { return &Store{db: db} }

// New is an account about to be made.
type New struct {
	Username     string
	Email        string
	PasswordHash string // from Hasher.Hash or accepted by CheckHash; "" means no password yet
	DisplayName  string
	AvatarURL    string
	Role         Role      // "" means RoleUser
	Verified     bool      // the address is known to be the owner's
	Disabled     bool      // made, but not to be used
	CreatedAt    time.Time // zero means now
	Actor        uuid.UUID // who makes it; uuid.Nil means the owner
}

func (n New) normalize() New {
	n.Email = NormalizeEmail(n.Email)
	n.DisplayName = NormalizeDisplayName(n.DisplayName)
	if n.Role == "" {
		n.Role = RoleUser
	}
	return n
}

func (n New) check() error {
	f := checkAccount(n.Username, n.Email, n.DisplayName, n.AvatarURL)
	if !n.Role.Valid() {
		f.Add("role", "must be user, operator or admin")
	}
	if n.PasswordHash != "" {
		if err := CheckHash(n.PasswordHash); err != nil {
			f.Add("password_hash", errs.Of(err).Message)
		}
	}
	if y := n.CreatedAt.Year(); !n.CreatedAt.IsZero() && (y < 1970 || y > 9999) {
		f.Add("created_at", "must be after 1970")
	}
	return f.Err()
}

// Create makes an account. [ErrUsernameTaken] and [ErrEmailTaken] compare
// without case and leave the transaction usable.
func (s *Store) Create(ctx context.Context, tx *postgres.Tx, in New) (User, error) {
	in = in.normalize()
	if err := in.check(); err != nil {
		return User{}, err
	}
	if err := claim(ctx, tx, 0, in.Username, in.Email); err != nil {
		return User{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return User{}, fmt.Errorf("make an id: %w", err)
	}
	hash := in.PasswordHash
	if hash == "" {
		hash = unusableHash
	}
	var created *time.Time
	if !in.CreatedAt.IsZero() {
		created = &in.CreatedAt
	}
	u, err := one(tx.Query(ctx, `insert into users as u (public_id, username, email, password_hash, display_name, avatar_url,
			role, is_verified, email_verified_at, is_active, password_changed_at, created_at, updated_at)
		values ($1, $2, $3, $4, nullif($5, ''), nullif($6, ''), $7, $8::bool, case when $8 then now() end, $9, now(),
			coalesce($10, now()), now())
		returning `+columns,
		id, in.Username, in.Email, hash, in.DisplayName, in.AvatarURL, in.Role, in.Verified, !in.Disabled, created))
	if err != nil {
		return User{}, fmt.Errorf("create user: %w", taken(err))
	}
	data := map[string]any{"role": u.Role, "verified": u.IsVerified, "active": u.IsActive}
	return u, tell(tx, u.PublicID, "user.created", in.Actor, data)
}

// claim makes concurrent writers of the same name or address wait for each
// other, then looks whether any account other than self has one of them. It
// takes the locks the table's trigger takes for writers of Phase 24.2.
func claim(ctx context.Context, tx *postgres.Tx, self int64, username, email string) error {
	b := &pgx.Batch{}
	for _, name := range [...]string{username, email} {
		if name != "" {
			b.Queue("select pg_advisory_xact_lock(hashtextextended('users:' || lower($1), 0))", name)
		}
	}
	var name, address bool
	// An address is its old owner's for as long as its change can be undone.
	b.Queue(`select coalesce(bool_or(lower(username) = lower($1)), false), coalesce(bool_or(lower(email) = lower($2)), false)
			or exists (select from email_changes where changed_at is not null and lower(old_email) = lower($2)
				and ends_at > clock_timestamp() and user_id <> $3)
		from users where id <> $3 and (lower(username) = lower($1) or lower(email) = lower($2))`, username, email, self).
		QueryRow(func(row pgx.Row) error { return row.Scan(&name, &address) })
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("claim names: %w", err)
	}
	switch {
	case name:
		return ErrUsernameTaken
	case address:
		return ErrEmailTaken
	}
	return nil
}

// taken turns the violation of a unique index into its sentinel. Phase 24.2
// left the names of its constraints to chance, so the column decides.
func taken(err error) error {
	if !postgres.UniqueViolation(err, "users") {
		return err
	}
	pe, _ := errors.AsType[*pgconn.PgError](err)
	if strings.Contains(pe.ConstraintName, "email") || strings.Contains(pe.Detail, "(email)") {
		return ErrEmailTaken.WithCause(err)
	}
	return ErrUsernameTaken.WithCause(err)
}

// ByPublicID returns the account with this id.
func (s *Store) ByPublicID(ctx context.Context, id uuid.UUID) (User, error) {
	return s.find(ctx, "u.public_id = $1", id)
}

// ByID returns the account with this row id.
func (s *Store) ByID(ctx context.Context, id int64) (User, error) {
	return s.find(ctx, "u.id = $1", id)
}

// ByUsername returns the account of this name: the one spelled exactly so,
// else the one that differs only by case and is no case duplicate.
func (s *Store) ByUsername(ctx context.Context, name string) (User, error) {
	if !storable(name) {
		return User{}, ErrNotFound
	}
	return s.find(ctx, `u.username = $1 or (lower(u.username) = lower($1) and not u.is_case_duplicate)
		order by u.username = $1 desc limit 1`, name)
}

// ByEmail returns the account of this address, by the rule of [Store.ByUsername].
func (s *Store) ByEmail(ctx context.Context, email string) (User, error) {
	if !storable(email) {
		return User{}, ErrNotFound
	}
	return s.find(ctx, `u.email = $1 or (lower(u.email) = lower($1) and not u.is_case_duplicate)
		order by u.email = $1 desc limit 1`, email)
}

// matchesLogin finds who may sign in as $1: exact spelling wins, an address
// wins over a name (names with an @ are left from Phase 24.2), a case
// duplicate answers to its exact spelling alone.
const matchesLogin = `(u.username = $1 or u.email = $1
		or (not u.is_case_duplicate and (lower(u.username) = lower($1) or lower(u.email) = lower($1))))
	order by u.email = $1 desc, u.username = $1 desc, lower(u.email) = lower($1) desc limit 1`

// ByLogin returns the account whose user name or e-mail address login is.
func (s *Store) ByLogin(ctx context.Context, login string) (User, error) {
	if !storable(login) {
		return User{}, ErrNotFound
	}
	return s.find(ctx, matchesLogin, login)
}

func (s *Store) find(ctx context.Context, where string, arg any) (User, error) {
	u, err := one(s.db.Query(ctx, "select "+columns+" from users u where "+where, arg))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return User{}, fmt.Errorf("find user: %w", err)
	}
	return u, err
}

// Credentials are what signing in needs.
type Credentials struct {
	User
	Hash   secret.Secret // the stored one
	Folded string        // the login as the database compares names, whoever's it is: one for all spellings that find the same
}

// Credentials returns what signing in needs in one round trip, so that finding
// somebody takes no longer than finding nobody. For nobody it returns
// [ErrNotFound], Folded and an empty hash, which [Hasher.Verify] takes its full
// time over.
func (s *Store) Credentials(ctx context.Context, login string) (Credentials, error) {
	if !storable(login) {
		login = ""
	}
	type row struct {
		User
		PasswordHash string
	}
	var c Credentials
	var found []row
	b := &pgx.Batch{}
	b.Queue("select lower($1)", login).QueryRow(func(r pgx.Row) error { return r.Scan(&c.Folded) })
	b.Queue("select "+columns+", u.password_hash from users u where "+matchesLogin, login).Query(func(rows pgx.Rows) (err error) {
		found, err = pgx.CollectRows(rows, pgx.RowToStructByName[row])
		return err
	})
	if err := s.db.SendBatch(ctx, b).Close(); err != nil {
		return Credentials{}, fmt.Errorf("find credentials: %w", err)
	}
	if len(found) == 0 {
		return c, ErrNotFound
	}
	c.User, c.Hash = found[0].inUTC(), secret.FromString(found[0].PasswordHash)
	return c, nil
}

// PasswordHash returns the stored hash of an account.
func (s *Store) PasswordHash(ctx context.Context, id uuid.UUID) (secret.Secret, error) {
	var hash string
	err := s.db.QueryRow(ctx, "select password_hash from users where public_id = $1", id).Scan(&hash)
	if errors.Is(err, postgres.ErrNoRows) {
		return secret.Secret{}, ErrNotFound
	}
	if err != nil {
		return secret.Secret{}, fmt.Errorf("read password hash: %w", err)
	}
	return secret.FromString(hash), nil
}

// one reads the only row of a query as a User, or [ErrNotFound].
func one(rows pgx.Rows, err error) (User, error) {
	if err != nil {
		return User{}, err
	}
	u, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[User])
	if errors.Is(err, postgres.ErrNoRows) {
		return User{}, ErrNotFound
	}
	return u.inUTC(), err
}

// tell appends an event of the account id.
func tell(tx *postgres.Tx, id uuid.UUID, name string, actor uuid.UUID, data map[string]any) error {
	e := event.New{Aggregate: event.Ref{Type: "user", ID: id}, Name: name, Data: data, UserID: &id, Expect: event.Any}
	if actor != uuid.Nil && actor != id {
		e.ActorID = &actor
	}
	if err := event.Append(tx, e); err != nil {
		return fmt.Errorf("append %s: %w", name, err)
	}
	return nil
}

// changed is what others hear of a change: of whom, and which fields.
func changed(id uuid.UUID, fields ...string) map[string]any {
	return map[string]any{"user_id": id, "fields": fields}
}
