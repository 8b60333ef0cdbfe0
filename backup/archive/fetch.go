package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"rootstream/backup/archive/ledger"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
	"rootstream/internal/flock"
)

// Source is where [Source.Fetch] takes files from.
type Source struct {
	Repo   *repo.Repo
	System uint64 // id of the cluster
	Dir    string // folder outside of pg_wal for segments fetched ahead; empty means none
}

// Fetch is what a restore_command does: it puts the file at dest, all of it or nothing. [ErrAbsent] says that the
// repository has proven that there is none, which ends a recovery; any other error says that nobody knows.
//
// Of the last segment of a timeline there may only be pieces: they are filled up with zeros. A segment that is missing
// though the timeline goes on behind it is not the end, but a gap.
func (s Source) Fetch(ctx context.Context, name, dest string) error {
	n, err := wal.ParseName(name)
	if err != nil {
		return err
	}
	if n.Kind == wal.Segment {
		if data, ok := s.ahead(name); ok {
			return deliver(dest, data)
		}
	}
	data, err := s.read(ctx, n)
	if errors.Is(err, repo.ErrWALAbsent) && n.Kind == wal.Segment {
		data, err = s.last(ctx, n)
	}
	if errors.Is(err, repo.ErrWALAbsent) {
		return s.absent(ctx, name)
	}
	if err != nil {
		return fmt.Errorf("fetch %s: %w", name, err)
	}
	return deliver(dest, data)
}

// absent says so, but only of a cluster that the repository knows: of one that it never heard of everything is absent,
// and to take that for the end of the log would be to recover from the wrong repository.
func (s Source) absent(ctx context.Context, name string) error {
	known, err := s.Repo.Systems(ctx)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", name, err)
	}
	if !slices.Contains(known, s.System) {
		return ErrUnknown.WithCause(fmt.Errorf("system %d in %s", s.System, s.Repo.URL()))
	}
	return ErrAbsent.WithCause(errors.New(name))
}

// read returns a whole file, proven to be what its name says.
func (s Source) read(ctx context.Context, n wal.Name) ([]byte, error) {
	data, err := s.Repo.GetWAL(ctx, s.System, n.String())
	if err != nil {
		return nil, err
	}
	_, err = owner(n, data, s.System, "")
	return data, err
}

// last returns what there is of the last segment of a timeline.
func (s Source) last(ctx context.Context, n wal.Name) ([]byte, error) {
	data, err := s.Repo.Pieces(ctx, s.System, n.String())
	if err != nil {
		return nil, err
	}
	goesOn, err := s.goesOn(ctx, n, len(data) > 0)
	if err != nil {
		return nil, err
	}
	// It may have become whole, and its pieces been dropped, while we looked.
	whole, err := s.read(ctx, n)
	if !errors.Is(err, repo.ErrWALAbsent) {
		return whole, err
	}
	if _, unfit := wal.CheckSegment(n.String(), data, s.System); unfit == nil {
		return data, nil // its pieces are all of it: who sent them was killed before it could say so
	}
	if goesOn {
		return nil, ledger.ErrGap.WithCause(fmt.Errorf("%v is not whole in the repository, though there is log behind it", n))
	}
	if len(data) == 0 {
		partial := n
		partial.Kind = wal.Partial // what a server had of it that was promoted
		return s.read(ctx, partial)
	}
	h, err := wal.ParseHeader(data)
	if err != nil {
		return nil, err
	}
	start, err := n.Start(h.SegmentSize)
	if err != nil || start != h.Start || h.SystemID != s.System || h.Timeline > n.Timeline || len(data) > int(h.SegmentSize) {
		return nil, wal.ErrForeign.WithCause(fmt.Errorf("pieces of %v are of %v in cluster %d", n, h.Start, h.SystemID))
	}
	return slices.Grow(data, int(h.SegmentSize)-len(data))[:h.SegmentSize], nil
}

