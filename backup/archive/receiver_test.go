package archive_test

import (
	"testing"

	"rootstream/backup/wal"
)

func TestEverythingIsReceivedAndTheOpenSegmentToo(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	r, dir := newRepo(t)
	rc := receive(t, config(child{Repo: dir, Spool: folder(t), DSN: c.dsn()}))
	c.eventually("it streams", func() bool { return rc.State().Doing == "streaming" })
	from := c.lsn().SegmentStart(size)
	c.write(5)
	at := c.lsn()
	rc.uploaded(at) // an idle server does not end its segment: what there is of it counts
	if err := contiguous(t, r, c.system(), wal.Range{Timeline: 1, From: from, To: at}); err != nil {
		t.Error(err)
	}
	c.switchSegment()
	end := c.lsn().SegmentStart(size)
	rc.uploaded(end)
	c.compare(r, c.system(), wal.Range{Timeline: 1, From: from, To: end})
	st := rc.State()
	if st.SystemID != c.system() || st.Timeline != 1 || st.LastError != "" || st.Gaps != 0 || st.Refused != 0 {
		t.Errorf("%+v", st)
	}
}
