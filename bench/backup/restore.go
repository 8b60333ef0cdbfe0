package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// restorer measures a restore to an empty folder, from the start of the tool until the files are in place and on disk,
// and looks whether they are.
func (s *stand) restorer(ctx context.Context, c class, restore func(context.Context, class, string, ...string) (cost, error)) func() (sample, error) {
	return func() (sample, error) {
		dir, err := s.restoredDir()
		if err != nil {
			return sample{}, err
		}
		used, err := restore(ctx, c, dir)
		if err == nil {
			err = s.restored(dir)
		}
		if failed := os.RemoveAll(dir); err == nil {
			err = failed
		}
		return sample{cost: used}, err
	}
}

// restoredDir is a folder to restore to.
func (s *stand) restoredDir() (string, error) {
	dir := filepath.Join(s.dir, "restored")
	return dir, s.user.MkdirAll(dir)
}

func (s *stand) restore(ctx context.Context, c class, dir string, args ...string) (cost, error) {
	return s.run(ctx, s.self, append([]string{"restore", "-repo", s.ourRepo(c), "-pgdata", dir}, args...)...)
}

func (s *stand) peerRestore(ctx context.Context, _ class, dir string, _ ...string) (cost, error) {
	return s.run(ctx, "pgbackrest", "--config="+s.conf, "--stanza=bench", "--pg1-path="+dir, "restore")
}

// restored compares with the server's folder, in which nothing has changed.
func (s *stand) restored(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "global", "pg_control")); err != nil {
		return err
	}
	got, want := size(filepath.Join(dir, "base")), size(filepath.Join(s.server.DataDir(), "base"))
	const few = 1 << 20 // the server's own start files
	if got < want-few || got > want+few {
		return fmt.Errorf("a restore made %d bytes of relations, the server has %d", got, want)
	}
	return nil
}
