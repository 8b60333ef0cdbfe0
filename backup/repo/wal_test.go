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
