package mfa_test

import (
	"bytes"
	"context"
	"encoding/base32"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"rootstream/internal/exampletest"
	"rootstream/mfa"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/secret"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait")) // the PostgreSQL server of the tests
}

// rig is a database, a manager on it and a clock that stands still.
type rig struct {
	*mfa.Manager
	t    *testing.T
	db   *postgres.DB
	keys *secret.Keyset
	now  *atomic.Int64 // Unix seconds
}

func newRig(t *testing.T, change func(*mfa.Config)) *rig {
	t.Helper()
	r := &rig{t: t, now: &atomic.Int64{}}
	r.db = postgrestest.Open(t, postgres.Config{ // for a machine that is busy with other tests
		DSN: postgrestest.DSN(t), AcquireTimeout: time.Minute, LockTimeout: time.Minute, StatementTimeout: time.Minute,
	})
	r.now.Store(1_800_000_000)
	master, err := secret.NewMasterKey(bytes.Repeat([]byte("k"), 32))
	if err != nil {
		t.Fatal(err)
	}
	r.keys, err = secret.OpenWith(t.Context(), r.db, master, secret.Config{Name: "mfa", RotateAfter: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	r.Manager = r.manager(change)
	return r
}

func (r *rig) manager(change func(*mfa.Config)) *mfa.Manager {
	r.t.Helper()
	cfg := mfa.Config{Derive: quick, Now: func() time.Time { return time.Unix(r.now.Load(), 0) }}
	if change != nil {
		change(&cfg)
	}
	m, err := mfa.New(r.db, r.keys, cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

func (r *rig) wait(d time.Duration) { r.now.Add(int64(d / time.Second)) }

// account adds a row to users.
func (r *rig) account(name string) mfa.Account {
	r.t.Helper()
	a := mfa.Account{UserPublicID: uuid.Must(uuid.NewV7()), Label: name + "@example.org"}
	err := r.db.QueryRow(r.t.Context(), `insert into users (public_id, username, email, password_hash) values ($1, $2, $3, 'x') returning id`,
		a.UserPublicID, name, a.Label).Scan(&a.UserID)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func (r *rig) enroll(a mfa.Account) (mfa.Enrollment, error) {
	var e mfa.Enrollment
	err := r.db.InTx(r.t.Context(), func(tx *postgres.Tx) (err error) {
		e, err = r.EnrollTOTP(r.t.Context(), tx, a)
		return err
	})
	return e, err
}

// phone is what the account's owner has after setting up.
type phone struct {
	mfa.Account
	factor uuid.UUID
	key    []byte
	codes  []string
}

// setUp enrols and confirms, and lets the step of the confirmation pass.
func (r *rig) setUp(name string) phone {
	r.t.Helper()
	p := phone{Account: r.account(name)}
	e, err := r.enroll(p.Account)
	if err != nil {
		r.t.Fatal(err)
	}
	p.factor, p.key = e.FactorID, decode(r.t, e.Secret.Reveal())
	p.codes, err = r.ConfirmTOTP(r.t.Context(), p.confirm(r.code(p, 0)), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.wait(30 * time.Second)
	return p
}

// code is what the phone shows, steps before or after now.
func (r *rig) code(p phone, steps int64) string {
	return mfa.HOTP(p.key, r.now.Load()/30+steps, 6)
}

// wrong is a code that is good for no step near now.
func (r *rig) wrong(p phone) string {
	for n := 0; ; n++ {
		code := fmt.Sprintf("%06d", n)
		good := false
		for d := int64(-3); d <= 3; d++ {
			good = good || r.code(p, d) == code
		}
		if !good {
			return code
		}
	}
}

func (p phone) confirm(code string) mfa.Confirmation {
	return mfa.Confirmation{UserID: p.UserID, UserPublicID: p.UserPublicID, FactorID: p.factor, Code: code}
}

func (p phone) try(method mfa.Method, code string) mfa.Attempt {
	return mfa.Attempt{
		UserID: p.UserID, UserPublicID: p.UserPublicID, Method: method, Code: code, IP: netip.MustParseAddr("::ffff:203.0.113.7"),
	}
}

func (r *rig) verify(p phone, method mfa.Method, code string) error {
	_, err := r.Verify(r.t.Context(), p.try(method, code), nil)
	return err
}

// quick stands for Argon2id where a test is not about it.
func quick(_ context.Context, password, salt []byte) ([]byte, error) {
	return append(append([]byte{}, salt...), password...), nil
}

func decode(t *testing.T, text string) []byte {
	t.Helper()
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (r *rig) count(sql string, args ...any) int {
	r.t.Helper()
	var n int
	if err := r.db.QueryRow(r.t.Context(), sql, args...).Scan(&n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.db.Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatal(err)
	}
}

// events are the names in an account's history, oldest first.
func (r *rig) events(a mfa.Account) string {
	r.t.Helper()
	var names []string
	err := r.db.QueryRow(r.t.Context(), `select coalesce(array_agg(name order by version), '{}') from events
		where aggregate_type = 'user' and aggregate_id = $1 and user_id = $1`, a.UserPublicID).Scan(&names)
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.Join(names, " ")
}

func (r *rig) tx(fn func(ctx context.Context, tx *postgres.Tx) error) error {
	return r.db.InTx(r.t.Context(), func(tx *postgres.Tx) error { return fn(r.t.Context(), tx) })
}

// parallel runs fn n times at once and returns what each returned.
func parallel(n int, fn func(i int) error) []error {
	start := make(chan struct{})
	results := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			results[i] = fn(i)
		})
	}
	close(start)
	wg.Wait()
	return results
}

// exampleDatabase is a database with a keyset and one account.
func exampleDatabase() (*postgres.DB, *secret.Keyset, mfa.Account, func()) {
	o, ctx := exampletest.New(), context.Background()
	db := postgrestest.New(o)
	master, err := secret.NewMasterKey(bytes.Repeat([]byte("k"), 32))
	if err != nil {
		panic(err)
	}
	keys, err := secret.Open(ctx, db, master, "mfa")
	if err != nil {
		panic(err)
	}
	a := mfa.Account{UserPublicID: uuid.Must(uuid.NewV7()), Label: "ada@example.org"}
	err = db.QueryRow(ctx, `insert into users (public_id, username, email, password_hash) values ($1, 'ada', $2, 'x') returning id`,
		a.UserPublicID, a.Label).Scan(&a.UserID)
	if err != nil {
		panic(err)
	}
	return db, keys, a, o.End
}
