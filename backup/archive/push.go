package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
)

const maxNote = 1 << 20 // bytes of a history or a backup mark

// Push is what an archive_command does: it returns nil only when the repository has the file, durable and to the byte.
// The same file once more is fine, another one under its name is [repo.ErrWALConflict]. A segment says itself which
// cluster it belongs to; for the other files system does, or, if it is 0, the data folder that the file lies in.
func Push(ctx context.Context, r *repo.Repo, system uint64, file string) error {
	name := filepath.Base(file)
	n, err := wal.ParseName(name)
	if err != nil {
		return ErrFile.WithCause(err)
	}
	limit := int64(wal.MaxSegmentSize)
	if n.Kind == wal.HistoryOfATime || n.Kind == wal.BackupMark {
		limit = maxNote
	}
	data, err := readFile(file, limit)
	if err != nil {
		return fmt.Errorf("archive %s: %w", name, err)
	}
	if system, err = owner(n, data, system, file); err != nil {
		return fmt.Errorf("archive %s: %w", name, err)
	}
	if n.Kind == wal.Segment {
		if err := pushHistories(ctx, r, system, n.Timeline, filepath.Dir(file)); err != nil {
			return fmt.Errorf("archive the history that %s needs: %w", name, err)
		}
	}
	if err := r.PutWAL(ctx, system, name, data); err != nil {
		return fmt.Errorf("archive %s: %w", name, err)
	}
	return nil
}

// pushHistories brings the history of a timeline, and of those it descends from, if the repository lacks it. PostgreSQL
// has it archived only when the timeline begins, so an archive that was set up later would never get it.
func pushHistories(ctx context.Context, r *repo.Repo, system uint64, tli wal.TimelineID, dir string) error {
	if tli == 1 {
		return nil // has none
	}
	if _, err := r.GetWAL(ctx, system, wal.HistoryName(tli)); !errors.Is(err, repo.ErrWALAbsent) {
		return err
	}
	text, err := readFile(filepath.Join(dir, wal.HistoryName(tli)), maxNote)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // an old one may be gone
	}
	if err != nil {
		return err
	}
	h, err := wal.ParseHistory(tli, text)
	if err != nil {
		return err
	}
	for _, b := range h {
		if b.Timeline == tli {
			continue
		}
		if err := pushHistories(ctx, r, system, b.Timeline, dir); err != nil {
			return err
		}
	}
	return r.PutWAL(ctx, system, wal.HistoryName(tli), text)
}

// owner checks the file and says which cluster it belongs to.
func owner(n wal.Name, data []byte, system uint64, file string) (uint64, error) {
	switch n.Kind {
	case wal.Segment:
		h, err := wal.CheckSegment(n.String(), data, system)
		return h.SystemID, err
	case wal.Partial: // behind what was written it may hold anything
		h, err := wal.ParseHeader(data)
		if err != nil {
			return 0, err
		}
		start, err := n.Start(h.SegmentSize)
		if err != nil || start != h.Start || system != 0 && h.SystemID != system || int64(len(data)) != int64(h.SegmentSize) {
			return 0, wal.ErrForeign.WithCause(fmt.Errorf("%v is the segment at %v of cluster %d, of %d bytes", n, h.Start, h.SystemID, len(data)))
		}
		return h.SystemID, nil
	case wal.HistoryOfATime:
		if _, err := wal.ParseHistory(n.Timeline, data); err != nil {
			return 0, err
		}
	case wal.BackupMark:
	}
	if system != 0 {
		return system, nil
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return 0, err
	}
	return SystemOf(filepath.Dir(filepath.Dir(path)))
}

// SystemOf returns the id of the cluster in a data folder.
func SystemOf(dataDir string) (uint64, error) {
	c, _, err := pgdata.ReadControl(dataDir)
	if err != nil {
		return 0, fmt.Errorf("find out which cluster this is: %w", err)
	}
	return c.SystemID, nil
}

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // what PostgreSQL asks us to archive
	if err != nil {
		return nil, ErrFile.WithCause(err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, ErrFile.WithCause(err)
	}
	if !info.Mode().IsRegular() || info.Size() > limit || info.Size() == 0 {
		return nil, ErrFile.WithCause(fmt.Errorf("%v of %d bytes", info.Mode(), info.Size()))
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, ErrFile.WithCause(err)
	}
	if n, err := f.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return nil, ErrFile.WithCause(errors.New("it grew while it was read"))
	}
	return data, nil
}
