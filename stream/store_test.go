package stream_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/stream"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait"),                                      // the PostgreSQL server of the tests
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"), // sleeps 5 s after the client is closed
	)
}

// patient is for a machine that is busy with other tests.
var patient = cache.Config{CommandTimeout: 10 * time.Second}

func redis(t *testing.T) *cache.Client {
	t.Helper()
	return cachetest.Server(t).Client(t, patient)
}

// rig is a database, a Redis and a store on them.
type rig struct {
	*stream.Store
	t  *testing.T
	db *postgres.DB
}

func newRig(t *testing.T, c *cache.Client, cfg stream.Config) *rig {
	t.Helper()
	r := &rig{t: t, db: postgrestest.Open(t, postgres.Config{ // for a machine that is busy with other tests
		DSN: postgrestest.DSN(t), AcquireTimeout: time.Minute, LockTimeout: time.Minute, StatementTimeout: time.Minute,
	})}
	var err error
	if r.Store, err = stream.New(r.db, c, cfg); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) account(name string) stream.Account {
	r.t.Helper()
	a := stream.Account{PublicID: uuid.Must(uuid.NewV7())}
	err := r.db.QueryRow(r.t.Context(), `insert into users (public_id, username, email, password_hash)
		values ($1, $2, $3, 'x') returning id`, a.PublicID, name, name+"@example.org").Scan(&a.ID)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func (r *rig) tx(fn func(ctx context.Context, tx *postgres.Tx) error) error {
	return r.db.InTx(r.t.Context(), func(tx *postgres.Tx) error { return fn(r.t.Context(), tx) })
}

func (r *rig) create(a stream.Account, d stream.Draft) stream.Created {
	r.t.Helper()
	if d.Name == "" {
		d.Name = "a stream"
	}
	var c stream.Created
	err := r.tx(func(ctx context.Context, tx *postgres.Tx) (err error) {
		c, err = r.Create(ctx, tx, a, d)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *rig) start(a stream.Account, id uuid.UUID) (stream.Session, error) {
	var s stream.Session
	err := r.tx(func(ctx context.Context, tx *postgres.Tx) (err error) {
		s, err = r.Start(ctx, tx, a, id, stream.Stats{})
		return err
	})
	return s, err
}

func (r *rig) stop(a stream.Account, id uuid.UUID) (stream.Session, error) {
	var s stream.Session
	err := r.tx(func(ctx context.Context, tx *postgres.Tx) (err error) {
		s, err = r.Stop(ctx, tx, a, id)
		return err
	})
	return s, err
}

// live makes a stream that is live.
func (r *rig) live(a stream.Account) stream.Created {
	r.t.Helper()
	c := r.create(a, stream.Draft{})
	if _, err := r.start(a, c.Stream.PublicID); err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *rig) stats(a stream.Account, id uuid.UUID, t stream.Stats) error {
	return r.tx(func(ctx context.Context, tx *postgres.Tx) error {
		_, err := r.UpdateStats(ctx, tx, a, id, t)
		return err
	})
}

func (r *rig) scan(sql string, args ...any) (out string) {
	r.t.Helper()
	if err := r.db.QueryRow(r.t.Context(), sql, args...).Scan(&out); err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.db.Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatal(err)
	}
}

// events are the names in a stream's history, oldest first.
func (r *rig) events(id uuid.UUID) string {
	return r.scan(`select coalesce(string_agg(name, ' ' order by version), '') from events where aggregate_type = 'stream' and aggregate_id = $1`, id)
}

// usage are the kinds of an account's usage, oldest first.
func (r *rig) usage(a stream.Account) string {
	return r.scan(`select coalesce(string_agg(event_type, ' ' order by id), '') from usage_logs where user_id = $1`, a.ID)
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
