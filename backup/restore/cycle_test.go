package restore_test

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rootstream/backup/repo"
	"rootstream/backup/restore/plan"
	"rootstream/backup/restore/proof"
	"rootstream/pgserver"
)

// snapshot is a backup and what the cluster was at its end: nobody wrote while it was taken.
type snapshot struct {
	id          string
	typ         repo.Type
	fingerprint string
	dump        string
}

func (w *world) snapshot(typ repo.Type) snapshot {
	w.t.Helper()
	m := w.backup(typ)
	if m.Type != typ {
		w.t.Fatalf("the backup is %s, not %s", m.Type, typ)
	}
	return snapshot{m.ID, typ, fingerprint(w.t, w.connect(w.server)), w.dump(w.server)}
}

func TestEveryBackupOfACycleIsTheClusterOfItsTime(t *testing.T) {
	t.Parallel()
	newWorld(t).cycle()
}

func TestEveryBackupOfACycleThatTheServerSentIsTheClusterOfItsTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.sends = true
	w.cycle()
}

func (w *world) cycle() {
	t := w.t
	t.Helper()
	w.openBank(w.server)
	outside := filepath.Join(w.home, "outside")
	must(t, w.owner.MkdirAll(outside))
	conn := w.connect(w.server)
	run(t, conn, "create tablespace outside location '"+outside+"'")
	run(t, conn, "create table far (id int primary key, v text) tablespace outside")
	run(t, conn, "insert into far select g, md5(g::text) from generate_series(1, 5000) g")
	w.work(w.server, 200)
	all := []snapshot{w.snapshot(repo.Full)}
	w.work(w.server, 200)
	all = append(all, w.snapshot(repo.Incremental))
	w.work(w.server, 200)
	run(t, conn, "update far set v = 'changed' where id % 100 = 0")
	all = append(all, w.snapshot(repo.Differential))
	run(t, conn, "drop table history, accounts, tellers, branches, far")
	w.archived(w.server)
	must(t, w.server.Stop(t.Context(), pgserver.Fast)) // everything that follows works without it

	for _, s := range all {
		t.Run(string(s.typ), func(t *testing.T) {
			t.Parallel()
			here := w.of(t)
			cfg := here.config(string(s.typ))
			cfg.Target = plan.Target{Kind: plan.Immediate, Backup: s.id}
			cfg.Tablespaces = map[string]string{outside: filepath.Join(w.home, "outside-"+string(s.typ))}
			_, server := here.restore(cfg)
			conn := here.connect(server)
			checkBank(t, conn)
			if diff := cmp.Diff(s.fingerprint, fingerprint(t, conn)); diff != "" {
				t.Errorf("(-at the backup +restored):\n%s", diff)
			}
			if diff := cmp.Diff(s.dump, here.dump(server)); diff != "" {
				t.Errorf("dumps (-at the backup +restored):\n%s", diff)
			}
			must(t, server.Stop(t.Context(), pgserver.Fast))
		})
		t.Run("proof of "+string(s.typ), func(t *testing.T) {
			t.Parallel()
			proof, err := proof.Run(t.Context(), proof.Config{
				Target: plan.Target{Kind: plan.Immediate, Backup: s.id}, Dir: w.home, RestoreCommand: w.fetchCommand(), Installation: w.in, Logger: quietly(),
			}, w.repo)
			if err != nil || !proof.OK || proof.Facts["pages"] == "0" || proof.Facts["amcheck"] != "every table and B-tree index" {
				t.Errorf("%+v, %v", proof, err)
			}
		})
	}
	if _, err := pgserver.ReadStatus(w.data); err == nil {
		t.Error("the living server was to be stopped")
	}
}
