package base_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
)

// shape is what a list says of a file, wherever its pages are.
type shape struct {
	Kind   uint8
	Mode   uint32
	Size   int64
	Target string
	Hash   repo.Hash
}

func (c *cluster) shapes(m repo.Manifest) map[string]shape {
	c.t.Helper()
	all := map[string]shape{}
	for f, err := range c.repo.Files(c.t.Context(), m) {
		if err != nil {
			c.t.Fatal(err)
		}
		if f.Path != pgdata.ControlPath { // the backup itself changes it
			all[f.Path] = shape{uint8(f.Kind), f.Mode, f.Size, f.Target, f.Hash}
		}
	}
	return all
}

func TestWhatTheServerSendsIsWhatIsInItsFolder(t *testing.T) {
	t.Parallel()
	c := newCluster(t, map[string]string{"bgwriter_lru_maxpages": "0"})
	c.fill()
	c.exec("vacuum (freeze, analyze)", "vacuum freeze", "checkpoint") // no hint is left to be set by who reads
	here := c.take(repo.Full)
	sent := c.takeRemotely(repo.Incremental)
	if diff := cmp.Diff(c.shapes(here), c.shapes(sent)); diff != "" {
		t.Errorf("(-read here +sent):\n%s", diff)
	}
	if limit := int64(200 << 10); sent.Parent != here.ID || sent.Stored > limit {
		t.Errorf("of the same again, %d bytes were stored, over those of %q", sent.Stored, sent.Parent)
	}
	if diff := cmp.Diff(here.Tablespaces, sent.Tablespaces); diff != "" || len(sent.Tablespaces) != 1 {
		t.Errorf("tablespaces (-here +sent):\n%s", diff)
	}
	if diff := cmp.Diff(here.Cluster, sent.Cluster); diff != "" {
		t.Errorf("cluster (-here +sent):\n%s", diff)
	}
	back := c.take(repo.Incremental) // and here again: times of files that were sent say nothing
	if diff := cmp.Diff(c.shapes(sent), c.shapes(back)); diff != "" || back.Parent != sent.ID {
		t.Errorf("(-sent +read here):\n%s", diff)
	}
}
