package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"rootstream/cache/cachetest"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/tests/harness"
)

// TestAMergedChangeHasItsEntryWhenServeIsKilled kills an instance, and what PostgreSQL does for it, while it notes what
// it decided: either the change and the entry are there afterwards, or neither is.
func TestAMergedChangeHasItsEntryWhenServeIsKilled(t *testing.T) {
	t.Parallel()
	pg := postgrestest.Server(t)
	db := postgrestest.Open(t, postgres.Config{DSN: pg.DSN()})
	config := filepath.Join(t.TempDir(), "rootstream.yaml")
	if err := os.WriteFile(config, []byte("sync:\n  types:\n    - {name: board, merge: per_field, write: user}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := stack{dsn: pg.DSN(), redis: cachetest.Server(t).URL(), key: masterKey(t), more: generous()}
	start := func() (*harness.Program, caller) {
		p := harness.Start(t, "serve", []string{"serve", "--listen", "127.0.0.1:0", "--config", config}, s.env())
		return p, newCaller(p.Ready())
	}
	serve, c := start()
	c.must(t, 201, "POST", "/v1/users", object{"username": "ada", "email": "ada@example.org", "password": password})
	token, _ := c.signIn(t, "ada")
	id := uuid.NewString()
	path := "/v1/state/board/" + id
	for i, field := range []string{"a", "b"} {
		if a := c.as(token).do(t.Context(), "PATCH", path, object{field: 1}, "If-Match", fmt.Sprintf(`"%d"`, i)); !a.ok() {
			t.Fatal(a)
		}
	}
	late := func(c caller) answer {
		return c.as(token).do(context.Background(), "PATCH", path, object{"c": 1}, "If-Match", `"1"`, "Idempotency-Key", "late")
	}
	there := func() (versions, entries int) {
		err := db.QueryRow(t.Context(), `select (select max(version) from events where aggregate_id = $1),
			(select count(*) from sync_conflicts where aggregate_id = $1)`, id).Scan(&versions, &entries)
		if err != nil {
			t.Fatal(err)
		}
		return versions, entries
	}

	answered := make(chan answer, 1)
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		if _, err := tx.Exec(t.Context(), "lock table sync_conflicts in share row exclusive mode"); err != nil {
			return err
		}
		go func() { answered <- late(c) }()
		harness.Eventually(t, patience, "serve notes its decision", func() error {
			var n int
			err := db.QueryRow(t.Context(), "select count(*) from pg_locks where relation = 'sync_conflicts'::regclass and not granted").Scan(&n)
			return errors.Join(err, want("waiting", n, 1))
		})
		serve.Kill()
		_, err := db.Exec(t.Context(), "select pg_terminate_backend(pid) from pg_locks where relation = 'sync_conflicts'::regclass and not granted")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if a := <-answered; a.err == nil {
		t.Errorf("a killed instance answers: %v", a)
	}
	if versions, entries := there(); versions-2 != entries {
		t.Errorf("version %d is there with %d entries in the conflict log", versions, entries)
	}

	_, c = start()
	for range 2 {
		if a := late(c); !a.ok() || a.version() != 3 {
			t.Errorf("the change sent again: %v", a)
		}
	}
	if versions, entries := there(); versions != 3 || entries != 1 {
		t.Errorf("version %d with %d entries in the conflict log, want 3 with 1", versions, entries)
	}
}
