package app_test

import (
	"io"
	"testing"

	"github.com/google/uuid"

	"rootstream/app"
	"rootstream/app/apptest"
	"rootstream/app/backups"
	"rootstream/app/config"
)

func TestWhoAsksForABackupIsOnRecord(t *testing.T) {
	t.Parallel()
	flags := apptest.With(apptest.System(t), apptest.Settings{
		"backup.repo": "file://" + t.TempDir(), "backup.key_file": apptest.File(t, "backup.key", "a key for tests, of which nobody needs to be afraid"),
	})
	cfg, err := config.Load(config.Source{Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	made, err := backups.Open(t.Context(), cfg, backups.Options{Create: true, Stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	p, err := app.Open(t.Context(), cfg, app.Options{Stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	operator := uuid.New()
	if err = p.AskForBackup(t.Context(), "full", operator.String()); err != nil {
		t.Fatal(err)
	}
	var name, kind string
	var by uuid.UUID
	err = p.DB.QueryRow(t.Context(), "select name, data ->> 'kind', user_id from events where aggregate_id = $1", made.Repo().ID()).Scan(&name, &kind, &by)
	if err != nil || name != "repository.run_requested" || kind != "full" || by != operator {
		t.Errorf("%s of %s by %s, %v", name, kind, by, err)
	}
	if err = p.AskForBackup(t.Context(), "weekly", operator.String()); err == nil {
		t.Error("what does not exist was asked for")
	}
	var n int
	if err = p.DB.QueryRow(t.Context(), "select count(*) from events where aggregate_id = $1", made.Repo().ID()).Scan(&n); err != nil || n != 1 {
		t.Errorf("%d on record, %v: what was refused was not asked for", n, err)
	}
}
