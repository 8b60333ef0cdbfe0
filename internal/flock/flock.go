// Package flock locks files and folders against other processes. A lock ends with its file, so the kernel takes it from
// a process that ends, however it ends.
package flock

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrHeld says that somebody else has the lock.
var ErrHeld = errors.New("another process holds the lock")

// Try takes the lock at once, or fails.
func Try(f *os.File) error { return try(f, unix.LOCK_EX) }

// Release gives the lock back and closes f. Closing alone leaves the lock with a process that is just being started, which
// has all our files until it runs its program.
func Release(f *os.File) error {
	return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close())
}

// Free reports whether nobody has taken the lock. As long as f is open, nobody can.
func Free(f *os.File) bool { return try(f, unix.LOCK_SH) == nil }

func try(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return ErrHeld
		default:
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}
