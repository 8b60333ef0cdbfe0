package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6238's default
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"rootstream/mfa"
	"rootstream/postgres"
	"rootstream/secret"
	"rootstream/session"
	"rootstream/user"
)

const totpNote = `
Requests to a real serve process on a clock, whatever the answers take; a latency counts from the moment the request was
due. Codes prove a second factor again (POST /v1/auth/reauthenticate: the answer is a new token, the old one is dead),
each account's own; password sign-ins (POST /v1/auth/login) are of other accounts, Argon2id with 19 MiB and 2 passes.`

// account is somebody who can sign in.
type account struct {
	id     int64
	public uuid.UUID
	login  string
	secret []byte

	mu    sync.Mutex
	token string
	codes []string // backup codes
}

const (
	password   = "correct horse battery staple" // of every account of the bench
	backupEach = 10
)

// enrolled makes accounts with a TOTP factor, a session and, the first of them, backup codes.
func (s *stack) enrolled(ctx context.Context, n, withCodes int) ([]*account, error) {
	accounts, err := s.accounts(ctx, "bench-totp-", n)
	if err != nil {
		return nil, err
	}
	in, err := s.instance(ctx, nil)
	if err != nil {
		return nil, err
	}
	err = each(ctx, accounts, func(ctx context.Context, a *account) error {
		return in.db.InTx(ctx, func(tx *postgres.Tx) error {
			made, failure := in.Create(ctx, tx, session.New{UserID: a.id, AMR: []string{"pwd"}, Device: session.Device{UserAgent: userAgent}})
			a.token = made.Token.Reveal()
			return failure
		})
	})
	if err = errors.Join(err, in.stop()); err != nil {
		return nil, err
	}
	if err = s.enrol(ctx, accounts); err != nil {
		return nil, err
	}
	hasher, err := user.NewHasher(user.HasherConfig{QueueTimeout: patience, Concurrency: 2})
	if err != nil {
		return nil, err
	}
	factors, err := mfa.New(s.db, s.keys, mfa.Config{Derive: hasher.Derive, Logger: quiet()})
	if err != nil {
		return nil, err
	}
	return accounts, each(ctx, accounts[:withCodes], func(ctx context.Context, a *account) (err error) {
		a.codes, err = factors.GenerateBackupCodes(ctx, mfa.Account{UserID: a.id, UserPublicID: a.public}, nil)
		return err
	})
}

// each calls f for every account, 20 at once.
func each(ctx context.Context, accounts []*account, f func(context.Context, *account) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(benchClients)
	for _, a := range accounts {
		g.Go(func() error { return f(ctx, a) })
	}
	return g.Wait()
}

// accounts imports n accounts that have the same password hash.
func (s *stack) accounts(ctx context.Context, name string, n int) ([]*account, error) {
	hasher, err := user.NewHasher(user.HasherConfig{})
	if err != nil {
		return nil, err
	}
	hash, err := hasher.Hash(ctx, password)
	if err != nil {
		return nil, err
	}
	var lines bytes.Buffer
	for i := range n {
		login := fmt.Sprintf("%s%d", name, i)
		line := user.Imported{Username: login, Email: login + "@example.org", PasswordHash: hash, Verified: true}
		if err = json.NewEncoder(&lines).Encode(line); err != nil {
			return nil, err
		}
	}
	sum, err := user.NewStore(s.db).Import(ctx, &lines, user.ImportOptions{})
	if err == nil && sum.Imported != n {
		err = fmt.Errorf("only %d of %d accounts were imported", sum.Imported, n)
	}
	if err != nil {
		return nil, err
	}
	rows, err := s.db.Query(ctx, `select id, public_id, username from users where username like $1 order by id`, name+"%")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*account, error) {
		a := &account{}
		return a, row.Scan(&a.id, &a.public, &a.login)
	})
}

// enrol gives each account a factor as if it had been confirmed.
func (s *stack) enrol(ctx context.Context, accounts []*account) error {
	var rows [][]any
	now := time.Now().UTC()
	for _, a := range accounts {
		a.secret = make([]byte, 20)
		_, _ = rand.Read(a.secret) // never fails
		id := uuid.New()
		sealed, err := s.keys.Seal(secret.AD{Table: "user_mfa", Column: "secret", Row: id.String(), User: a.public.String()}, a.secret)
		if err != nil {
			return err
		}
		rows = append(rows, []any{id, int32(a.id), "totp", sealed, true, now, now}) //nolint:gosec // users.id is an integer
	}
	_, err := s.db.CopyFrom(ctx, pgx.Identifier{"user_mfa"},
		[]string{"public_id", "user_id", "method", "secret", "is_enabled", "created_at", "confirmed_at"}, pgx.CopyFromRows(rows))
	if err != nil {
		return err
	}
	return s.exec(ctx, "analyze users", "analyze user_mfa", "analyze sessions")
}

