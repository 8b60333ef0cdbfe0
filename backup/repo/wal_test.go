package repo_test

import (
	"bytes"
	"errors"
	"testing"

	"rootstream/backup/repo"
	"rootstream/backup/wal"
)

const segment = "000000010000000000000003"

func TestWALIsStoredOnceAndReadsBack(t *testing.T) {
	t.Parallel()
	r := open(t, newStorage(t))
	ctx := t.Context()
	data := pages(3, 1<<20)
	if _, err := r.GetWAL(ctx, system, segment); !errors.Is(err, repo.ErrWALAbsent) {
		t.Errorf("an absent segment: %v", err)
	}
	for range 2 {
		if err := r.PutWAL(ctx, system, segment, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.PutWAL(ctx, system, segment, pages(4, 1<<20)); !errors.Is(err, repo.ErrWALConflict) {
		t.Errorf("other content under the same name: %v", err)
	}
	got, err := r.GetWAL(ctx, system, segment)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("the segment does not read back: %v", err)
	}
	if err = r.PutWAL(ctx, system, "00000002.history", []byte("1\t0/3000000\tno recovery target specified\n")); err != nil {
		t.Fatal(err)
	}
	tlis, err := r.Timelines(ctx, system)
	if err != nil || len(tlis) != 2 || tlis[0] != 1 || tlis[1] != 2 {
		t.Errorf("timelines %v, %v", tlis, err)
	}
	var names []string
	for info, err := range r.ListWAL(ctx, system, wal.TimelineID(1)) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	if len(names) != 1 || names[0] != segment {
		t.Errorf("timeline 1 has %v", names)
	}
}

func TestPiecesOfASegmentGoWhenItIsWhole(t *testing.T) {
	t.Parallel()
	r := open(t, newStorage(t))
	ctx := t.Context()
	data := pages(5, 1<<20)
	put := func(from, to int) {
		t.Helper()
		if err := r.PutPiece(ctx, system, segment, int64(from), data[from:to]); err != nil {
			t.Fatal(err)
		}
	}
	put(0, 1000)
	put(1000, 5000)
	put(4000, 9000) // overlaps
	put(9500, 9600) // beyond a gap
	got, err := r.Pieces(ctx, system, segment)
	if err != nil || !bytes.Equal(got, data[:9000]) {
		t.Errorf("pieces reach to %d, %v; want 9000", len(got), err)
	}
	if open, err := r.OpenSegments(ctx, system, 1); err != nil || len(open) != 1 || open[0] != segment {
		t.Errorf("open segments %v, %v", open, err)
	}
	if err := r.PutWAL(ctx, system, segment, data); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Pieces(ctx, system, segment); err != nil || len(got) != 0 {
		t.Errorf("%d bytes of pieces are left, %v", len(got), err)
	}
}

func TestPiecesAreFoundAndDroppedOneByOne(t *testing.T) {
	t.Parallel()
	r := open(t, newStorage(t))
	ctx := t.Context()
	data := pages(6, 1<<20)
	for _, p := range [][2]int{{0, 1000}, {1000, 5000}, {0, 5000}, {5000, 6000}} {
		if err := r.PutPiece(ctx, system, segment, int64(p[0]), data[p[0]:p[1]]); err != nil {
			t.Fatal(err)
		}
	}
	list, err := r.PieceList(ctx, system, segment)
	if err != nil || len(list) != 4 {
		t.Fatalf("%v, %v", list, err)
	}
	row := repo.InRow(list)
	if len(row) != 2 || row[0].Size != 5000 || row[1].Off != 5000 {
		t.Errorf("in a row are %v", row)
	}
	for _, p := range list {
		if p.Off+p.Size <= 5000 && p.Size < 5000 {
			if err = r.DropPieces(ctx, p); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, err := r.Pieces(ctx, system, segment); err != nil || !bytes.Equal(got, data[:6000]) {
		t.Errorf("without the pieces that one piece holds: %d bytes, %v", len(got), err)
	}
	if _, err := r.FindWAL(ctx, system, segment); !errors.Is(err, repo.ErrWALAbsent) {
		t.Errorf("a segment of pieces is found whole: %v", err)
	}
	if err := r.PutWAL(ctx, system, segment, data); err != nil {
		t.Fatal(err)
	}
	if info, err := r.FindWAL(ctx, system, segment); err != nil || info.Name != segment || info.Stored == 0 {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestPiecesThatOverlapMustAgree(t *testing.T) {
	t.Parallel()
	r := open(t, newStorage(t))
	one, other := pages(7, 1000), pages(8, 1000)
	if err := r.PutPiece(t.Context(), system, segment, 0, one); err != nil {
		t.Fatal(err)
	}
	if err := r.PutPiece(t.Context(), system, segment, 500, other); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Pieces(t.Context(), system, segment); !errors.Is(err, repo.ErrWALConflict) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
