package devstack

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"rootstream/internal/flock"
	"rootstream/internal/proc"
)

// FileLock is a lock that ends with the process that holds it, however it ends.
type FileLock struct{ file *os.File }

// holder is what a lock file says about who holds the lock.
type holder struct {
	Process proc.ID   `json:"process"`
	Command string    `json:"command"`
	Since   time.Time `json:"since"`
}

// Lock takes the lock file at path or fails with ErrLocked, saying who holds it.
func Lock(path string) (*FileLock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // below the data folder
	if err != nil {
		return nil, ErrAccess.WithCause(err)
	}
	if err = flock.Try(f); err != nil {
		defer func() { _ = f.Close() }()
		if !errors.Is(err, flock.ErrHeld) {
			return nil, ErrAccess.WithCause(err)
		}
		return nil, ErrLocked.WithCause(fmt.Errorf("%s is held by %s", path, readHolder(f))).
			WithHint("stop that process first, or choose another data folder")
	}
	self, err := proc.Self()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	text, err := json.Marshal(holder{Process: self, Command: command(), Since: time.Now().UTC().Truncate(time.Second)})
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(append(text, '\n'), 0)
	}
	if err != nil {
		return nil, errors.Join(ErrAccess.WithCause(err), f.Close())
	}
	return &FileLock{f}, nil
}

// Release gives the lock back. The file stays: removing it would let two hold it.
func (l *FileLock) Release() { _ = flock.Release(l.file) }

// lockHolder says who holds the lock at path; empty when it is free.
func lockHolder(path string) string {
	f, err := os.OpenFile(path, os.O_RDWR, 0) //nolint:gosec // below the data folder
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if flock.Free(f) {
		return ""
	}
	return readHolder(f)
}

func readHolder(f *os.File) string {
	raw, err := io.ReadAll(io.LimitReader(io.NewSectionReader(f, 0, 4096), 4096))
	var h holder
	if err != nil || json.Unmarshal(raw, &h) != nil {
		return "an unknown process"
	}
	return fmt.Sprintf("process %d (%s) since %s", h.Process.PID, h.Command, h.Since.Format(time.RFC3339))
}

// command names this process without its arguments' values, which could be secret.
func command() string {
	name := filepath.Base(os.Args[0])
	if len(os.Args) > 1 && len(os.Args[1]) > 0 && os.Args[1][0] != '-' {
		name += " " + os.Args[1]
	}
	return name
}
