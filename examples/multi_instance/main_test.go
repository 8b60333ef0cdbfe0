package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rootstream/cache/cachetest"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

func TestAClientMissesNothingBetweenInstances(t *testing.T) {
	t.Parallel()
	dsn, redis, data := postgrestest.DSN(t), cachetest.Server(t).URL(), t.TempDir()
	key := filepath.Join(data, "master.key")
	client := "keys: {master_key_file: " + key + "}\npostgres: {dsn: '" + dsn + "'}\nredis: {url: '" + redis + "'}\n" +
		"http: {timeout: 100s}\nauth: {hash_queue: 60s}\n"
	for file, text := range map[string]string{key: strings.Repeat("k", 40), filepath.Join(data, "client.yaml"): client} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--data", data}, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	const want = `b tells: stream.changed lobby
b has ended; two changes were made meanwhile
a tells: stream.changed stage
a tells: stream.changed credits
`
	if out.String() != want {
		t.Errorf("it tells another story:\n%s", out.String())
	}
	var users int
	if err := postgrestest.Open(t, postgres.Config{DSN: dsn}).QueryRow(t.Context(), "select count(*) from users").Scan(&users); err != nil || users != 0 {
		t.Errorf("%d accounts are left, %v", users, err)
	}
}

func TestTheExampleSaysWhatItNeeds(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"--data", t.TempDir()}} {
		if err := run(t.Context(), args, &bytes.Buffer{}); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
