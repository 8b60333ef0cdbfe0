package restore_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"rootstream/backup/repo"
	"rootstream/backup/restore"
)

// unlessRoot says who runs the tests where that is not root, whom alone they concern.
func unlessRoot(t *testing.T) bool {
	t.Helper()
	t.Logf("as user %d", os.Geteuid())
	return os.Geteuid() != 0
}

// belongings are who owns a path, and what may be done there.
func belongings(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "nothing"
	}
	must(t, err)
	st, _ := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%v %d:%d", info.Mode(), st.Uid, st.Gid)
}

func TestRootGivesAwayNoFolderThatABackupOrALinkNames(t *testing.T) {
	t.Parallel()
	if unlessRoot(t) {
		return
	}
	w, outside := banked(t)
	machine := filepath.Join(w.home, "machine") // root's
	must(t, os.Mkdir(machine, 0o755))
	planted := filepath.Join(w.data, "pg_tblspc", "99999") // as whoever has the user or a superuser of the database can
	must(t, os.Symlink(machine, planted))
	must(t, w.owner.Own(planted))
	w.backup(repo.Full)
	w.archived(w.server)

	cfg := w.mapped("planted", outside)
	before := belongings(t, machine)
	if _, err := restore.Run(t.Context(), cfg, w.repo); !errors.Is(err, restore.ErrTarget) || belongings(t, machine) != before {
		t.Errorf("a tablespace in root's folder: %v; it was %s and is %s", err, before, belongings(t, machine))
	}
	must(t, os.Remove(machine))
	if _, err := restore.Run(t.Context(), cfg, w.repo); !errors.Is(err, restore.ErrTarget) || belongings(t, machine) != "nothing" {
		t.Errorf("a tablespace where nothing is: %v; now there is %s", err, belongings(t, machine))
	}
	cfg.Tablespaces[machine] = machine // whoever restores says that it is all right
	_, err := restore.Run(t.Context(), cfg, w.repo)
	must(t, err)

	must(t, os.RemoveAll(machine))
	must(t, os.Mkdir(machine, 0o755))
	linked := w.mapped("linked", outside)
	linked.Tablespaces[machine] = filepath.Join(w.home, "linked-machine")
	must(t, os.Symlink(machine, linked.Dir))
	must(t, w.owner.Own(linked.Dir))
	if _, err := restore.Run(t.Context(), linked, w.repo); !errors.Is(err, restore.ErrTarget) || belongings(t, machine) != before {
		t.Errorf("a link to root's folder: %v; it was %s and is %s", err, before, belongings(t, machine))
	}
}

func TestRootGivesAwayNoFileThatHasAnotherNameElsewhere(t *testing.T) {
	t.Parallel()
	if unlessRoot(t) {
		return
	}
	w, outside := banked(t)
	cfg := w.mapped("target", outside)
	_, err := restore.Run(t.Context(), cfg, w.repo)
	must(t, err)
	secret := filepath.Join(w.home, "secret")
	must(t, os.WriteFile(secret, []byte("of the machine"), 0o600))
	must(t, os.Remove(filepath.Join(cfg.Dir, "PG_VERSION")))
	must(t, os.Link(secret, filepath.Join(cfg.Dir, "PG_VERSION")))
	before := belongings(t, secret)
	must(t, os.Remove(filepath.Join(cfg.Dir, "global", "pg_control"))) // not complete: the restore goes on
	must(t, os.WriteFile(filepath.Join(cfg.Dir, "rootstream.restore"), []byte(fmt.Sprintf(`{"repository": %q, "tablespaces": [%q]}`, w.repo.ID(), cfg.Tablespaces[outside])), 0o600))
	_, err = restore.Run(t.Context(), cfg, w.repo)
	must(t, err)
	if raw, err := os.ReadFile(secret); err != nil || string(raw) != "of the machine" || belongings(t, secret) != before {
		t.Errorf("%q, %v: it was %s and is %s", raw, err, before, belongings(t, secret))
	}
}

func TestRootFollowsNoJournalThatSomebodyElseWrote(t *testing.T) {
	t.Parallel()
	if unlessRoot(t) {
		return
	}
	w := newWorld(t)
	w.openBank(w.server)
	w.backup(repo.Full)
	w.archived(w.server)
	precious, other := filepath.Join(w.home, "precious"), filepath.Join(w.home, "other")
	must(t, os.Mkdir(precious, 0o755))
	must(t, os.WriteFile(filepath.Join(precious, "letter.txt"), []byte("dear"), 0o600))
	must(t, os.Mkdir(other, 0o755))
	cfg := w.config("cluster")
	_, err := restore.Run(t.Context(), cfg, w.repo)
	must(t, err)
	cfg.Mode = restore.InPlace
	journal := cfg.Dir + ".rootstream-restore"
	forge := func(dir, from, to string) {
		must(t, os.WriteFile(journal, []byte(fmt.Sprintf(`{"dir": %q, "backup": "b", "started_at": "2026-01-02T03:04:05Z", "moves": [{"from": %q, "to": %q}]}`, dir, from, to)), 0o600))
	}
	for _, tt := range []struct {
		name          string
		dir, from, to string
		owned         bool // by PostgreSQL's user
	}{
		{"of another user", cfg.Dir, precious, other, true},
		{"of another user, in the right form", cfg.Dir, cfg.Dir, cfg.Dir + ".before-20260102T030405Z", true},
		{"of another folder", other, other, other + ".before-20260102T030405Z", false},
		{"that moves something else", cfg.Dir, precious, precious + ".before-20260102T030405Z", false},
		{"that moves to something else", cfg.Dir, cfg.Dir, precious, false},
	} {
		forge(tt.dir, tt.from, tt.to)
		if tt.owned {
			must(t, w.owner.Own(journal))
		}
		if err := restore.Rollback(cfg.Dir); !errors.Is(err, restore.ErrTarget) {
			t.Errorf("roll back after a journal %s: %v", tt.name, err)
		}
		if err := restore.Confirm(cfg.Dir); !errors.Is(err, restore.ErrTarget) {
			t.Errorf("confirm after a journal %s: %v", tt.name, err)
		}
		if _, err := restore.Run(t.Context(), cfg, w.repo); !errors.Is(err, restore.ErrTarget) {
			t.Errorf("restore in place after a journal %s: %v", tt.name, err)
		}
		must(t, os.Remove(journal))
	}
	must(t, syscall.Mkfifo(journal, 0o600))
	if err := restore.Rollback(cfg.Dir); !errors.Is(err, restore.ErrTarget) {
		t.Errorf("roll back after a pipe: %v", err)
	}
	if raw, err := os.ReadFile(filepath.Join(precious, "letter.txt")); err != nil || string(raw) != "dear" {
		t.Errorf("%q, %v", raw, err)
	}
}
