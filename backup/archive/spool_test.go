package archive_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"rootstream/backup/archive"
	"rootstream/internal/proc"
)

func TestRootSpoolsIntoNoFolderThatSomebodyElsePutThere(t *testing.T) {
	t.Parallel()
	t.Logf("as user %d", os.Geteuid())
	if os.Geteuid() != 0 {
		return // others write to nothing that their folder's owner could not
	}
	_, dir := newRepo(t)
	server, err := proc.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	above := folder(t) // as /var/lib/postgresql/15 is
	for name, plant := range map[string]func(spool, machine string) error{
		"a link":                  func(spool, machine string) error { return os.Symlink(machine, spool) },
		"a folder of its own":     func(spool, _ string) error { return server.MkdirAll(spool) },
		"one everybody writes to": func(spool, _ string) error { return errors.Join(os.Mkdir(spool, 0o700), os.Chmod(spool, 0o777)) },
	} {
		spool, machine := filepath.Join(above, "spool"), filepath.Join(above, "machine")
		if err := errors.Join(os.RemoveAll(spool), os.RemoveAll(machine), os.Mkdir(machine, 0o755), plant(spool, machine)); err != nil {
			t.Fatal(err)
		}
		cfg := config(child{Repo: dir, DSN: "host=/nonexistent user=postgres"})
		cfg.Spool = spool
		r, err := archive.NewReceiver(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := contextOf(t)
		err = r.Run(ctx)
		stop()
		if !errors.Is(err, archive.ErrSpool) {
			t.Errorf("%s: %v, want ErrSpool", name, err)
		}
		for _, dir := range []string{spool, machine} {
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("%s: %v was put into %s, %v", name, left, dir, err)
			}
		}
	}
}
