package logs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"rootstream/backup/repo/seal"
	"rootstream/backup/storage"
	"rootstream/backup/wal"
)

// WALInfo is a file of the write-ahead log in the repository.
type WALInfo struct {
	Name     string
	Stored   int64
	Modified time.Time // by the storage's clock
	Object   string    // its name
}

func walPrefix(system uint64, tli wal.TimelineID) string {
	return Prefix(system) + "wal/" + tli.String() + "/"
}

func piecesPrefix(system uint64, tli wal.TimelineID) string {
	return Prefix(system) + "pieces/" + tli.String() + "/"
}

// PutWAL stores a segment, a history or another file of the log under the name
// that PostgreSQL gave it. The same content once more is fine; ErrWALConflict for
// another. Pieces of a segment that is stored are dropped.
func (s *Store) PutWAL(ctx context.Context, system uint64, name string, data []byte) error {
	parsed, err := wal.ParseName(name)
	if err != nil {
		return err
	}
	if err = s.Admit(ctx, system); err != nil {
		return err
	}
	prefix := walPrefix(system, parsed.Timeline) + name + "-"
	object := prefix + s.safe.NewHasher().Sum(data).String()
	body, err := s.safe.Seal(seal.KindWAL, object, data)
	if err != nil {
		return err
	}
	err = s.st.Put(ctx, object, body)
	created := err == nil
	if err != nil && !errors.Is(err, storage.ErrExists) {
		return fmt.Errorf("store %s: %w", name, err)
	}
	for o, err := range s.st.List(ctx, prefix) {
		if err != nil {
			return fmt.Errorf("store %s: %w", name, err)
		}
		if o.Name == object {
			continue
		}
		err = ErrWALConflict.WithCause(fmt.Errorf("%s of system %d", name, system))
		if created {
			err = errors.Join(err, s.st.Delete(context.WithoutCancel(ctx), object))
		}
		return err
	}
	if parsed.Kind == wal.Segment {
		if err := s.dropPieces(ctx, system, parsed.Timeline, name); err != nil {
			s.log.WarnContext(ctx, "pieces of a whole segment could not be dropped", "name", name, "err", err)
		}
	}
	return nil
}

// GetWAL reads a file of the log. ErrWALAbsent: the storage has proven that it is not there.
func (s *Store) GetWAL(ctx context.Context, system uint64, name string) ([]byte, error) {
	parsed, err := wal.ParseName(name)
	if err != nil {
		return nil, err
	}
	object, prefix := "", walPrefix(system, parsed.Timeline)+name+"-"
	for o, err := range s.st.List(ctx, prefix) {
		if err != nil {
			return nil, fmt.Errorf("look for %s: %w", name, err)
		}
		if object != "" {
			return nil, TwoContents(object, o.Name)
		}
		object = o.Name
	}
	if object == "" {
		return nil, ErrWALAbsent.WithCause(fmt.Errorf("%s of system %d", name, system))
	}
	data, err := s.safe.Get(ctx, seal.KindWAL, object)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if s.safe.NewHasher().Sum(data).String() != strings.TrimPrefix(object, prefix) {
		return nil, seal.Damaged(object, "it holds something else")
	}
	return data, nil
}

// TwoContents says that two objects hold different contents of one file. No key tells which of them counts.
func TwoContents(a, b string) error {
	return ErrWALConflict.WithCause(fmt.Errorf("%s and %s are two contents of one file", a, b)).
		WithHint("two servers wrote it, of which each took itself for the primary: keep the one whose timeline you go on with, which " +
			"is named by the server's own copy if that is still in pg_wal, remove the other object from the storage, and take a full backup")
}

// SameFile reports whether two objects are of one file of a log.
func SameFile(a, b string) bool {
	file := func(object string) (string, bool) {
		if f := strings.Split(object, "/"); len(f) != 5 || f[2] != "wal" {
			return "", false
		}
		name, _, found := strings.Cut(object, "-")
		return name, found
	}
	x, isFile := file(a)
	y, _ := file(b)
	return isFile && x == y
}

