package postgres_test

import (
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
