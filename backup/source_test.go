package backup_test

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"rootstream/backup"
	"rootstream/backup/archive/receive"
	"rootstream/backup/repo"
)

func TestABackupBringsItsOwnLogWhereAReceiverBringsItElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := must[*receive.Receiver](t)(receive.New(receive.Config{
		DSN: w.cfg.DSN.Reveal(), Slot: "rootstream_wal", Spool: filepath.Join(w.home, "spool"),
		Open:   func(context.Context) (*repo.Repo, error) { return w.Repo(), nil },
		Logger: slog.New(slog.DiscardHandler),
	}))
	running, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(running) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	for active := false; !active; {
		if err := w.db.QueryRow(t.Context(), "select exists (select 1 from pg_replication_slots where active)").Scan(&active); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		repository string
		alone      bool
	}{
		"here":      {w.cfg.Repo, false},
		"elsewhere": {"file://" + filepath.Join(w.home, "another"), true},
	} {
		var log bytes.Buffer
		cfg := w.cfg
		cfg.Repo, cfg.Registerer, cfg.History, cfg.Logger = c.repository, nil, nil, slog.New(slog.NewTextHandler(&log, nil))
		m := must[*backup.Manager](t)(backup.Open(t.Context(), cfg))
		for range 2 { // where a backup was taken before, there is log
			log.Reset()
			must[backup.Backup](t)(m.Create(t.Context(), backup.CreateOptions{}))
			if c.alone && !strings.Contains(log.String(), "brings its own") {
				t.Errorf("%s: it says %s", name, log.String())
			}
		}
	}
}

func TestAnArchiveCommandForAnotherRepositoryBringsNothingHere(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]bool{
		"":                         false,
		"cp %p /srv/archive/%f":    false,
		`rootstream wal push "%p"`: true,
		`rootstream wal push "%p" --repo file:///srv/one --key-file k`: true,
		`rootstream wal push "%p" --repo=file:///srv/one/`:             true,
		`rootstream wal push "%p" --repo 'file:///srv/one'`:            true,
		`rootstream wal push "%p" --repo file:///srv/two`:              false,
		`rootstream --repo s3://srv/one wal push "%p"`:                 false,
	} {
		if got := backup.Pushes(command, "file:///srv/one"); got != want {
			t.Errorf("%s: %v", command, got)
		}
	}
}