// ListWAL goes through a timeline's files in the order of their names.
func (s *Store) ListWAL(ctx context.Context, system uint64, tli wal.TimelineID) iter.Seq2[WALInfo, error] {
	return func(yield func(WALInfo, error) bool) {
		prefix := walPrefix(system, tli)
		for o, err := range s.st.List(ctx, prefix) {
			if err != nil {
				yield(WALInfo{}, fmt.Errorf("list timeline %d: %w", tli, err))
				return
			}
			name, ok := parseWALObject(strings.TrimPrefix(o.Name, prefix))
			if ok && !yield(WALInfo{name, o.Size, o.Modified, o.Name}, nil) {
				return
			}
		}
	}
}

// parseWALObject takes <name>-<mac> apart.
func parseWALObject(part string) (string, bool) {
	name, mac, found := strings.Cut(part, "-")
	var h seal.Hash
	_, err := wal.ParseName(name)
	return name, found && err == nil && h.UnmarshalText([]byte(mac)) == nil
}

// Timelines returns those that the repository has files or pieces of.
func (s *Store) Timelines(ctx context.Context, system uint64) ([]wal.TimelineID, error) {
	var all []wal.TimelineID
	for _, part := range []string{"wal/", "pieces/"} {
		folders, err := s.st.Folders(ctx, Prefix(system)+part)
		if err != nil {
			return nil, fmt.Errorf("list timelines: %w", err)
		}
		for _, f := range folders {
			if tli, err := strconv.ParseUint(f, 16, 32); err == nil {
				all = append(all, wal.TimelineID(tli))
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// PutPiece stores a piece of a segment that is still being written.
func (s *Store) PutPiece(ctx context.Context, system uint64, name string, off int64, data []byte) error {
	parsed, err := wal.ParseName(name)
	if err != nil || parsed.Kind != wal.Segment || off < 0 || off+int64(len(data)) > wal.MaxSegmentSize || len(data) == 0 {
		return seal.ErrInvalid.WithCause(errors.Join(fmt.Errorf("a piece of %d bytes at %d of %.40q", len(data), off, name), err))
	}
	if err = s.Admit(ctx, system); err != nil {
		return err
	}
	object := fmt.Sprintf("%s%s/%08x-%08x-%s", piecesPrefix(system, parsed.Timeline), name, off, len(data), s.safe.NewHasher().Sum(data))
	body, err := s.safe.Seal(seal.KindPiece, object, data)
	if err != nil {
		return err
	}
	if err := s.st.Put(ctx, object, body); err != nil && !errors.Is(err, storage.ErrExists) {
		return fmt.Errorf("store a piece of %s: %w", name, err)
	}
	return nil
}

// OpenSegments returns the names of the segments that there are pieces of.
func (s *Store) OpenSegments(ctx context.Context, system uint64, tli wal.TimelineID) ([]string, error) {
	return s.st.Folders(ctx, piecesPrefix(system, tli))
}

func (s *Store) dropPieces(ctx context.Context, system uint64, tli wal.TimelineID, name string) error {
	for o, err := range s.st.List(ctx, piecesPrefix(system, tli)+name+"/") {
		if err != nil {
			return err
		}
		if err := s.st.Delete(ctx, o.Name); err != nil {
			return err
		}
	}
	return nil
}

// CheckWAL opens an object of a log, or only looks at its name if quick; the name ends with the hash of its content.
func (s *Store) CheckWAL(ctx context.Context, object string, quick bool) error {
	f := strings.Split(object, "/")
	kind, part := seal.KindPiece, f[len(f)-1]
	switch {
	case len(f) == 5 && f[2] == "wal":
		if _, ok := parseWALObject(part); !ok {
			return seal.Damaged(object, "it does not belong here")
		}
		kind = seal.KindWAL
	case len(f) != 6 || f[2] != "pieces":
		return seal.Damaged(object, "it does not belong here")
	}
	if quick {
		return nil
	}
	data, err := s.safe.Get(ctx, kind, object)
	if err == nil && !strings.HasSuffix(part, "-"+s.safe.NewHasher().Sum(data).String()) {
		err = seal.Damaged(object, "it holds something else")
	}
	return err
}
