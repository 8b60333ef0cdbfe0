package postgres_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

func keysetNames(t *testing.T, db *postgres.DB) int {
	t.Helper()
	var n int
	if err := db.QueryRow(t.Context(), "select count(*) from keysets").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

const insertKeyset = "insert into keysets values ($1, '', '')"

func TestAPipelineIsOneTransaction(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	b := &pgx.Batch{}
	b.Queue(insertKeyset, "a")
	b.Queue(insertKeyset, "b")
	if err := db.Pipeline(t.Context(), b); err != nil || keysetNames(t, db) != 2 {
		t.Fatalf("Pipeline = %v with %d rows, want 2", err, keysetNames(t, db))
	}
	b = &pgx.Batch{}
	b.Queue(insertKeyset, "c")
	b.Queue(insertKeyset, "a")
	if err := db.Pipeline(t.Context(), b); !postgres.UniqueViolation(err, "keysets") {
		t.Errorf("Pipeline = %v, want the violation", err)
	}
	b = &pgx.Batch{}
	b.Queue(insertKeyset, "d")
	b.Queue("select 1").QueryRow(func(row pgx.Row) error { var s string; return errors.Join(row.Scan(&s), pgx.ErrTooManyRows) })
	if err := db.Pipeline(t.Context(), b); !errors.Is(err, postgres.ErrCommitUnknown) {
		t.Errorf("Pipeline whose function fails = %v, want ErrCommitUnknown: the server may be through", err)
	}
	b = &pgx.Batch{}
	b.Queue("select * from no_such_table")
	if err := db.Pipeline(t.Context(), b); err == nil || errs.KindOf(err) != errs.Internal {
		t.Errorf("Pipeline = %v, want a fault of ours", err)
	}
}

func TestAFaultOfTheCommitItselfIsToldByPipeline(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	for _, sql := range []string{"create table late (n int constraint late_n unique deferrable initially deferred)", "insert into late values (1)"} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	b := &pgx.Batch{}
	b.Queue("insert into late values (2)")
	b.Queue("insert into late values (1)")
	if err := db.Pipeline(t.Context(), b); !postgres.Violates(err, "late_n") {
		t.Errorf("Pipeline = %v, want the violation found at the commit", err)
	}
	var n int
	if err := db.QueryRow(t.Context(), "select count(*) from late").Scan(&n); err != nil || n != 1 {
		t.Errorf("%d rows, %v; want 1", n, err)
	}
}

func TestAPipelineCutOffIsUnknown(t *testing.T) {
	t.Parallel()
	srv := postgrestest.Server(t)
	cfg := short(srv.DSN())
	cfg.MaxConns = 1
	db := postgrestest.Open(t, cfg)
	b := &pgx.Batch{}
	b.Queue("select 1")
	if err := db.Pipeline(t.Context(), b); err != nil { // so that the statement is prepared
		t.Fatal(err)
	}
	srv.Pause()
	b = &pgx.Batch{}
	b.Queue("select 1")
	if err := db.Pipeline(t.Context(), b); !errors.Is(err, postgres.ErrCommitUnknown) || errs.RetryAfter(err) == 0 {
		t.Errorf("Pipeline on a paused server = %v, want ErrCommitUnknown", err)
	}
	srv.Resume()
	db.Close()
	if err := db.Pipeline(t.Context(), b); !errors.Is(err, postgres.ErrUnavailable) {
		t.Errorf("Pipeline without a connection = %v, want ErrUnavailable: nothing was sent", err)
	}
}

func TestOnCommitHearsOfAcknowledgedCommitsOnly(t *testing.T) {
	t.Parallel()
	var heard []string
	db := postgrestest.Open(t, postgres.Config{DSN: postgrestest.DSN(t), OnCommit: func(tx *postgres.Tx) {
		heard = append(heard, "commit of "+tx.Value("name").(string)) //nolint:forcetypeassert // set below
	}})
	boom := errors.New("boom")
	for _, name := range []string{"first", "second"} {
		err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
			tx.SetValue("name", name)
			tx.AfterCommit(func() { heard = append(heard, "after "+name) })
			_, err := tx.Exec(t.Context(), insertKeyset, name)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.InTx(t.Context(), func(*postgres.Tx) error { return boom }); !errors.Is(err, boom) {
		t.Error(err)
	}
	if err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		_, _ = tx.Exec(t.Context(), insertKeyset, "first") // the violation makes the commit a rollback
		return nil
	}); err == nil {
		t.Error("a commit that rolled back is told as success")
	}
	want := []string{"after first", "commit of first", "after second", "commit of second"}
	if len(heard) != 4 || heard[0] != want[0] || heard[1] != want[1] || heard[2] != want[2] || heard[3] != want[3] {
		t.Errorf("heard %q, want %q", heard, want)
	}
}

