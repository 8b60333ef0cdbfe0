package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rootstream/cache/cachetest"
	"rootstream/postgres/postgrestest"
)

func TestTheExampleSharesState(t *testing.T) {
	t.Parallel()
	dsn, redis, data := postgrestest.DSN(t), cachetest.Server(t).URL(), t.TempDir()
	key := filepath.Join(data, "master.key")
	client := "keys: {master_key_file: " + key + "}\npostgres: {dsn: '" + dsn + "'}\nredis: {url: '" + redis + "'}\n"
	for file, text := range map[string]string{key: strings.Repeat("k", 40), filepath.Join(data, "client.yaml"): client} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for viewers, args := range map[string][]string{"30": {"--data", data}, "10": {"--postgres", dsn}} {
		want := []string{
			`a wrote version 1: {"round":1,"scene":"lobby"}`, "b was told: example.changed, version 1",
			`b reads it, no older than what a wrote: {"round":1,"scene":"lobby"}`,
			`a and b both counted to 50 at once: {"n":100}`, "b is told that what it knew is old",
			"viewers, as a knows them: " + viewers, "",
		}
		var out bytes.Buffer
		if err := run(t.Context(), args, &out); err != nil {
			t.Fatalf("%s: %v\n%s", args[0], err, out.String())
		}
		if diff := cmp.Diff(want, strings.Split(out.String(), "\n")); diff != "" {
			t.Errorf("%v tells another story: %s", args[0], diff)
		}
	}
}

func TestTheExampleSaysWhatItNeeds(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := run(t.Context(), nil, &out); err == nil || !strings.Contains(err.Error(), "--postgres DSN") {
		t.Errorf("without servers: %v", err)
	}
	if err := run(t.Context(), []string{"--postgres", "postgres://ada@127.0.0.1:1/rs"}, &out); err == nil {
		t.Error("with a server that is not there: no error")
	}
}
