package config_test

import (
	"os"
	"path/filepath"
	"testing"

	"rootstream/app/apptest"
	"rootstream/app/config"
	"rootstream/errs"
)

// dataFolder is a folder as rootstream up leaves it.
func dataFolder(t *testing.T, dsn string) string {
	t.Helper()
	dir := t.TempDir()
	text := "http:\n  public_url: 'http://127.0.0.1:1'\npostgres:\n  dsn: '" + dsn + "'\nredis:\n  url: 'redis://:x@127.0.0.1:1/0'\n"
	if err := os.WriteFile(filepath.Join(dir, "client.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestADataFolderSaysWhereTheServersAre(t *testing.T) {
	t.Parallel()
	dir := dataFolder(t, "postgres://folder/rs")
	found, err := config.Find(config.Source{}, dir)
	if err != nil || found.DataDir != dir || found.Config.Postgres.DSN.Reveal() != "postgres://folder/rs" {
		t.Errorf("%+v, %v", found, err)
	}
	found, err = config.Find(config.Source{Flags: map[string]string{"postgres.dsn": "postgres://flag/rs"}}, dir)
	if err != nil || found.Config.Postgres.DSN.Reveal() != "postgres://flag/rs" || found.Config.Redis.URL.IsZero() {
		t.Errorf("a flag over the folder: %+v, %v", found, err)
	}
	_, err = config.Resolve(config.Source{}, t.TempDir())
	if errs.CodeOf(err) != "no_stack" || errs.Of(err).Hint == "" {
		t.Errorf("a folder without a stack: %v", err)
	}
}

func TestTheDefaultFolderIsWhereNobodyElseMayMakeOne(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{
		"/var/lib/rootstream":               config.DataDirOf(0, "/state", "/root"),
		"/state/rootstream":                 config.DataDirOf(7, "/state", "/home/ada"),
		"/home/ada/.local/state/rootstream": config.DataDirOf(7, "state", "/home/ada"),
		"":                                  config.DataDirOf(7, "", ""),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestTheDefaultFolderIsAskedOnlyWhenNoDatabaseIsNamed(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Log("the default folder of root is a fixed one: only what names a database is tried")
	} else {
		state := t.TempDir()
		t.Setenv("XDG_STATE_HOME", state)
		if got := config.DefaultDataDir(); got != filepath.Join(state, "rootstream") {
			t.Errorf("the default folder is %s", got)
		}
		if err := os.Symlink(dataFolder(t, "postgres://folder/rs"), filepath.Join(state, "rootstream")); err != nil {
			t.Fatal(err)
		}
		file := apptest.File(t, "c.yaml", "log: {level: debug}\n")
		found, err := config.Find(config.Source{File: file}, "")
		if err != nil || found.Config.Postgres.DSN.Reveal() != "postgres://folder/rs" || found.Config.Log.Level != "debug" {
			t.Errorf("a file that names no database: %+v, %v", found, err)
		}
	}
	found, err := config.Find(config.Source{Env: []string{"ROOTSTREAM_POSTGRES_DSN=postgres://env/rs"}}, "")
	if err != nil || found.DataDir != "" || !found.Config.Redis.URL.IsZero() || found.Config.Postgres.DSN.Reveal() != "postgres://env/rs" {
		t.Errorf("a variable that names the database: %+v, %v", found, err)
	}
}
