package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

func TestABusyPoolIsAClearErrorInTime(t *testing.T) {
	t.Parallel()
	db := postgrestest.Open(t, postgres.Config{DSN: postgrestest.DSN(t), MaxConns: 2, AcquireTimeout: 200 * time.Millisecond})
	var held []func()
	for len(held) < 2 {
		c, err := db.Acquire(t.Context()) // the first connections may take longer than the wait that is tested
		switch {
		case err == nil:
			held = append(held, c.Release)
		case t.Context().Err() != nil || errs.KindOf(err) != errs.Unavailable:
			t.Fatal(err)
		}
	}
	if inUse, size := db.Stat(); inUse != 2 || size != 2 {
		t.Errorf("Stat = %d of %d, want 2 of 2", inUse, size)
	}
	none, queryErr := db.Query(t.Context(), "select 1")
	_, collectErr := pgx.CollectRows(none, pgx.RowToStructByName[struct{ N int }])
	batch := &pgx.Batch{}
	batch.Queue("select 1")
	results := db.SendBatch(t.Context(), batch)
	_, execErr := results.Exec()
	_, batchQueryErr := results.Query() //nolint:sqlclosecheck // there are none
	_, copyErr := db.CopyFrom(t.Context(), pgx.Identifier{"keysets"}, []string{"name"}, pgx.CopyFromRows(nil))
	var n int
	for what, err := range map[string]error{
		"exec": db.Ping(t.Context()), "query": queryErr, "its rows": collectErr, "row": db.QueryRow(t.Context(), "select 1").Scan(&n),
		"batch exec": execErr, "batch query": batchQueryErr, "batch row": results.QueryRow().Scan(&n), "batch": results.Close(),
		"copy": copyErr, "transaction": db.InTx(t.Context(), func(*postgres.Tx) error { return nil }),
	} {
		if !errors.Is(err, postgres.ErrPoolExhausted) || errs.RetryAfter(err) == 0 {
			t.Errorf("%s on a busy pool = %v, want ErrPoolExhausted and a time to retry", what, err)
		}
	}
	begun := time.Now()
	_ = db.Ping(t.Context())
	if took := time.Since(begun); took < 150*time.Millisecond || took > 5*time.Second {
		t.Errorf("the wait took %v, want about 200ms", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Ping(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled caller gets %v, want its own context.Canceled", err)
	}
	for _, release := range held {
		release()
	}
	if err := db.Ping(t.Context()); err != nil {
		t.Errorf("with connections again: %v", err)
	}
}

func TestConnectionsAlwaysComeBack(t *testing.T) {
	t.Parallel()
	db := postgrestest.Open(t, postgres.Config{DSN: postgrestest.DSN(t), MaxConns: 1, AcquireTimeout: time.Second})
	var n int
	for name, use := range map[string]func(){
		"a row":             func() { _ = db.QueryRow(t.Context(), "select 1").Scan(&n) },
		"no row":            func() { _ = db.QueryRow(t.Context(), "select 1 where false").Scan(&n) },
		"a wrong type":      func() { _ = db.QueryRow(t.Context(), "select 'x'").Scan(&n) },
		"a wrong statement": func() { _ = db.QueryRow(t.Context(), "selekt").Scan(&n) },
		"an error later":    func() { _ = db.QueryRow(t.Context(), "select 1 / (n - 1) from generate_series(1, 2) n").Scan(&n) },
		"half the rows": func() {
			rows, _ := db.Query(t.Context(), "select n from generate_series(1, 10000) n")
			rows.Next()
			rows.Close()
			rows.Close()
		},
		"all rows": func() {
			rows, _ := db.Query(t.Context(), "select n from generate_series(1, 10) n")
			_, _ = pgx.CollectRows(rows, pgx.RowTo[int])
		},
		"a failed query's rows": func() {
			rows, _ := db.Query(t.Context(), "selekt")
			_, _ = pgx.CollectRows(rows, pgx.RowTo[int])
		},
		"a batch": func() {
			b := &pgx.Batch{}
			b.Queue("select 1")
			b.Queue("select 2")
			results := db.SendBatch(t.Context(), b)
			_ = results.QueryRow().Scan(&n)
			_ = results.Close()
			_ = results.Close()
		},
		"a batch that fails": func() {
			b := &pgx.Batch{}
			b.Queue("select 1/0")
			b.Queue("select 2")
			_ = db.SendBatch(t.Context(), b).Close()
		},
		"a rolled back transaction": func() { _ = db.InTx(t.Context(), func(*postgres.Tx) error { return errors.New("no") }) },
		"a transaction whose goroutine ends": func() {
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = db.InTx(context.Background(), func(*postgres.Tx) error { runtimeGoexit(); return nil })
			}()
			<-done
		},
		"a transaction that panics": func() {
			defer func() { _ = recover() }()
			_ = db.InTx(t.Context(), func(*postgres.Tx) error { panic("oh") })
		},
		"a lent connection": func() { c, _ := db.Acquire(t.Context()); c.Release() },
	} {
		use()
		if err := db.Ping(t.Context()); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
		if inUse, _ := db.Stat(); inUse != 0 {
			t.Errorf("after %s %d connections are in use", name, inUse)
		}
	}
}

func TestAHundredAndFiftyClientsAtOnce(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	var wg sync.WaitGroup
	var failed atomic.Int64
	for client := range 150 {
		wg.Go(func() {
			for turn := range 5 {
				err := db.InTx(context.Background(), func(tx *postgres.Tx) error {
					_, err := tx.Exec(context.Background(), "insert into keysets values ($1, '', '')", fmt.Sprintf("%d.%d", client, turn))
					return err
				})
				if err != nil {
					failed.Add(1)
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var n int
	if err := db.QueryRow(t.Context(), "select count(*) from keysets").Scan(&n); err != nil || n != 750 || failed.Load() > 0 {
		t.Errorf("%d rows, %v; want 750", n, err)
	}
}

func TestConnectionsOfOursHaveLimitsAndUTC(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.DSN(t)
	setZone(t, dsn)
	for setting, bad := range map[string]string{"synchronous_commit": "off", "default_transaction_isolation": "serializable"} {
		setDefault(t, dsn, setting, bad)
	}
	db := postgrestest.Open(t, postgres.Config{DSN: dsn, StatementTimeout: 1500 * time.Millisecond, LockTimeout: 250 * time.Millisecond})
	for name, want := range map[string]string{
		"TimeZone": "UTC", "statement_timeout": "1500ms", "lock_timeout": "250ms", "rootstream.writer": "on",
		"idle_in_transaction_session_timeout": "30s", "application_name": "rootstream",
		"synchronous_commit": "on", "default_transaction_isolation": "read committed",
	} {
		var have string
		if err := db.QueryRow(t.Context(), "select current_setting($1)", name).Scan(&have); err != nil || have != want {
			t.Errorf("%s = %q, %v; want %q", name, have, err, want)
		}
	}
	if _, err := db.Exec(t.Context(), "select pg_sleep(5)"); !errors.Is(err, postgres.ErrBusy) {
		t.Errorf("a long statement = %v, want ErrBusy", err)
	}
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		if _, err := tx.Exec(t.Context(), "lock table keysets"); err != nil {
			return err
		}
		_, err := db.Exec(t.Context(), "insert into keysets values ('x', '', '')")
		return err
	})
	if !errors.Is(err, postgres.ErrBusy) {
		t.Errorf("a long wait for a lock = %v, want ErrBusy", err)
	}
}

func TestErrorsSayWhatACallerCanDo(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	for _, tt := range []struct {
		sql  string
		args []any
		want errs.Kind
	}{
		{"select $1::text", []any{"a\x00b"}, errs.Invalid},
		{"select $1::text", []any{"\xff"}, errs.Invalid},
		{"select convert_from('\\x00'::bytea, 'UTF8')", nil, errs.Invalid},
		{"selekt", nil, errs.Internal},
		{"insert into keysets values (null, '', '')", nil, errs.Internal},
	} {
		if _, err := db.Exec(t.Context(), tt.sql, tt.args...); err == nil || errs.KindOf(err) != tt.want {
			t.Errorf("%s %q = %v, want kind %v", tt.sql, tt.args, err, tt.want)
		}
	}
	mustInsert := func() error {
		_, err := db.Exec(t.Context(), "insert into keysets values ('x', '', '')")
		return err
	}
	if err := mustInsert(); err != nil {
		t.Fatal(err)
	}
	err := mustInsert()
	if !postgres.Violates(err, "keysets_pkey") || !postgres.UniqueViolation(err, "keysets") {
		t.Errorf("a duplicate = %v, want a violation of keysets_pkey", err)
	}
	if postgres.Violates(err, "other") || postgres.UniqueViolation(err, "users") || postgres.Violates(nil, "keysets_pkey") {
		t.Error("a violation matches what it is not")
	}
	if err := db.QueryRow(t.Context(), "select 1 where false").Scan(new(int)); !errors.Is(err, postgres.ErrNoRows) {
		t.Errorf("no row = %v, want ErrNoRows", err)
	}
}

func TestAddressesThatLeadNowhere(t *testing.T) {
	t.Parallel()
	const password = "canary-password"
	good := postgrestest.DSN(t)
	at := strings.Index(good, "@")
	for name, tt := range map[string]struct {
		dsn  string
		want error
	}{
		"not a URL":        {"postgres://user:" + password + "@host:port:5432/x", postgres.ErrBadDSN},
		"a wrong setting":  {"host=h password=" + password + " port=99999999", postgres.ErrBadDSN},
		"no such key":      {"postgres://u:" + password + "@127.0.0.1:1/x?sslmode=sometimes", postgres.ErrBadDSN},
		"nobody listens":   {"postgres://u:" + password + "@127.0.0.1:1/x", postgres.ErrUnavailable},
		"a wrong password": {"postgres://postgres:" + password + good[at:], postgres.ErrUnavailable},
		"no such database": {good[:strings.LastIndex(good, "/")] + "/nowhere", postgres.ErrUnavailable},
	} {
		db, err := postgres.Open(t.Context(), postgres.Config{DSN: tt.dsn, ConnectTimeout: time.Second})
		if err == nil {
			err = db.Ping(t.Context())
			db.Close()
		}
		_, migrateErr := postgres.Migrate(t.Context(), tt.dsn, postgres.MigrateOptions{Logger: quiet()})
		_, statusErr := postgres.MigrationStatus(t.Context(), tt.dsn)
		for _, err := range []error{err, migrateErr, statusErr} {
			if !errors.Is(err, tt.want) {
				t.Errorf("%s: %v, want %v", name, err, tt.want)
			}
			if text := fmt.Sprintf("%v %+v %q", err, err, errs.Of(err).Hint); strings.Contains(text, password) {
				t.Errorf("%s: the error tells the password: %s", name, text)
			}
		}
	}
}

func TestQueriesAreCountedByType(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	dsn := postgrestest.DSN(t)
	db := postgrestest.Open(t, postgres.Config{DSN: dsn, Registerer: reg})
	if err := db.Ping(t.Context()); err != nil { // preparing a connection is a query too
		t.Fatal(err)
	}
	before := counts(t, reg)
	for _, sql := range []string{"select 1", "(select 1)", "\n SELECT 2", "insert into keysets values ('x', '', '')", "with a as (select 1) select * from a", "vacuum keysets"} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = db.Exec(t.Context(), "select 1/0")
	b := &pgx.Batch{}
	b.Queue("select 1")
	b.Queue("select 2")
	if err := db.SendBatch(t.Context(), b).Close(); err != nil {
		t.Fatal(err)
	}
	after := counts(t, reg)
	for series, want := range map[string]float64{
		"rootstream_database_query_seconds select": 4, "rootstream_database_query_seconds insert": 1,
		"rootstream_database_query_seconds with": 1, "rootstream_database_query_seconds other": 1,
		"rootstream_database_query_seconds batch": 1, "rootstream_database_query_failures_total select": 1,
	} {
		if got := after[series] - before[series]; got != want {
			t.Errorf("%s rose by %v, want %v", series, got, want)
		}
	}
	if after["rootstream_database_connections_max "] != 20 || after["rootstream_database_connections "] < 1 {
		t.Errorf("the pool's gauges are %v", after)
	}
	if _, err := postgres.Open(t.Context(), postgres.Config{DSN: dsn, Registerer: reg}); err == nil {
		t.Error("a second pool on one registry hid the first one's numbers")
	}
}

// counts reads every series, of histograms the number of observations.
func counts(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName() + " "
			for _, l := range m.GetLabel() {
				name += l.GetValue()
			}
			all[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return all
}

func TestCopyFromLoadsRows(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	load := func(from func(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error), prefix string) {
		n, err := from(t.Context(), pgx.Identifier{"keysets"}, []string{"name", "wrapped", "canary"},
			pgx.CopyFromRows([][]any{{prefix + "1", []byte{}, []byte{}}, {prefix + "2", []byte{}, []byte{}}}))
		if err != nil || n != 2 {
			t.Errorf("CopyFrom = %d, %v; want 2 rows", n, err)
		}
	}
	load(db.CopyFrom, "pool")
	if err := db.InTx(t.Context(), func(tx *postgres.Tx) error { load(tx.CopyFrom, "tx"); return nil }); err != nil {
		t.Fatal(err)
	}
	var names []string
	if err := db.QueryRow(t.Context(), "select array_agg(name order by name) from keysets").Scan(&names); err != nil || !slices.Equal(names, []string{"pool1", "pool2", "tx1", "tx2"}) {
		t.Errorf("rows = %v, %v", names, err)
	}
}

var _ interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
} = postgres.Querier(nil)