// last runs a transaction whose one deferred function sends statements as the last ones.
func last(tb testing.TB, db *postgres.DB, then func(), statements ...string) error {
	tb.Helper()
	return db.InTx(tb.Context(), func(tx *postgres.Tx) error {
		if _, err := tx.Exec(tb.Context(), "select 1"); err != nil {
			return err
		}
		tx.AtLast(func(ctx context.Context) error {
			b := &pgx.Batch{}
			for _, sql := range statements {
				b.Queue(sql)
			}
			if err := tx.SendLast(ctx, b); err != nil {
				return err
			}
			then()
			return nil
		})
		return nil
	})
}

const insertLast = "insert into keysets values ('last', '', '')"

func TestTheCommitGoesWithTheLastStatements(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	for _, more := range []bool{true, false} { // whether something else is deferred
		seen, after := -1, false
		err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
			tx.AfterCommit(func() { after = true })
			tx.AtLast(func(ctx context.Context) error {
				b := &pgx.Batch{}
				b.Queue(insertLast)
				if err := tx.SendLast(ctx, b); err != nil {
					return err
				}
				seen = keys(t, db)
				return nil
			})
			if more {
				tx.AtLast(func(ctx context.Context) error {
					_, err := tx.Exec(ctx, "update keysets set name = 'changed'")
					return err
				})
			}
			return nil
		})
		if want := map[bool]int{true: 0, false: 2}[more]; err != nil || !after || seen != want {
			t.Errorf("with more to come %v: others saw %d rows, want %d; %v", more, seen, want, err)
		}
	}
}

func TestLastStatementsThatFailLeaveNothing(t *testing.T) {
	t.Parallel()
	cfg := postgres.Config{DSN: postgrestest.DSN(t), MaxConns: 1}
	db := postgrestest.Open(t, cfg)
	if _, err := db.Exec(t.Context(), "create table late (n int, constraint late_n unique (n) deferrable initially deferred)"); err != nil {
		t.Fatal(err)
	}
	never := func() { t.Error("the failure was not told") }
	if err := last(t, db, never, insertLast, insertLast); !postgres.UniqueViolation(err, "keysets") {
		t.Errorf("a statement that fails = %v", err)
	}
	if err := last(t, db, never, "insert into late values (1)", "insert into late values (1)"); !postgres.Violates(err, "late_n") {
		t.Errorf("a commit that fails = %v", err)
	}
	var n int
	if err := db.QueryRow(t.Context(), "select (select count(*) from late) + (select count(*) from keysets)").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d rows are left, %v", n, err)
	}
	if err := last(t, db, func() {}, insertLast); err != nil || keys(t, db) != 1 {
		t.Errorf("the connection is of no use any more: %v", err)
	}
}

func TestLastStatementsCutOffAreUnknown(t *testing.T) {
	t.Parallel()
	srv := postgrestest.Server(t)
	cfg := short(srv.DSN())
	cfg.MaxConns = 1
	db := postgrestest.Open(t, cfg)
	if err := last(t, db, func() {}, insertLast, "delete from keysets"); err != nil { // so that the statements are prepared
		t.Fatal(err)
	}
	told := false
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		tx.AfterCommit(func() { told = true })
		tx.AtLast(func(ctx context.Context) error {
			b := &pgx.Batch{}
			b.Queue(insertLast)
			return tx.SendLast(ctx, b)
		})
		if _, err := tx.Exec(t.Context(), "insert into keysets values ('first', '', '')"); err != nil {
			return err
		}
		srv.Pause()
		return nil
	})
	if !errors.Is(err, postgres.ErrCommitUnknown) || errs.RetryAfter(err) == 0 || told {
		t.Errorf("InTx on a paused server = %v, want ErrCommitUnknown; AfterCommit ran: %v", err, told)
	}
	srv.Resume()
}
