package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/notify"
	"rootstream/postgres"
	"rootstream/secret"
	"rootstream/session"
	"rootstream/user"
)

// Credentials are what somebody signs in with.
type Credentials struct {
	Login      string // user name or e-mail address
	Password   string
	DeviceName string // what the owner calls the device; may be empty
	Remember   bool   // the device is the owner's
}

// Grant is a session and the token that stands for it, shown this once.
type Grant struct {
	Token   secret.Secret
	Session session.Session
	User    user.User
}

// Login is the outcome of a right password: a grant, or a challenge if a
// second factor is missing.
type Login struct {
	Grant     *Grant
	Challenge *Challenge
}

// account is somebody whose password was proven.
type account struct {
	user.User
	stored secret.Secret // the hash it was proven against
	rehash bool
}

// candidate is who wants to sign in, before anything is proven.
type candidate struct {
	account
	key   string // of the account as limits count it, or of a name that is nobody's
	found bool
	known bool // the account was signed in to from this device before
}

// Login checks a password. Whatever is wrong, the answer is
// ErrInvalidCredentials, after the same work; too many tries are ErrRateLimited.
func (s *Service) Login(ctx context.Context, in Credentials, c Client) (Login, error) {
	login, err := readLogin(in.Login)
	if err != nil {
		return Login{}, err
	}
	if err = s.allowFrom(ctx, "login", c, s.cfg.Rate.LoginNetwork); err != nil {
		return Login{}, err
	}
	var a candidate
	if err = s.identify(ctx, &a, login, c); err != nil {
		return Login{}, err
	}
	counters := s.counters(a.key, a.known, c)
	hasher := s.hasher
	if a.known {
		hasher = hasher.Known()
	}
	v, err := s.guess(ctx, counters, func(ctx context.Context) (bool, error) {
		checked, failure := hasher.Verify(ctx, a.stored.Reveal(), in.Password)
		a.rehash = checked.NeedsRehash
		return checked.OK && a.IsActive, failure
	})
	if err != nil {
		return Login{}, err
	}
	if !v.right {
		return Login{}, s.failed(ctx, a.User, a.found, v)
	}
	return s.enter(ctx, a, in, c, counters[0].key)
}

// identify finds out who a wants to be and whether they may try. A few do at a
// time: of a crowd that comes at once, most could but wait for their password
// to be hashed, and all else that goes on here would wait with them.
func (s *Service) identify(ctx context.Context, a *candidate, login string, c Client) (err error) {
	if err = s.door.Acquire(ctx, 1); err != nil {
		return user.ErrBusy.WithCause(err).WithRetryAfter(time.Second)
	}
	defer s.door.Release(1)
	found, err := s.users.Credentials(ctx, login)
	// Spellings that find the same account share a budget, others do not, and the same if there is no account: what is
	// counted together does not tell.
	a.User, a.stored, a.key, a.found = found.User, found.Hash, found.Folded, err == nil
	if !a.found && !errors.Is(err, user.ErrNotFound) {
		return err
	}
	if a.known, err = s.sessions.KnowsDevice(ctx, a.ID, c.DeviceID); err != nil {
		return err
	}
	if a.found {
		a.key = accountKey(a.PublicID) // a name and an address are no two budgets
	}
	return s.allowLogin(ctx, a.key, a.known, c)
}

func (s *Service) allowLogin(ctx context.Context, key string, known bool, c Client) error {
	r := s.cfg.Rate
	if known {
		return s.allow(ctx, "login.device", s.tallyKey(key, c.DeviceID), perMinute(r.LoginAccount))
	}
	if err := s.allow(ctx, "login.client", s.tallyKey(key, c.network()), perMinute(r.LoginAccount)); err != nil {
		return err
	}
	return s.allow(ctx, "login.account", s.tallyKey(key), perMinute(r.LoginAnywhere))
}

