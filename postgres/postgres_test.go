package postgres_test

import (
	"context"
	"errors"
	"testing"

	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

func TestInTxRollsBackOnError(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	boom := errors.New("boom")
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		if _, err := tx.Exec(t.Context(), "insert into keysets (name, wrapped, canary) values ('x', '', '')"); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatalf("InTx = %v, want the function's own error", err)
	}
	var n int
	if err := db.QueryRow(t.Context(), "select count(*) from keysets").Scan(&n); err != nil || n != 0 {
		t.Fatalf("rows = %d, %v; want none", n, err)
	}
}

func TestMigrateIsSafeFromManyProcessesAtOnce(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.Empty(t)
	done := make(chan error)
	for range 6 {
		go func() {
			_, err := postgres.Migrate(context.Background(), dsn, postgres.MigrateOptions{})
			done <- err
		}()
	}
	for range 6 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	steps, err := postgres.MigrationStatus(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		if s.AppliedAt == nil {
			t.Errorf("%s was not applied", s.Name)
		}
	}
}
