package notify

import (
	"context"
	"errors"
	"fmt"
	"net/mail"
	"os"
	"path/filepath"

	gomail "github.com/wneessen/go-mail"
)

// folder writes mail into files that only their owner can read.
type folder struct {
	dir  string
	from *mail.Address
}

func newFolder(dir string, from *mail.Address) (*folder, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("mail folder: %w", err)
	}
	return &folder{dir: dir, from: from}, nil
}

// send writes one .eml file. Its name depends on the message alone, so that a
// repeat replaces the file; it appears complete or not at all.
func (f *folder) send(_ context.Context, it item, m Mail) error {
	msg, err := compose(f.from, it, m, gomail.NoEncoding)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(f.dir, ".new-*") // 0600
	if err != nil {
		return ErrMail.WithCause(err)
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // it is gone once renamed
	_, err = msg.WriteTo(tmp)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return ErrMail.WithCause(err)
	}
	name := it.createdAt.UTC().Format("20060102T150405.000Z") + "-" + it.topic + "-" + it.id.String() + ".eml"
	if err := os.Rename(tmp.Name(), filepath.Join(f.dir, name)); err != nil {
		return ErrMail.WithCause(err)
	}
	return nil
}
