package logs

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"rootstream/backup/repo/seal"
	"rootstream/backup/storage"
	"rootstream/backup/wal"
)

// Piece is a part of a segment that is still being written.
type Piece struct {
	Off, Size int64
	Modified  time.Time // by the storage's clock
	object    string
}

// PieceList returns the pieces that there are of a segment, in the order of where they begin. They may overlap.
func (s *Store) PieceList(ctx context.Context, system uint64, name string) ([]Piece, error) {
	parsed, err := wal.ParseName(name)
	if err != nil {
		return nil, err
	}
	var all []Piece
	prefix := piecesPrefix(system, parsed.Timeline) + name + "/"
	for o, err := range s.st.List(ctx, prefix) {
		if err != nil {
			return nil, fmt.Errorf("look for pieces of %s: %w", name, err)
		}
		p, ok := parsePiece(strings.TrimPrefix(o.Name, prefix))
		if !ok {
			return nil, seal.Damaged(o.Name, "it does not belong here")
		}
		p.Modified, p.object = o.Modified, o.Name
		all = append(all, p)
	}
	return all, nil
}

// parsePiece takes <offset>-<length>-<mac> apart.
func parsePiece(part string) (Piece, bool) {
	fields := strings.Split(part, "-")
	if len(fields) != 3 || len(fields[0]) != 8 || len(fields[1]) != 8 {
		return Piece{}, false
	}
	off, err := strconv.ParseUint(fields[0], 16, 32)
	size, err2 := strconv.ParseUint(fields[1], 16, 32)
	var h seal.Hash
	ok := err == nil && err2 == nil && size > 0 && off+size <= wal.MaxSegmentSize && h.UnmarshalText([]byte(fields[2])) == nil
	return Piece{Off: int64(off), Size: int64(size)}, ok
}

// InRow picks from pieces those that follow each other from the beginning of the segment on.
func InRow(pieces []Piece) []Piece {
	sorted := slices.SortedFunc(slices.Values(pieces), func(a, b Piece) int {
		return cmp.Or(cmp.Compare(a.Off, b.Off), cmp.Compare(b.Size, a.Size))
	})
	var row []Piece
	for i, end := 0, int64(0); i < len(sorted); end = row[len(row)-1].end() {
		best := Piece{}
		for ; i < len(sorted) && sorted[i].Off <= end; i++ {
			if sorted[i].end() > best.end() {
				best = sorted[i]
			}
		}
		if best.end() <= end {
			break
		}
		row = append(row, best)
	}
	return row
}

func (p Piece) end() int64 { return p.Off + p.Size }

// Pieces returns the beginning of a segment, as far as its pieces reach without a gap.
func (s *Store) Pieces(ctx context.Context, system uint64, name string) ([]byte, error) {
	const looks = 5 // pieces are made into one, or their segment becomes whole, while we read them
	for look := 1; ; look++ {
		list, err := s.PieceList(ctx, system, name)
		if err != nil {
			return nil, err
		}
		whole, err := s.join(ctx, InRow(list))
		if !storage.Gone(err) || look == looks {
			return whole, err
		}
	}
}

func (s *Store) join(ctx context.Context, row []Piece) ([]byte, error) {
	var whole []byte
	for _, p := range row {
		data, err := s.safe.Get(ctx, seal.KindPiece, p.object)
		if err != nil {
			return nil, err
		}
		both := int64(len(whole)) - p.Off
		if int64(len(data)) != p.Size || both < 0 || both > p.Size {
			return nil, seal.Damaged(p.object, "it has %d bytes", len(data))
		}
		if !bytes.Equal(whole[p.Off:], data[:both]) {
			return nil, ErrWALConflict.WithCause(fmt.Errorf("%s: pieces that overlap differ", p.object))
		}
		whole = append(whole, data[both:]...)
	}
	return whole, nil
}

// DropPieces removes pieces that another one holds by now.
func (s *Store) DropPieces(ctx context.Context, pieces ...Piece) error {
	for _, p := range pieces {
		if err := s.st.Delete(ctx, p.object); err != nil {
			return fmt.Errorf("drop a piece: %w", err)
		}
	}
	return nil
}

// FindWAL tells of a file of the log without reading it. ErrWALAbsent: the storage has proven that it is not there.
func (s *Store) FindWAL(ctx context.Context, system uint64, name string) (WALInfo, error) {
	parsed, err := wal.ParseName(name)
	if err != nil {
		return WALInfo{}, err
	}
	for o, err := range s.st.List(ctx, walPrefix(system, parsed.Timeline)+name+"-") {
		if err != nil {
			return WALInfo{}, fmt.Errorf("look for %s: %w", name, err)
		}
		return WALInfo{name, o.Size, o.Modified, o.Name}, nil
	}
	return WALInfo{}, ErrWALAbsent.WithCause(fmt.Errorf("%s of system %d", name, system))
}
