package postgres_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// short are limits that let a fault show within a test.
func short(dsn string) postgres.Config {
	return postgres.Config{
		DSN: dsn, AcquireTimeout: 500 * time.Millisecond, ConnectTimeout: 500 * time.Millisecond,
		StatementTimeout: time.Second, LockTimeout: 200 * time.Millisecond,
	}
}

// eventually calls f until it succeeds.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: still %v", what, err)
}

func TestPausedServerIsUnavailableInBoundedTimeAndHeals(t *testing.T) {
	t.Parallel()
	srv := postgrestest.Server(t)
	db := postgrestest.Open(t, short(srv.DSN()))
	if err := db.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	srv.Pause()
	calls := map[string]func() error{
		"exec":  func() error { return db.Ping(t.Context()) },
		"query": func() error { var n int; return db.QueryRow(t.Context(), "select 1").Scan(&n) },
		"transaction": func() error {
			return db.InTx(t.Context(), func(tx *postgres.Tx) error {
				_, err := tx.Exec(t.Context(), "select 1") // a context without an end of its own
				return err
			})
		},
	}
	for name, call := range calls {
		begun := time.Now()
		err := call()
		if !errors.Is(err, postgres.ErrBusy) && !errors.Is(err, postgres.ErrUnavailable) {
			t.Errorf("%s on a paused server = %v, want ErrBusy or ErrUnavailable", name, err)
		}
		if errs.RetryAfter(err) == 0 {
			t.Errorf("%s does not say when to retry: %v", name, err)
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
	srv.Resume()
	eventually(t, "after the pause", func() error { return db.Ping(t.Context()) })
}

func TestPauseInsideATransactionEndsIt(t *testing.T) {
	t.Parallel()
	srv := postgrestest.Server(t)
	db := postgrestest.Open(t, short(srv.DSN()))
	begun := time.Now()
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		srv.Pause()
		_, err := tx.Exec(t.Context(), "select 1")
		return err
	})
	if errs.KindOf(err) != errs.Unavailable {
		t.Errorf("InTx = %v, want kind Unavailable", err)
	}
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("it took %v", took)
	}
	srv.Resume()
}

func TestPauseAtCommitLeavesTheOutcomeUnknown(t *testing.T) {
	t.Parallel()
	srv := postgrestest.Server(t)
	db := postgrestest.Open(t, short(srv.DSN()))
	told := false
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		tx.AfterCommit(func() { told = true })
		if _, err := tx.Exec(t.Context(), "insert into keysets values ('x', '', '')"); err != nil {
			return err
		}
		srv.Pause()
		return nil
	})
	if !errors.Is(err, postgres.ErrCommitUnknown) {
		t.Errorf("InTx = %v, want ErrCommitUnknown", err)
	}
	if told {
		t.Error("AfterCommit ran although nothing was acknowledged")
	}
	srv.Resume()
}

func TestKilledServerIsUnavailableAndHealsByItself(t *testing.T) {
	t.Parallel()
	srv := postgrestest.Server(t)
	db := postgrestest.Open(t, short(srv.DSN()))
	insert := func(ctx context.Context, name string) error {
		return db.InTx(ctx, func(tx *postgres.Tx) error {
			_, err := tx.Exec(ctx, "insert into keysets values ($1, '', '')", name)
			return err
		})
	}
	if err := insert(t.Context(), "acknowledged"); err != nil {
		t.Fatal(err)
	}
	srv.Kill()
	for range 3 {
		if err := insert(t.Context(), "lost"); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("insert on a killed server = %v, want kind Unavailable", err)
		}
		if err := db.Ping(t.Context()); !errors.Is(err, postgres.ErrUnavailable) && !errors.Is(err, postgres.ErrBusy) {
			t.Errorf("ping on a killed server = %v, want ErrUnavailable", err)
		}
	}
	srv.Restart()
	eventually(t, "after the restart", func() error { return insert(t.Context(), "later") })
	var names []string
	if err := db.QueryRow(t.Context(), "select array_agg(name order by name) from keysets").Scan(&names); err != nil {
		t.Fatal(err)
	}
	if len(names) != 2 || names[0] != "acknowledged" {
		t.Errorf("rows = %v, want the acknowledged one and the later one", names)
	}
}

func TestReadOnlyServerSaysSo(t *testing.T) {
	t.Parallel()
	srv := postgrestest.Server(t)
	db := postgrestest.Open(t, short(srv.DSN()))
	write := func() error {
		_, err := db.Exec(t.Context(), "insert into keysets values ('x', '', '') on conflict do nothing")
		return err
	}
	srv.ReadOnly(true)
	if err := write(); !errors.Is(err, postgres.ErrReadOnly) {
		t.Errorf("write = %v, want ErrReadOnly", err)
	}
	if err := db.Ping(t.Context()); err != nil {
		t.Errorf("reading = %v, want it to work", err)
	}
	if _, err := postgres.MigrationStatus(t.Context(), srv.DSN()); err != nil {
		t.Errorf("MigrationStatus = %v, want it to only read", err)
	}
	if _, err := postgres.Migrate(t.Context(), srv.DSN(), postgres.MigrateOptions{Rolling: true}); err != nil {
		t.Errorf("Migrate with nothing to do = %v, want it to only read", err)
	}
	if _, err := postgres.Migrate(t.Context(), srv.DSN(), postgres.MigrateOptions{}); !errors.Is(err, postgres.ErrReadOnly) {
		t.Errorf("Migrate = %v, want ErrReadOnly", err)
	}
	srv.ReadOnly(false)
	eventually(t, "writable again", write)
}

func TestServerWithoutFreeConnectionsIsFull(t *testing.T) {
	t.Parallel()
	srv := postgrestest.Server(t, "max_connections=5", "superuser_reserved_connections=0", "max_wal_senders=0")
	db := postgrestest.Open(t, short(srv.DSN()))
	hold := make([]func(), 0, 5)
	for range 5 {
		c, err := db.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		hold = append(hold, c.Release)
	}
	if err := db.Ping(t.Context()); !errors.Is(err, postgres.ErrFull) {
		t.Errorf("a sixth connection = %v, want ErrFull", err)
	}
	for _, release := range hold {
		release()
	}
	eventually(t, "with connections again", func() error { return db.Ping(t.Context()) })
}

func TestAConnectionThatAClosingPoolNoLongerWaitsForIsUnavailable(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	db := postgrestest.Open(t, postgres.Config{
		DSN: "postgres://nobody@" + silent.Addr().String() + "/none?sslmode=disable", AcquireTimeout: time.Minute, ConnectTimeout: time.Minute,
	})
	answer := make(chan error, 1)
	go func() { answer <- db.Ping(t.Context()) }()
	taken, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	db.Close()
	if err := <-answer; !errors.Is(err, postgres.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("Ping = %v (%s), want ErrUnavailable because of a cancellation that is not the caller's", err, errs.CodeOf(err))
	}
}
