package restore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rootstream/backup/repo"
	"rootstream/backup/restore"
	"rootstream/backup/restore/plan"
	"rootstream/backup/restore/proof"
	"rootstream/backup/restore/recovery"
	"rootstream/pgserver"
)

func (w *world) proofConfig() proof.Config {
	return proof.Config{
		DSN: w.server.DSN("postgres"), Dir: w.home, RestoreCommand: w.fetchCommand(), Installation: w.in, Logger: quietly(), Arrival: 30 * time.Second,
	}
}

func TestAProofFindsWhatWasPlantedAndLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.openBank(w.server)
	conn := w.connect(w.server)
	run(t, conn, "create table backup_canary (id uuid primary key, planted_at timestamptz not null default now())")
	run(t, conn, "insert into backup_canary values (gen_random_uuid(), now() - interval '2 days')")
	run(t, conn, "create database second")
	run(t, conn, "alter database second set session_preload_libraries = 'what_acts_by_itself'") // nothing like it does in the test
	m := w.backup(repo.Full)
	w.work(w.server, 50)
	before, err := os.ReadDir(w.home)
	must(t, err)
	proof, err := proof.Run(t.Context(), w.proofConfig(), w.repo)
	if err != nil || !proof.OK || proof.Kind != "test-restore" {
		t.Fatalf("%+v, %v", proof, err)
	}
	for _, fact := range []string{"canary", "restore_point", "rto_seconds", "tables", "indexes", "pages", "timeline"} {
		if proof.Facts[fact] == "" {
			t.Errorf("it does not say %s: %v", fact, proof.Facts)
		}
	}
	if proof.Facts["backup"] != m.ID || proof.Facts["databases"] != "3" {
		t.Errorf("%v", proof.Facts)
	}
	catalog, err := w.repo.Catalog(t.Context())
	must(t, err)
	if len(catalog) != 1 || len(catalog[0].Proofs) != 1 || !catalog[0].Proofs[0].OK {
		t.Errorf("it is not on record: %+v", catalog)
	}
	after, err := os.ReadDir(w.home)
	must(t, err)
	if len(after) != len(before) {
		t.Errorf("%v was left, there was %v", after, before)
	}
	if n := ask(t, conn, "select count(*)::text from backup_canary"); n != "1" {
		t.Errorf("%s canaries are kept", n)
	}
	timelines, err := w.repo.Timelines(t.Context(), w.system)
	must(t, err)
	if len(timelines) != 1 {
		t.Errorf("the test archived: timelines %v", timelines)
	}
}

func TestAProofRunsNothingThatUsersOfTheDatabaseWrote(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conn := w.connect(w.server)
	run(t, conn, "create role mallory")
	run(t, conn, "grant create on schema public to mallory") // as everybody may before PostgreSQL 15
	run(t, conn, "set role mallory")
	run(t, conn, "create table public.backup_canary (id uuid primary key, planted_at timestamptz not null default now())")
	run(t, conn, "create function public.rise() returns trigger language plpgsql as 'begin alter role mallory superuser; return new; end'")
	run(t, conn, "create trigger rise before insert on public.backup_canary for each row execute function public.rise()")
	run(t, conn, "reset role")
	acted := filepath.Join(w.home, "acted")
	run(t, conn, "create function act() returns event_trigger language plpgsql as $$ begin execute 'copy (select 1) to ''"+acted+"'''; end $$")
	run(t, conn, "create event trigger act on ddl_command_start execute function act()")
	run(t, conn, "alter event trigger act enable always")
	w.backup(repo.Full)
	proof, err := proof.Run(t.Context(), w.proofConfig(), w.repo)
	if err != nil || !proof.OK || proof.Facts["restore_point"] == "" || proof.Facts["canary"] != "" {
		t.Errorf("%+v, %v", proof, err)
	}
	if ask(t, conn, "select rolsuper::text from pg_roles where rolname = 'mallory'") != "false" {
		t.Error("a user's trigger ran with the rights of whoever plants canaries")
	}
	if _, err := os.Lstat(acted); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an event trigger acted in the test: %v", err)
	}
}

