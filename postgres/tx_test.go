package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

func runtimeGoexit() { runtime.Goexit() }

// keys counts the rows that tests leave.
func keys(t *testing.T, db postgres.Querier) int {
	t.Helper()
	var n int
	if err := db.QueryRow(t.Context(), "select count(*) from keysets").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func put(tx *postgres.Tx, name string) error {
	_, err := tx.Exec(context.Background(), "insert into keysets values ($1, '', '')", name)
	return err
}

func TestDeferredStatementsRunInOrder(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	var order []string
	note := func(s string) func(context.Context) error {
		return func(context.Context) error { order = append(order, s); return nil }
	}
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		tx.AfterCommit(func() { order = append(order, fmt.Sprint("after, rows ", keys(t, db))) })
		tx.AtLast(func(ctx context.Context) error {
			order = append(order, "last")
			tx.BeforeCommit(note("before, found late")) // a lock is held already, but nothing is lost
			return nil
		})
		tx.BeforeCommit(func(ctx context.Context) error {
			order = append(order, "first")
			tx.BeforeCommit(note("third"))
			return put(tx, "deferred")
		})
		tx.BeforeCommit(note("second"))
		order = append(order, "function")
		return nil
	})
	want := "function, first, second, third, last, before, found late, after, rows 1"
	if got := strings.Join(order, ", "); err != nil || got != want {
		t.Errorf("order = %s, %v\nwant    %s", got, err, want)
	}
}

func TestWhatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	boom := errors.New("boom")
	for name, fn := range map[string]func(tx *postgres.Tx) error{
		"the function": func(tx *postgres.Tx) error { return errors.Join(put(tx, "a"), boom) },
		"a deferred statement": func(tx *postgres.Tx) error {
			tx.BeforeCommit(func(context.Context) error { return errors.Join(put(tx, "b"), boom) })
			return put(tx, "a")
		},
		"the last one": func(tx *postgres.Tx) error {
			tx.AtLast(func(context.Context) error { return boom })
			return put(tx, "a")
		},
	} {
		told := false
		err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
			tx.AfterCommit(func() { told = true })
			return fn(tx)
		})
		if !errors.Is(err, boom) || told || keys(t, db) != 0 {
			t.Errorf("%s fails: InTx = %v, told %v, %d rows; want its error, false, none", name, err, told, keys(t, db))
		}
	}
	for name, fn := range map[string]func(tx *postgres.Tx) error{
		"the function": func(tx *postgres.Tx) error { _ = put(tx, "a"); panic(boom) },
		"a deferred statement": func(tx *postgres.Tx) error {
			tx.BeforeCommit(func(context.Context) error { panic(boom) })
			return put(tx, "a")
		},
	} {
		func() {
			defer func() {
				if got := recover(); got != boom { //nolint:errorlint // the very value
					t.Errorf("%s panics: recovered %v, want its own value", name, got)
				}
			}()
			_ = db.InTx(t.Context(), fn)
		}()
		if n := keys(t, db); n != 0 {
			t.Errorf("%s panics: %d rows stayed", name, n)
		}
	}
}

