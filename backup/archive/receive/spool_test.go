package receive

import (
	"bytes"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rootstream/backup/wal"
)

// The kernel reports a failed write once; a second sync of the same file would succeed.
func TestWhatAFailedSyncMayHaveLostIsReceivedAgain(t *testing.T) {
	t.Parallel()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	s, err := openSpool(root)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	s.size = wal.DefaultSegmentSize
	const start = wal.LSN(wal.DefaultSegmentSize)
	data := bytes.Repeat([]byte("log "), 100)
	receive := func(upTo int) (wal.LSN, error) {
		t.Helper()
		if _, err := s.write(start+wal.LSN(s.pos), data[s.pos:upTo]); err != nil {
			t.Fatal(err)
		}
		return s.sync()
	}
	if err := s.begin(1, start); err != nil {
		t.Fatal(err)
	}
	if on, err := receive(100); err != nil || on != start+100 {
		t.Fatalf("on disk up to %v, %v", on, err)
	}
	s.datasync = func(int) error { return syscall.EIO }
	if on, err := receive(200); err == nil {
		t.Fatalf("a failed sync is no error: on disk up to %v", on)
	}
	s.datasync = unix.Fdatasync
	if left := size(t, s); left != 100 {
		t.Errorf("%d bytes are kept, want those that were on disk, 100", left)
	}
	if _, at, err := s.resume(s.size); err != nil || at != start {
		t.Fatalf("it resumes at %v, %v", at, err)
	}
	if on, err := receive(400); err != nil || on != start+400 || size(t, s) != 400 {
		t.Errorf("on disk up to %v, %v", on, err)
	}
	if found, err := root.ReadFile(wal.SegmentName(1, start, s.size) + isOpen); err != nil || !bytes.Equal(found, data) {
		t.Errorf("the file holds something else, %v", err)
	}
}

func size(t *testing.T, s *spool) int64 {
	t.Helper()
	info, err := s.file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
