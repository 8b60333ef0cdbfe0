package api_test

import (
	"log/slog"
	"strings"
	"testing"

	"rootstream/api"
	"rootstream/backup"
	"rootstream/backup/repo"
	"rootstream/backup/schedule"
	"rootstream/secret"
	"rootstream/user"
)

// newBackups is an empty repository.
func newBackups(tb testing.TB) *backup.Manager {
	tb.Helper()
	m, err := backup.Open(tb.Context(), backup.Config{
		Repo: "file://" + tb.TempDir(), Create: true, Logger: slog.New(slog.DiscardHandler),
		Keys: []repo.Key{{Kind: repo.KeyFile, Secret: secret.FromBytes([]byte(strings.Repeat("k", 40)))}},
	})
	must(tb, err)
	return m
}

func TestOperatorsLetBackupsBeTaken(t *testing.T) {
	t.Parallel()
	m := newBackups(t)
	w := newWorld(t, patient, func(o *option) { o.deps = func(d *api.Deps) { d.Backups = m } })
	token := w.session(w.member(user.RoleOperator), 2, false).token
	if a := w.do("GET", "/v1/admin/backups", nil, as(token)); a.status != 200 || a.json()["items"] == nil {
		t.Errorf("list: %d %s", a.status, a.body)
	}
	if a := w.do("POST", "/v1/admin/backups", object{"type": "weekly"}, as(token)); a.status != 422 {
		t.Errorf("a type that does not exist: %d %s", a.status, a.body)
	}
	if a := w.do("POST", "/v1/admin/backups", object{"type": "incremental"}, as(token)); a.status != 202 {
		t.Errorf("create: %d %s", a.status, a.body)
	}
	l, _, err := schedule.Read(t.Context(), m.Book())
	if err != nil || len(l.Asked) != 1 || l.Asked[schedule.Incremental].By == "" {
		t.Errorf("asked: %+v, %v", l.Asked, err)
	}
}

func TestWithoutARepositoryTheRoutesOfBackupsSayso(t *testing.T) {
	t.Parallel()
	w := newWorld(t, patient, func(o *option) { o.deps = func(d *api.Deps) { d.Backups = nil } })
	token := w.session(w.member(user.RoleOperator), 2, false).token
	if a := w.do("GET", "/v1/admin/backups", nil, as(token)); a.status != 503 || a.json()["code"] != "backups_missing" {
		t.Errorf("%d %s", a.status, a.body)
	}
}