// code is RFC 6238's, as an authenticator shows it.
func (a *account) code(at time.Time) string {
	msg := binary.BigEndian.AppendUint64(nil, uint64(at.Unix()/30)) //nolint:gosec // after 1970
	mac := hmac.New(sha1.New, a.secret)
	mac.Write(msg)
	sum := mac.Sum(nil)
	part := sum[sum[len(sum)-1]&15:]
	return fmt.Sprintf("%06d", binary.BigEndian.Uint32(part)&0x7fffffff%1_000_000)
}

// reauthenticate proves the second factor again and keeps the new token.
func (a *account) reauthenticate(ctx context.Context, p *clients, method, code string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return p.with(ctx, func(c *client) error {
		status, body, err := c.post("/v1/auth/reauthenticate", a.token, fmt.Appendf(nil, `{"method":%q,"code":%q}`, method, code))
		if err != nil {
			return err
		}
		token, ok := field(body, "token")
		if status != 200 || !ok {
			return fmt.Errorf("%w: %s: %d %s", errRefused, method, status, body)
		}
		a.token = token
		return nil
	})
}

// signIn signs the account in.
func (a *account) signIn(ctx context.Context, p *clients) error {
	return p.with(ctx, func(c *client) error {
		status, body, err := c.post("/v1/auth/login", "", fmt.Appendf(nil, `{"login":%q,"password":%q}`, a.login, password))
		if err != nil {
			return err
		}
		if _, ok := field(body, "token"); status != 200 || !ok {
			return fmt.Errorf("%w: sign-in: %d %s", errRefused, status, body)
		}
		return nil
	})
}

// field reads a text of a JSON object that needs no unescaping.
func field(body []byte, name string) (string, bool) {
	_, after, found := bytes.Cut(body, []byte(`"`+name+`":"`))
	value, _, ended := bytes.Cut(after, []byte(`"`))
	return string(value), found && ended
}

func measureFactors(ctx context.Context, s *stack) ([]row, error) {
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	span := time.Duration(s.scale.openFor * float64(time.Second))
	withCodes := max(2, int(s.scale.openFor)+2)
	s.say("enrolling %d accounts", s.scale.accounts)
	accounts, err := s.enrolled(ctx, s.scale.accounts, withCodes)
	if err != nil {
		return nil, err
	}
	plain, err := s.accounts(ctx, "bench-plain-", 200)
	if err != nil {
		return nil, err
	}
	return s.served(ctx, func(p *clients) ([]row, error) {
		return s.factorRows(ctx, p, loads{accounts: accounts, coded: accounts[:withCodes], plain: plain, span: span})
	})
}

// loads are the accounts of the three open loops.
type loads struct {
	accounts, coded, plain []*account
	span                   time.Duration
}

func (s *stack) factorRows(ctx context.Context, p *clients, l loads) ([]row, error) {
	var rows []row
	warmed := 0
	for _, loop := range []struct {
		what      string
		perSecond float64
		most      float64 // ms
		call      func(ctx context.Context, i int) error
	}{
		{fmt.Sprintf("TOTP at 100/s over %s accounts, p99", number(float64(len(l.accounts)))), 100, 10, func(ctx context.Context, i int) error {
			a := l.accounts[len(l.accounts)-1-(warmed+i)%len(l.accounts)]
			return a.reauthenticate(ctx, p, "totp", a.code(time.Now()))
		}},
		{"backup codes at 10/s, p99", 10, 60, func(ctx context.Context, i int) error {
			n := warmed + i
			return l.coded[n%len(l.coded)].reauthenticate(ctx, p, "backup_code", l.coded[n%len(l.coded)].codes[n/len(l.coded)%backupEach])
		}},
		{"password sign-ins at 15/s, p99", 15, 150, func(ctx context.Context, i int) error {
			return l.plain[(warmed+i)%len(l.plain)].signIn(ctx, p)
		}},
	} {
		warmed = 0
		first, err := open(ctx, loop.perSecond, min(2*time.Second, l.span/4), loop.call)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", loop.what, err)
		}
		warmed = len(first)
		took, err := open(ctx, loop.perSecond, l.span, loop.call)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", loop.what, err)
		}
		all := sorted(took)
		rows = append(rows, atMost(loop.what, "ms", []float64{millis(quantile(all, .99))}, loop.most).
			with("p50 %.2f ms, max %.1f ms of %d", millis(quantile(all, .5)), millis(all[len(all)-1]), len(all)))
	}
	return rows, nil
}
