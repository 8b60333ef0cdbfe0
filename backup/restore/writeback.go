package restore

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// writeback has the kernel begin to write to disk what is complete: the disk is idle while blobs are read and decompressed, and
// at the end there is less to wait for. Asking waits while the disk has much to do, so somebody else asks than who fills files.
// What goes wrong is told by the sync at the end.
type writeback struct {
	open  func(name string) (*os.File, error)
	queue chan stretch
	asker sync.WaitGroup
}

// stretch is a part of a file, long enough to lie in one piece on disk.
type stretch struct {
	file     string
	from, to int64
}

const stretchBytes = 8 << 20

func beginWriteback(open func(name string) (*os.File, error)) *writeback {
	w := &writeback{open: open, queue: make(chan stretch, 1024)}
	w.asker.Go(func() {
		for s := range w.queue {
			if f, err := w.open(s.file); err == nil {
				_ = unix.SyncFileRange(int(f.Fd()), s.from, s.to-s.from, unix.SYNC_FILE_RANGE_WRITE)
				_ = f.Close()
			}
		}
	})
	return w
}

// wrote notes that a run was written, which may complete stretches. Where too many wait already, the sync at the end does it.
func (w *writeback) wrote(file string, at, n int64) {
	from, to := at/stretchBytes*stretchBytes, (at+n)/stretchBytes*stretchBytes
	if to <= from {
		return
	}
	select {
	case w.queue <- stretch{file, from, to}:
	default:
	}
}

// end waits until all is asked for.
func (w *writeback) end() {
	close(w.queue)
	w.asker.Wait()
}
