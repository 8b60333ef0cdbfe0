package base

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"rootstream/backup/pgdata"
	"rootstream/internal/wait"
)

// source is where files are copied from.
type source interface {
	// open begins a unit, and may correct its size; fs.ErrNotExist: the file vanished.
	open(u *unit) (content, error)
}

// content is what a unit holds, on its way to a worker.
type content interface {
	// next returns what follows: as much as buf has room for, less only where the file ends. It need not lie in buf, and
	// is valid until the next call.
	next(ctx context.Context, buf []byte) ([]byte, error)
	// excused reports whether recovery replaces a block whose checksum is wrong, which then holds what it reads by now;
	// at counts from the beginning of the file.
	excused(ctx context.Context, block []byte, at int64) (bool, error)
	close()
}

// folder is a data folder on this machine.
type folder struct {
	dir  string
	torn atomic.Int32 // pages that seemed half written
}

func (d *folder) open(u *unit) (content, error) {
	f, err := pgdata.Open(d.dir, u.item.entry.Path)
	if err != nil {
		return nil, err
	}
	if err := u.toItsEnd(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return &onDisk{folder: d, f: f, at: int64(u.first) * pageSize, last: u.last}, nil
}

// toItsEnd lets a small file that is not made of blocks be read to the end that it has now. What was added to a
// relation is in the log; a file of settings, or one with a checksum at its end, was replaced since the walk saw it, and
// the beginning of the new one alone would keep the server from starting.
func (u *unit) toItsEnd(f *os.File) error {
	if u.item.entry.Blocks || u.first > 0 || !u.last {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	u.size = max(u.size, min(info.Size(), unitPages*pageSize))
	return nil
}

// onDisk is a unit of a file that can be read again.
type onDisk struct {
	folder *folder
	f      *os.File
	at     int64
	last   bool // of the file's units
}

func (c *onDisk) close() { _ = c.f.Close() }

// next reads. A file that became shorter while others read its end is filled up with zeros as pg_basebackup does:
// recovery shortens it again.
func (c *onDisk) next(_ context.Context, buf []byte) ([]byte, error) {
	n, err := c.f.ReadAt(buf, c.at)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if n < len(buf) && !c.last {
		clear(buf[n:])
		n = len(buf)
	}
	c.at += int64(n)
	return buf[:n], nil
}

// excused reads a suspect block until it reads otherwise. A writer can be interrupted in the middle of a block, so the
// first few are given time.
func (c *onDisk) excused(ctx context.Context, block []byte, at int64) (bool, error) {
	const worthWaiting = 64
	tries := 1
	if c.folder.torn.Add(1) <= worthWaiting {
		tries = 10 // half a second
	}
	second := make([]byte, len(block))
	for try := range tries {
		if try > 0 {
			if err := wait.For(ctx, time.Millisecond<<try); err != nil {
				return false, err
			}
		}
		n, err := c.f.ReadAt(second, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if n < len(block) || !bytes.Equal(block, second) {
			copy(block, second[:n])
			return true, nil
		}
	}
	return false, nil
}
