package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rootstream/cache/cachetest"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// story is what a run tells, names left out.
func story(out string) []string {
	var lines []string
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if i := strings.Index(line, "example-"); i > 0 {
			line = line[:i] + "NAME"
		}
		lines = append(lines, line)
	}
	return lines
}

func TestTheExampleRunsAndLeavesNothing(t *testing.T) {
	t.Parallel()
	dsn, redis := postgrestest.DSN(t), cachetest.Server(t).URL()
	data := t.TempDir()
	key := filepath.Join(data, "master.key")
	client := "keys: {master_key_file: " + key + "}\npostgres: {dsn: '" + dsn + "'}\nredis: {url: '" + redis + "'}\n"
	for file, text := range map[string]string{key: strings.Repeat("k", 40), filepath.Join(data, "client.yaml"): client} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"registered NAME", "signed in on the laptop, assurance level 1", "authenticator confirmed, 10 backup codes",
		"the password is not enough now: [totp backup_code]", "signed in on the phone, assurance level 2",
		"stepped up with a backup code; the old token is refused", "ended 1 other session; its token is refused", "deleted NAME",
	}
	for _, args := range [][]string{{"--postgres", dsn, "--redis", redis}, {"--postgres", dsn}, {"--data", data}} {
		var out bytes.Buffer
		if err := run(t.Context(), args, &out); err != nil {
			t.Fatalf("%s: %v\n%s", args[0], err, out.String())
		}
		if diff := cmp.Diff(want, story(out.String())); diff != "" {
			t.Errorf("%v tells another story: %s", args[0], diff)
		}
	}
	db := postgrestest.Open(t, postgres.Config{DSN: dsn})
	var users, keysets int
	if err := db.QueryRow(t.Context(), "select (select count(*) from users), (select count(*) from keysets)").Scan(&users, &keysets); err != nil {
		t.Fatal(err)
	}
	if users != 0 || keysets != 1 { // the system's own keyset, made by the run with --data
		t.Errorf("%d accounts and %d keysets are left", users, keysets)
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