func TestADeadlockIsRunAgain(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	if err := db.InTx(t.Context(), func(tx *postgres.Tx) error { return errors.Join(put(tx, "a"), put(tx, "b")) }); err != nil {
		t.Fatal(err)
	}
	var wg, met sync.WaitGroup
	met.Add(2)
	runs := make([]int, 2)
	for i, order := range [][]string{{"a", "b"}, {"b", "a"}} {
		wg.Go(func() {
			err := db.InTx(context.Background(), func(tx *postgres.Tx) error {
				runs[i]++
				for step, name := range order {
					if _, err := tx.Exec(context.Background(), "update keysets set revision = revision + 1 where name = $1", name); err != nil {
						return fmt.Errorf("wrapped: %w", err)
					}
					if step == 0 && runs[i] == 1 { // both hold one row and want the other's
						met.Done()
						met.Wait()
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var revisions []int64
	if err := db.QueryRow(t.Context(), "select array_agg(revision) from keysets").Scan(&revisions); err != nil || revisions[0] != 3 || revisions[1] != 3 {
		t.Errorf("revisions = %v, %v; want both changes once on each row", revisions, err)
	}
	if runs[0]+runs[1] < 3 { // on a slow machine both may be chosen
		t.Errorf("the transactions ran %v times: there was no deadlock", runs)
	}
}

func TestWhatAlwaysLosesGivesUp(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	runs := 0
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		runs++
		_, err := tx.Exec(t.Context(), "do $$ begin raise serialization_failure; end $$")
		return err
	})
	if !errors.Is(err, postgres.ErrBusy) || runs != 5 {
		t.Errorf("InTx = %v after %d runs, want ErrBusy after 5", err, runs)
	}
}

func TestACommitThatIsRefusedStoredNothing(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	ddl := "create table parent (id int primary key); create table child (id int references parent deferrable initially deferred)"
	if _, err := db.Exec(t.Context(), ddl); err != nil {
		t.Fatal(err)
	}
	told := false
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		tx.AfterCommit(func() { told = true })
		_, err := tx.Exec(t.Context(), "insert into child values (1)")
		return err
	})
	if !postgres.Violates(err, "child_id_fkey") || errors.Is(err, postgres.ErrCommitUnknown) || told {
		t.Errorf("InTx = %v, told %v; want the violation and no doubt", err, told)
	}
	err = db.InTx(t.Context(), func(tx *postgres.Tx) error {
		_, _ = tx.Exec(t.Context(), "select 1/0") // and the error is swallowed
		return nil
	})
	if !errors.Is(err, pgx.ErrTxCommitRollback) {
		t.Errorf("committing a failed transaction = %v, want ErrTxCommitRollback", err)
	}
}

func TestAConnectionLostAtCommitIsInDoubt(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		var pid int
		if err := tx.QueryRow(t.Context(), "select pg_backend_pid()").Scan(&pid); err != nil {
			return err
		}
		_, err := db.Exec(t.Context(), "select pg_terminate_backend($1, 5000)", pid)
		return err
	})
	if !errors.Is(err, postgres.ErrCommitUnknown) || errs.KindOf(err) != errs.Unavailable {
		t.Errorf("InTx = %v, want ErrCommitUnknown", err)
	}
}

func TestATransactionKeepsValuesOfItsOwn(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	type mine struct{}
	for range 2 {
		err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
			if got := tx.Value(mine{}); got != nil {
				t.Errorf("a new transaction has %v", got)
			}
			tx.SetValue(mine{}, 7)
			if got := tx.Value(mine{}); got != 7 {
				t.Errorf("Value = %v, want 7", got)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadsInsideATransaction(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		if err := put(tx, "a"); err != nil {
			return err
		}
		if n := keys(t, tx); n != 1 {
			t.Errorf("the transaction sees %d rows of its own, want 1", n)
		}
		if n := keys(t, db); n != 0 {
			t.Errorf("others see %d rows, want none", n)
		}
		rows, err := tx.Query(t.Context(), "select n from generate_series(1, 3) n")
		if err != nil {
			return err
		}
		if got, collectErr := pgx.CollectRows(rows, pgx.RowTo[int]); collectErr != nil || len(got) != 3 {
			t.Errorf("rows = %v, %v", got, collectErr)
		}
		b := &pgx.Batch{}
		b.Queue("select 1")
		b.Queue("select n from generate_series(1, 2) n")
		results := tx.SendBatch(t.Context(), b)
		if tag, execErr := results.Exec(); execErr != nil || tag.RowsAffected() != 1 {
			t.Errorf("batch exec = %v, %v", tag, execErr)
		}
		more, err := results.Query()
		if err != nil {
			return err
		}
		if got, err := pgx.CollectRows(more, pgx.RowTo[int]); err != nil || len(got) != 2 {
			t.Errorf("batch rows = %v, %v", got, err)
		}
		return results.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestATransactionEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := db.InTx(ctx, func(tx *postgres.Tx) error {
		if err := put(tx, "a"); err != nil {
			return err
		}
		time.AfterFunc(50*time.Millisecond, cancel)
		_, err := tx.Exec(ctx, "select pg_sleep(20)")
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("InTx = %v, want context.Canceled", err)
	}
	if n := keys(t, db); n != 0 {
		t.Errorf("%d rows stayed", n)
	}
}
