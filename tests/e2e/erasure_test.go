package e2e_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"rootstream/cache/cachetest"
	"rootstream/event/codec"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/tests/harness"
)

// TestADeletedAccountLeavesNoValueBehind puts words wherever an account may put them, and looks for them everywhere
// once it is deleted: in a dump of the database, in what snapshots hold, and in Redis.
func TestADeletedAccountLeavesNoValueBehind(t *testing.T) {
	t.Parallel()
	pg, redis := postgrestest.Server(t), cachetest.Server(t)
	s := stack{dsn: pg.DSN(), redis: redis.URL(), key: masterKey(t), more: generous()}
	serve := s.serve(t, "serve")
	c := newCaller(serve.url)
	word := "personal" + rand.Text()
	c.must(t, 201, "POST", "/v1/users", object{"username": "ada", "email": word + "@example.org", "password": password})
	c.must(t, 201, "POST", "/v1/users", object{"username": "bob", "email": "bob@example.org", "password": password})
	token, _ := c.signIn(t, "ada")
	ada := c.as(token)
	me := ada.must(t, 200, "GET", "/v1/users/me", nil).body.str("id")
	made := ada.must(t, 201, "POST", "/v1/streams", object{"name": word + " streams"}).body.str("id")
	patch := func(entity string, n int) {
		t.Helper()
		if a := ada.do(t.Context(), "PATCH", "/v1/state/"+entity, object{"about": fmt.Sprint(word, n)}, "If-Match", "*"); !a.ok() {
			t.Fatal(a)
		}
	}
	for n := range 110 { // enough for the log to take snapshots of both
		patch("user/"+me, n)
		patch("stream/"+made, n)
	}
	db := postgrestest.Open(t, postgres.Config{DSN: pg.DSN()})
	execute := func(sql string, args ...any) {
		t.Helper()
		if _, err := db.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	for _, entity := range []string{"user", "stream"} {
		execute(`insert into sync_conflicts (id, aggregate_type, aggregate_id, rule, winner, loser, token)
			values (gen_random_uuid(), $1, $2, 'rebase:retry', $3, '{}', $1)`, entity, map[string]string{"user": me, "stream": made}[entity], object{"about": word})
	}
	execute(`insert into event_log (aggregate_type, aggregate_id, event_type, event_data, version, user_id)
		select 'User', id, 'Old', $2, 1000, id from users where public_id = $1`, me, object{"about": word})
	execute(`insert into snapshots (aggregate_type, aggregate_id, version, state)
		select 'User', id, 1, $2 from users where public_id = $1`, me, object{"about": word})
	for _, args := range [][]string{{"sync", "snapshot"}} {
		if r := run(t, "", s.env(), args...); r.code != 0 {
			t.Fatal(r)
		}
	}
	places := func() map[string]int {
		return map[string]int{
			"the dump": bytes.Count(dumped(t, pg), []byte(word)), "snapshots": bytes.Count(unpacked(t, db), []byte(word)),
			"Redis": bytes.Count(everything(redis), []byte(word)),
		}
	}
	harness.Eventually(t, patience, "the words are everywhere", func() error {
		for place, n := range places() {
			if n == 0 {
				return fmt.Errorf("there are none in %s", place)
			}
		}
		return nil
	})
	ada.must(t, 204, "DELETE", "/v1/users/me", nil)
	// The mail that says so is the only thing that still knows the address, until it is sent.
	serve.Terminate()
	serve = s.serve(t, "serve once more") // snapshots are looked through when it starts, and every minute
	harness.Eventually(t, patience, "the words are nowhere", func() error {
		execute("delete from outbox")
		for place, n := range places() {
			if n > 0 {
				return fmt.Errorf("there are %d in %s", n, place)
			}
		}
		return nil
	})
	if r := run(t, "", s.env(), "event", "verify"); r.code != 0 {
		t.Errorf("the log: %v", r)
	}
	token, _ = newCaller(serve.url).signIn(t, "bob")
	newCaller(serve.url).as(token).must(t, 404, "GET", "/v1/state/stream/"+made, nil)
}

func dumped(t *testing.T, pg *postgrestest.Instance) []byte {
	t.Helper()
	bin, err := postgrestest.Binaries()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "pg_dump"), "--dbname="+pg.DSN()).Output()
	if err != nil {
		t.Fatalf("pg_dump: %v", err)
	}
	return out
}

// unpacked is what all snapshots of the database hold.
func unpacked(t *testing.T, db *postgres.DB) (all []byte) {
	t.Helper()
	c, err := codec.New(64 << 20)
	if err != nil {
		t.Fatal(err)
	}
	rows, _ := db.Query(t.Context(), "select content from sync_snapshots union all select state from event_snapshots")
	packed, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range packed {
		for _, kind := range []byte{codec.Full, codec.Delta, codec.Aggregate} {
			if content, err := c.Decode(kind, b); err == nil {
				all = append(all, content...)
			}
		}
	}
	return all
}