// goesOn reports whether the timeline is known to have log behind the segment. Where it begins later than the segment,
// it does not go on there: that part is on an older timeline.
func (s Source) goesOn(ctx context.Context, n wal.Name, begun bool) (bool, error) {
	later := ""
	for info, err := range s.Repo.ListWAL(ctx, s.System, n.Timeline) {
		if err != nil {
			return false, err
		}
		if x, err := wal.ParseName(info.Name); err == nil && x.Kind == wal.Segment {
			begun = begun || info.Name < n.String()
			if info.Name > n.String() {
				later = info.Name
				break
			}
		}
	}
	if later == "" {
		open, err := s.Repo.OpenSegments(ctx, s.System, n.Timeline)
		if err != nil {
			return false, err
		}
		if i := slices.IndexFunc(open, func(name string) bool { return name > n.String() }); i >= 0 {
			later = open[i]
		}
	}
	if later == "" || begun {
		return later != "", nil
	}
	return s.branchedBefore(ctx, n)
}

// branchedBefore reports whether the timeline had begun when it came to the segment.
func (s Source) branchedBefore(ctx context.Context, n wal.Name) (bool, error) {
	h, known, err := ledger.History(ctx, s.Repo, s.System, n.Timeline)
	if err != nil || !known || len(h) < 2 {
		return false, err
	}
	size, err := ledger.SegmentSize(ctx, s.Repo, s.System, []wal.TimelineID{n.Timeline})
	if err != nil || size == 0 {
		return false, err
	}
	start, err := n.Start(size)
	return start >= h[len(h)-1].Begin.SegmentStart(size), err
}

// deliver writes the file beside its place and moves it there. PostgreSQL syncs what it keeps of it, and asks again
// after a crash.
func deliver(dest string, data []byte) error {
	temp := dest + ".fetching"
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return errors.Join(fmt.Errorf("deliver: %w", err), os.Remove(temp))
	}
	if err := os.Rename(temp, dest); err != nil {
		return errors.Join(fmt.Errorf("deliver: %w", err), os.Remove(temp))
	}
	return nil
}

// ahead takes a segment that was fetched ahead. Whatever is wrong with it, the repository has it as well.
func (s Source) ahead(name string) ([]byte, bool) {
	if s.Dir == "" || isPrivate(s.Dir) != nil {
		return nil, false
	}
	path := filepath.Join(s.Dir, name)
	data, err := readFile(path, wal.MaxSegmentSize)
	if err != nil {
		return nil, false
	}
	_, err = wal.CheckSegment(name, data, s.System)
	return data, os.Remove(path) == nil && err == nil
}

// Prefetch fetches up to count segments that follow name into Dir, as far as they are whole. While another one does,
// it does nothing. What lies there and is not needed any more is removed.
func (s Source) Prefetch(ctx context.Context, name string, count int) error {
	n, err := wal.ParseName(name)
	if err != nil || s.Dir == "" || n.Kind != wal.Segment {
		return err
	}
	if err = privateDir(s.Dir); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(s.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err = flock.Try(lock); err != nil {
		_ = lock.Close()
		if errors.Is(err, flock.ErrHeld) {
			return nil
		}
		return err
	}
	defer func() { _ = flock.Release(lock) }()
	var wanted []string
	for info, err := range s.Repo.ListWAL(ctx, s.System, n.Timeline) {
		if err != nil {
			return err
		}
		if x, err := wal.ParseName(info.Name); err == nil && x.Kind == wal.Segment && info.Name > name {
			wanted = append(wanted, info.Name)
		}
		if len(wanted) == count {
			break
		}
	}
	if err := s.tidy(wanted); err != nil {
		return err
	}
	for _, name := range wanted {
		if err := s.fetchAhead(ctx, name); err != nil {
			return fmt.Errorf("fetch %s ahead: %w", name, err)
		}
	}
	return nil
}

func (s Source) fetchAhead(ctx context.Context, name string) error {
	path := filepath.Join(s.Dir, name)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	n, err := wal.ParseName(name)
	if err != nil {
		return err
	}
	data, err := s.read(ctx, n)
	if err != nil {
		return err
	}
	return deliver(path, data)
}

// tidy removes everything but what is wanted.
func (s Source) tidy(wanted []string) error {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "lock" || slices.Contains(wanted, e.Name()) {
			continue
		}
		if err := os.Remove(filepath.Join(s.Dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
