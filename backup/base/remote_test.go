package base_test

import (
	"testing"

	"rootstream/backup/base"
	"rootstream/backup/repo"
)

// remotely says that the server is to send its files.
func remotely(cfg base.Config) base.Config {
	cfg.PGData = ""
	return cfg
}

func (c *cluster) takeRemotely(kind repo.Type) repo.Manifest {
	c.t.Helper()
	m, err := base.Take(c.t.Context(), remotely(c.config(kind)), c.repo, c.archived)
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

func TestBackupsThatTheServerSendsAreWholeDatabases(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	c.fill()
	var taken []repo.Manifest
	c.underLoad(func() {
		for _, kind := range []repo.Type{repo.Full, repo.Incremental, repo.Differential} {
			taken = append(taken, c.takeRemotely(kind))
		}
	})
	for i, m := range taken {
		t.Logf("%s: %d files, %d bytes, %d stored, %d packs", m.ID, m.FileCount, m.Size, m.Stored, len(m.Packs))
		if m.PageErrors != 0 {
			t.Errorf("%s: %d pages are wrong", m.ID, m.PageErrors)
		}
		if i > 0 && (m.Stored >= taken[0].Stored || m.Parent != taken[0].ID) {
			t.Errorf("%s of %q stored %d bytes, the full one %d", m.ID, m.Parent, m.Stored, taken[0].Stored)
		}
	}
	for _, m := range taken {
		requireSound(t, c.recover(m))
	}
}