func TestAProofNamesWhatIsCorrupt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.openBank(w.server)
	conn := w.connect(w.server)
	run(t, conn, "checkpoint")
	path := filepath.Join(w.data, ask(t, conn, "select pg_relation_filepath('accounts_balance_idx')"))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte(strings.Repeat("rotten", 100)), 2*8192+4000)
	must(t, errors.Join(err, f.Close()))
	m := w.backup(repo.Full)
	if m.PageErrors == 0 {
		t.Error("the backup did not see it")
	}
	w.archived(w.server)
	cfg := w.proofConfig()
	cfg.DSN = ""
	proof, err := proof.Run(t.Context(), cfg, w.repo)
	if err != nil || proof.OK || !strings.Contains(proof.Detail, "accounts_balance_idx") {
		t.Errorf("%+v, %v: the index was to be named", proof, err)
	}
}

func TestAProofNeverTouchesTheTablespacesOfTheLivingCluster(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.openBank(w.server)
	m := w.backup(repo.Full)
	place := filepath.Join(w.home, "later")
	must(t, w.owner.MkdirAll(place))
	conn := w.connect(w.server)
	run(t, conn, "create tablespace later location '"+place+"'")
	run(t, conn, "create table precious tablespace later as select g from generate_series(1, 1000) g")
	run(t, conn, "checkpoint")
	w.archived(w.server)
	before := tree(t, place)
	cfg := w.proofConfig()
	cfg.DSN = ""
	proof, err := proof.Run(t.Context(), cfg, w.repo)
	if err != nil || !proof.OK || proof.Facts["backup"] != m.ID || !strings.Contains(proof.Facts["ended_before"], place) {
		t.Errorf("%+v, %v", proof, err)
	}
	if _, err := restore.Run(t.Context(), w.config("beside"), w.repo); !errors.Is(err, restore.ErrNotEmpty) {
		t.Errorf("%v: recovery would write over %s", err, place)
	}
	for name, what := range tree(t, place) {
		if before[name] != what {
			t.Errorf("%s was %q and is %q", name, before[name], what)
		}
	}
	if n := ask(t, conn, "select count(*)::text from precious"); n != "1000" {
		t.Errorf("%s rows", n)
	}
}

func TestALogThatDoesNotArriveFailsTheProof(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.openBank(w.server)
	m := w.backup(repo.Full)
	w.alter(w.connect(w.server), "archive_command", "/bin/false")
	cfg := w.proofConfig()
	cfg.Arrival = 2 * time.Second
	proof, err := proof.Run(t.Context(), cfg, w.repo)
	if err != nil || proof.OK || !strings.Contains(proof.Detail, "does not arrive") {
		t.Errorf("%+v, %v", proof, err)
	}
	catalog, err := w.repo.Catalog(t.Context())
	must(t, err)
	if len(catalog) != 1 || catalog[0].ID != m.ID || len(catalog[0].Proofs) != 1 || catalog[0].Proofs[0].OK {
		t.Errorf("it is not on record: %+v", catalog)
	}
}