// failed writes a failed sign-in down and returns its one error. It is written
// even if the client has gone, and for accounts that do not exist a
// transaction of the same kind takes the same time.
func (s *Service) failed(ctx context.Context, u user.User, found bool, v verdict) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := s.db.InTx(ctx, func(tx *postgres.Tx) error {
		if !found {
			idle(tx)
			return nil
		}
		if err := tell(tx, u.PublicID, "user.login_failed", nil); err != nil {
			return err
		}
		return s.tellLocked(tx, u, v)
	})
	if err != nil {
		return err
	}
	return ErrInvalidCredentials
}

// tellLocked says that the waits between tries at a password have begun. The
// owner is mailed when strangers cause them everywhere.
func (s *Service) tellLocked(tx *postgres.Tx, u user.User, v verdict) error {
	for i, locked := range v.locked {
		if !locked {
			continue
		}
		err := tell(tx, u.PublicID, "user.locked", map[string]any{"everywhere": i > 0})
		if err == nil && i > 0 {
			err = s.notice(tx, notify.TopicLockout, u.PublicID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// idle does to the database what appending an event does, and leaves nothing
// behind: a lock that nobody else takes, a record in the WAL, and a commit that
// is flushed, in one round trip. The lock on nobody's row is refused by a
// database that is read-only, as an event would be.
func idle(tx *postgres.Tx) {
	tx.AtLast(func(ctx context.Context) error {
		b := &pgx.Batch{}
		b.Queue(`select pg_advisory_xact_lock(hashtextextended($1, 0))`, rand.Text())
		b.Queue(`select pg_logical_emit_message(true, 'rootstream', repeat('.', 700)) from (select) one
			left join (select from users where id = 0 for no key update) nobody on true`)
		if err := tx.SendLast(ctx, b); err != nil {
			return fmt.Errorf("pass the time: %w", err)
		}
		return nil
	})
}

// enter lets in who proved a password, or asks for the second factor.
func (s *Service) enter(ctx context.Context, a candidate, in Credentials, c Client, tally string) (Login, error) {
	status, err := s.mfa.Status(ctx, a.ID)
	if err != nil {
		return Login{}, err
	}
	if a.rehash {
		if a.stored, err = s.rehashed(ctx, a.account, in.Password); err != nil {
			return Login{}, err
		}
	}
	proof := fingerprint(a.stored.Reveal())
	var out Login
	err = s.db.InTx(ctx, func(tx *postgres.Tx) (err error) {
		out = Login{}
		if !status.Enabled {
			if err = s.stillProven(ctx, tx, a.ID, proof); err != nil {
				return err
			}
			out.Grant = &Grant{}
			*out.Grant, err = s.grant(ctx, tx, a.User, entry{
				device: c.device(in.DeviceName), remember: in.Remember, aal: 1, amr: []string{"pwd"}, known: a.known, network: c.network(),
			})
			return err
		}
		ch, err := s.challenge(ctx, tx, pendingLogin{
			UserID: a.ID, Proof: proof, Remember: in.Remember, DeviceID: c.DeviceID, DeviceName: in.DeviceName, Tally: tally,
		})
		ch.Methods = status.Methods
		out.Challenge = &ch
		return err
	})
	if err != nil {
		return Login{}, err
	}
	if out.Grant != nil {
		s.forgive(ctx, tally) // a sign-in with a challenge is not over yet
	}
	return out, nil
}

// rehashed stores a password that was proven under today's parameters and returns the hash it is proven against then.
// If another sign-in was faster, that is the hash it stored, once the password is proven against that as well.
func (s *Service) rehashed(ctx context.Context, a account, password string) (secret.Secret, error) {
	fresh, err := s.hasher.Hash(ctx, password)
	if err != nil {
		s.log.WarnContext(ctx, "a password could not be hashed anew, its next sign-in tries again", "user_id", a.PublicID, "err", err)
		return a.stored, nil
	}
	replaced := false
	err = s.db.InTx(ctx, func(tx *postgres.Tx) (err error) {
		replaced, err = s.users.ReplaceHash(ctx, tx, a.PublicID, a.stored.Reveal(), fresh)
		return err
	})
	if err != nil {
		return secret.Secret{}, err
	}
	if replaced {
		return secret.FromString(fresh), nil
	}
	stored, err := s.users.PasswordHash(ctx, a.PublicID)
	if errors.Is(err, user.ErrNotFound) {
		return secret.Secret{}, ErrInvalidCredentials
	}
	if err != nil {
		return secret.Secret{}, err
	}
	switch checked, err := s.hasher.Verify(ctx, stored.Reveal(), password); {
	case err != nil:
		return secret.Secret{}, err
	case !checked.OK: // the password was changed meanwhile
		return secret.Secret{}, ErrInvalidCredentials
	}
	return stored, nil
}

// fingerprint stands for a stored hash where the hash itself need not be.
func fingerprint(stored string) []byte {
	sum := sha256.Sum256([]byte(stored))
	return sum[:]
}

// stillProven locks the account and makes sure that what was proven about it
// is true as of this transaction: it is active and its password is the same.
func (s *Service) stillProven(ctx context.Context, tx *postgres.Tx, userID int64, proof []byte) error {
	var ok bool
	err := tx.QueryRow(ctx, `select sha256(convert_to(password_hash, 'UTF8')) = $2 and coalesce(is_active, false)
		from users where id = $1 for no key update`, userID, proof).Scan(&ok)
	if errors.Is(err, postgres.ErrNoRows) || (err == nil && !ok) {
		return ErrInvalidCredentials
	}
	if err != nil {
		return fmt.Errorf("look at an account again: %w", err)
	}
	return nil
}

// entry says what kind of session somebody gets.
type entry struct {
	device   session.Device
	remember bool
	aal      uint8
	amr      []string
	known    bool   // the account was signed in to from this device before
	network  string // of the client
}

// tellsOwner reports whether the owner is to hear of a sign-in: if it is from
// a device that was not used before, and not the first of all. A client that
// keeps no device id is new each time; of one network's an owner hears a few
// times an hour, which does not hide those of another. What fails counts for
// nothing, so that nobody uses these few times up unseen.
func (s *Service) tellsOwner(ctx context.Context, u user.User, e entry) bool {
	if s.cfg.NoSignInMail || e.known || u.LastLoginAt == nil {
		return false
	}
	return s.allow(ctx, "mail", notify.TopicNewSignIn+":"+u.PublicID.String()+":"+e.network, perHour(s.cfg.Rate.RecoveryAccount)) == nil
}

// grant makes a session, with a token that was never seen before.
func (s *Service) grant(ctx context.Context, tx *postgres.Tx, u user.User, e entry) (Grant, error) {
	if e.device.ID == "" {
		e.device.ID = rand.Text() // for the client to keep: its next sign-in is that of a known device
	}
	made, err := s.sessions.Create(ctx, tx, session.New{
		UserID: u.ID, UserPublicID: u.PublicID, Class: classOf(u.Role), AAL: e.aal, AMR: e.amr,
		Remember: e.remember && u.Role == user.RoleUser, Device: e.device,
	})
	if errors.Is(err, session.ErrUserInactive) {
		return Grant{}, ErrInvalidCredentials
	}
	if err != nil {
		return Grant{}, err
	}
	err = s.users.TouchLogin(ctx, tx, u.PublicID, user.Login{IP: e.device.IP, SessionID: made.Session.ID, Methods: e.amr})
	if err != nil {
		return Grant{}, err
	}
	now := s.cfg.Now().UTC()
	if s.tellsOwner(ctx, u, e) {
		if err = s.mail(tx, notify.TopicNewSignIn, letter{UserID: u.PublicID, SessionID: made.Session.ID, At: now}); err != nil {
			return Grant{}, err
		}
	}
	u.LastLoginAt = &now
	return Grant{Token: made.Token, Session: made.Session, User: u}, nil
}

// classOf is how long sessions of a role live.
func classOf(r user.Role) string {
	if r == user.RoleAdmin {
		return session.ClassAdmin
	}
	if r == user.RoleOperator {
		return session.ClassCreator
	}
	return session.ClassUser
}
