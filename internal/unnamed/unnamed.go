// Package unnamed makes files that nobody else can open, and that go with the process.
package unnamed

import (
	"errors"
	"os"
)

// File makes an empty one in the folder for temporary files.
func File() (*os.File, error) {
	f, err := os.CreateTemp("", "rootstream-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