func TestAServerIsStartedPausedShutDownOrNotAtAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.openBank(w.server)
	w.backup(repo.Full)
	conn := w.connect(w.server)
	run(t, conn, "create table marks as select 1 as n")
	at := position(t, conn)
	run(t, conn, "insert into marks values (2)")
	w.archived(w.server)

	paused := w.config("paused")
	paused.Target = plan.Target{Kind: plan.AtLSN, LSN: at, Action: plan.Pause}
	_, s := w.restore(paused)
	pc := w.connect(s)
	if v := ask(t, pc, "select pg_is_in_recovery()::text"); v != "true" {
		t.Errorf("recovery: %s", v)
	}
	w.eventually(func() bool { return ask(t, pc, "select pg_get_wal_replay_pause_state()") == "paused" })
	if n := ask(t, pc, "select count(*)::text from marks"); n != "1" {
		t.Errorf("%s marks at the target", n)
	}

	down := w.config("down")
	down.Target, down.Start = plan.Target{Kind: plan.AtLSN, LSN: at, Action: plan.Shutdown}, true
	res, err := restore.Run(t.Context(), down, w.repo)
	if err != nil || res.Started {
		t.Errorf("%+v, %v", res, err)
	}

	never := w.config("never")
	never.Target, never.Start = plan.Target{Kind: plan.AtTime, Time: time.Now().Add(20 * time.Second)}, true
	if _, err = restore.Run(t.Context(), never, w.repo); !errors.Is(err, recovery.ErrReach) && !errors.Is(err, plan.ErrOutside) {
		t.Errorf("%v: a time that has not come was restored", err)
	}

	promoted := w.config("promoted")
	w.restore(promoted)
	if auto := w.auto(promoted); strings.Contains(auto, "recovery_target") {
		t.Errorf("a target is left in:\n%s", auto)
	}
}

// Whoever starts the server, and whenever it is promoted: a standby made of the folder must not obey the old target.
func TestATargetIsForgottenOnceRecoveryHasEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conn := w.connect(w.server)
	run(t, conn, "create table marks as select 1 as n")
	w.backup(repo.Full)
	at := position(t, conn)
	run(t, conn, "insert into marks values (2)")
	w.archived(w.server)
	for name, action := range map[string]plan.Action{"promoted": plan.Promote, "paused": plan.Pause} {
		cfg := w.config(name)
		cfg.Target = plan.Target{Kind: plan.AtLSN, LSN: at, Action: action}
		_, err := restore.Run(t.Context(), cfg, w.repo)
		must(t, err)
		s, err := pgserver.New(pgserver.Config{Installation: w.in, DataDir: cfg.Dir, Foreign: true, RunAs: w.owner.Name, Logger: quietly()})
		must(t, err)
		t.Cleanup(func() { w.stop(s) })
		must(t, s.Start(t.Context())) // by hand, later
		c := w.connect(s)
		if action == plan.Pause {
			w.eventually(func() bool { return ask(t, c, "select pg_get_wal_replay_pause_state()") == "paused" })
			if auto := w.auto(cfg); !strings.Contains(auto, "recovery_target_lsn = '"+at.String()+"'") {
				t.Errorf("%s: recovery has not ended, and its target is forgotten:\n%s", name, auto)
			}
			run(t, c, "alter system set work_mem = '7MB'") // it writes the file anew
			run(t, c, "select pg_promote()")
		}
		w.eventually(func() bool { return ask(t, c, "select pg_is_in_recovery()::text") == "false" })
		if n := ask(t, c, "select count(*)::text from marks"); n != "1" {
			t.Errorf("%s: %s marks at the target", name, n)
		}
		auto := w.auto(cfg)
		if strings.Contains(auto, "recovery") || strings.Contains(auto, "restore_command") {
			t.Errorf("%s: a target is left in:\n%s", name, auto)
		}
		if !strings.Contains(auto, "archive_mode") || action == plan.Pause && !strings.Contains(auto, "work_mem = '7MB'") {
			t.Errorf("%s: settings are gone:\n%s", name, auto)
		}
	}
}

func (w *world) auto(cfg restore.Config) string {
	w.t.Helper()
	raw, err := os.ReadFile(filepath.Join(cfg.Dir, "postgresql.auto.conf"))
	must(w.t, err)
	return string(raw)
}

func (w *world) eventually(is func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	for !is() {
		select {
		case <-ctx.Done():
			w.t.Fatal("it did not become so")
		case <-time.After(20 * time.Millisecond):
		}
	}
}
