package devstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"rootstream/internal/wait"
)

const (
	rotateEvery = 5 * time.Second
	keepLogs    = 3
)

// rotateLogs keeps each file below limit until ctx ends.
func rotateLogs(ctx context.Context, logger *slog.Logger, limit int64, paths ...string) {
	for wait.For(ctx, rotateEvery) == nil {
		for _, path := range paths {
			if err := rotate(path, limit); err != nil {
				logger.WarnContext(ctx, "a log could not be rotated", "file", path, "err", err)
			}
		}
	}
}

// rotate copies a log that has grown beyond limit to path.1 and empties it. The
// writers hold it open for appending and outlive us, so it cannot be renamed away.
func rotate(path string, limit int64) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || (err == nil && info.Size() <= limit) {
		return nil
	}
	if err != nil {
		return err
	}
	for i := keepLogs - 1; i > 0; i-- {
		err := os.Rename(fmt.Sprintf("%s.%d", path, i), fmt.Sprintf("%s.%d", path, i+1))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := copyFile(path, path+".1", limit); err != nil {
		return err
	}
	return os.Truncate(path, 0)
}

// copyFile copies the last limit bytes of a file.
func copyFile(from, to string, limit int64) error {
	in, err := os.Open(from) //nolint:gosec // below the data folder
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if _, err = in.Seek(max(0, info.Size()-limit), io.SeekStart); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) //nolint:gosec // below the data folder
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// tail returns the last lines a child wrote after from, or the first ones of its panic.
func tail(path string, from int64) string {
	f, err := os.Open(path) //nolint:gosec // below the data folder
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	const most, lines = 16 << 10, 6
	from = max(from, info.Size()-most)
	buf := make([]byte, max(0, info.Size()-from))
	n, _ := f.ReadAt(buf, from)
	all := strings.Split(strings.TrimSpace(string(buf[:n])), "\n")
	// The first line of a panic says what happened, the last ones only where.
	if at := slices.IndexFunc(all, func(l string) bool { return strings.HasPrefix(l, "panic: ") }); at >= 0 {
		return strings.Join(all[at:min(len(all), at+lines)], " | ")
	}
	return strings.Join(all[max(0, len(all)-lines):], " | ")
}
