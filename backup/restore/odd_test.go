package restore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rootstream/backup/base"
	"rootstream/backup/repo"
	"rootstream/backup/restore"
	"rootstream/backup/restore/plan"
	"rootstream/backup/restore/proof"
	"rootstream/backup/restore/recovery"
	"rootstream/pgserver"
)

// while takes a full backup of the living cluster and does something once the server knows of the backup, before any file is copied.
func (w *world) while(do func()) repo.Manifest {
	w.t.Helper()
	var once sync.Once
	m, err := base.Take(w.t.Context(), base.Config{
		DSN: w.server.DSN("postgres"), PGData: w.server.DataDir(), Logger: quietly(),
		Progress: func(p base.Progress) {
			if p.Phase == base.Copying {
				once.Do(do)
			}
		},
	}, w.repo, w.arrived)
	must(w.t, err)
	w.share()
	return m
}

// Nobody told the backup of such a tablespace: it is not in its tablespace_map. The log has all of it.
func TestATablespaceMadeWhileTheBackupWasTakenComesFromTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	place := filepath.Join(w.home, "late")
	must(t, w.owner.MkdirAll(place))
	conn := w.connect(w.server)
	w.while(func() {
		run(t, conn, "create tablespace late location '"+place+"'")
		run(t, conn, "create table far tablespace late as select g from generate_series(1, 1000) g")
		run(t, conn, "checkpoint")
	})
	w.archived(w.server)
	must(t, w.server.Stop(context.WithoutCancel(t.Context()), pgserver.Immediate))
	must(t, os.RemoveAll(place)) // the machine is lost, and its disks
	must(t, w.owner.MkdirAll(place))
	cfg := w.config("new")
	_, server := w.restore(cfg)
	if n := ask(t, w.connect(server), "select count(*)::text from far"); n != "1000" {
		t.Errorf("%s rows in the tablespace", n)
	}
}

// Replaying leads the link of such a tablespace back to where it was made, wherever it was restored to.
func TestATablespaceMadeWhileTheBackupBeganIsNotReplayedOntoTheLivingOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	place := filepath.Join(w.home, "early")
	must(t, w.owner.MkdirAll(place))
	conn := w.connect(w.server)
	w.alter(conn, "checkpoint_timeout", "30s")
	w.alter(conn, "checkpoint_completion_target", "0.1") // the first checkpoint takes 3 s
	run(t, conn, "create table dirty as select g from generate_series(1, 50000) g")
	taken := make(chan error, 1)
	go func() {
		_, err := base.Take(t.Context(), base.Config{DSN: w.server.DSN("postgres"), PGData: w.data, Spread: true, Logger: quietly()}, w.repo, w.arrived)
		taken <- err
	}()
	w.eventually(func() bool {
		return ask(t, conn, "select count(*)::text from pg_stat_activity where wait_event = 'CheckpointDone'") == "1"
	})
	run(t, conn, "create tablespace early location '"+place+"'")
	run(t, conn, "create table precious tablespace early as select g from generate_series(1, 1000) g")
	must(t, <-taken)
	w.share()
	w.archived(w.server)
	entries, err := w.repo.Catalog(t.Context())
	must(t, err)
	if len(entries) != 1 || len(entries[0].Tablespaces) != 1 {
		t.Fatalf("%d backups; the tablespace has to be in the map", len(entries))
	}
	run(t, conn, "checkpoint")
	before := tree(t, place)
	cfg := w.proofConfig()
	cfg.DSN = ""
	if proof, err := proof.Run(t.Context(), cfg, w.repo); !errors.Is(err, restore.ErrTarget) {
		t.Errorf("%+v, %v", proof, err)
	}
	if _, err := restore.Run(t.Context(), w.mapped("moved", place), w.repo); !errors.Is(err, restore.ErrNotEmpty) {
		t.Errorf("%v: recovery would write over %s", err, place)
	}
	if diff := cmp.Diff(before, tree(t, place)); diff != "" {
		t.Errorf("the living tablespace (-before +after):\n%s", diff)
	}
}

// A key that only the machine may read is a link to a file of another user, in many clusters.
func TestALinkToAFileOfTheMachineIsALinkAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const target = "/etc/hostname"
	must(t, os.Symlink(target, filepath.Join(w.data, "server.key")))
	w.backup(repo.Full)
	w.archived(w.server)
	cfg := w.config("linked")
	w.restore(cfg)
	if to, err := os.Readlink(filepath.Join(cfg.Dir, "server.key")); err != nil || to != target {
		t.Errorf("%q, %v", to, err)
	}
}

// A restore that was killed after its last step but one leaves its note to the server that runs then.
func TestTheNoteOfARestoreIsNotPartOfABackup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	must(t, os.WriteFile(filepath.Join(w.data, "rootstream.restore"), []byte("{}"), 0o644))
	w.backup(repo.Full)
	w.archived(w.server)
	w.restore(w.config("again"))
}

// Whoever only takes backups now and then has log around each, and holes between. PostgreSQL reads ahead of what it
// replays, over the end of what is needed.
func TestWhatLiesBeforeAHoleInTheLogIsRestored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conn := w.connect(w.server)
	run(t, conn, "create table kept (what text)")
	first := w.backup(repo.Full)
	run(t, conn, "insert into kept values ('before')")
	target := position(t, conn)
	run(t, conn, "insert into kept values ('behind')")
	w.archived(w.server)
	command := ask(t, conn, "show archive_command")
	w.alter(conn, "archive_command", "/bin/true")
	for range 2 {
		run(t, conn, "insert into kept values ('lost')")
		name := ask(t, conn, "select pg_walfile_name(pg_switch_wal())")
		w.eventually(func() bool {
			return ask(t, conn, "select (last_archived_wal >= $1)::text from pg_stat_archiver", name) == "true"
		})
	}
	w.alter(conn, "archive_command", command)
	w.backup(repo.Full)
	for name, restored := range map[string]struct {
		target plan.Target
		rows   string
	}{
		"the backup":         {plan.Target{Kind: plan.Immediate, Backup: first.ID}, ""},
		"a moment behind it": {plan.Target{Kind: plan.AtLSN, Backup: first.ID, LSN: target}, "before"},
		"just before that":   {plan.Target{Kind: plan.AtLSN, Backup: first.ID, LSN: target, Exclusive: true}, "before"},
	} {
		cfg := w.config(strings.ReplaceAll(name, " ", "-"))
		cfg.Target = restored.target
		_, server := w.restore(cfg)
		conn := w.connect(server)
		if got := ask(t, conn, "select coalesce(string_agg(what, ' '), '') from kept"); got != restored.rows {
			t.Errorf("%s: %q", name, got)
		}
		if conf, err := os.ReadFile(filepath.Join(cfg.Dir, recovery.AutoConf)); err != nil || strings.Contains(string(conf), "recovery_prefetch") {
			t.Errorf("%s: %v, and this is left:\n%s", name, err, conf)
		}
	}
	proof, err := proof.Run(t.Context(), proof.Config{
		Target: plan.Target{Kind: plan.Immediate, Backup: first.ID}, Dir: w.home, RestoreCommand: w.fetchCommand(), Installation: w.in, Logger: quietly(),
	}, w.repo)
	if err != nil || !proof.OK {
		t.Errorf("%+v, %v", proof, err)
	}
}
