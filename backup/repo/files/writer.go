package files

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo/pack"
	"rootstream/backup/repo/seal"
)

const streamBlob = 256 << 10

// Writer writes a stream of files. It is not safe for concurrent use.
type Writer struct {
	lane  *pack.Lane
	buf   []byte
	entry []byte
	last  string
	count int64
	size  int64
	packs map[pack.ID]bool
	blobs []pack.Blob
}

// NewWriter writes a stream through lane.
func NewWriter(lane *pack.Lane) *Writer {
	return &Writer{lane: lane, packs: map[pack.ID]bool{}}
}

// Write appends an entry; entries come in the order of ComparePaths.
func (w *Writer) Write(ctx context.Context, f File) error {
	if w.count > 0 && pgdata.ComparePaths(w.last, f.Path) >= 0 {
		return seal.ErrInvalid.WithCause(fmt.Errorf("%q comes after %q", f.Path, w.last))
	}
	if err := f.check(); err != nil {
		return seal.ErrInvalid.WithCause(err)
	}
	w.entry = f.append(w.entry[:0], w.packs)
	if len(w.entry) > maxEntry {
		return seal.ErrInvalid.WithCause(fmt.Errorf("%q is in too many pieces", f.Path))
	}
	w.buf = binary.AppendUvarint(w.buf, uint64(len(w.entry)))
	w.buf = append(w.buf, w.entry...)
	w.last = f.Path
	w.count++
	w.size += f.Size
	return w.flush(ctx, streamBlob)
}

// flush stores what has come together, if it is at least as much.
func (w *Writer) flush(ctx context.Context, least int) error {
	at := 0
	for ; len(w.buf)-at >= least && at < len(w.buf); at += min(streamBlob, len(w.buf)-at) {
		b, err := w.lane.Add(ctx, seal.Hash{}, w.buf[at:min(at+streamBlob, len(w.buf))])
		if err != nil {
			return fmt.Errorf("write the list of files: %w", err)
		}
		w.blobs = append(w.blobs, b)
		w.packs[b.Pack] = true
	}
	w.buf = append(w.buf[:0], w.buf[at:]...)
	return nil
}

// Close stores the rest and returns the stream's blobs. The lane stays open.
func (w *Writer) Close(ctx context.Context) ([]pack.Blob, error) {
	err := w.flush(ctx, 1)
	return w.blobs, err
}

// Packs returns every pack that the stream and its files need, in order.
func (w *Writer) Packs() []pack.ID { return slices.SortedFunc(maps.Keys(w.packs), pack.Compare) }

// Count returns how many entries were written.
func (w *Writer) Count() int64 { return w.count }

// Size returns the bytes of all files written.
func (w *Writer) Size() int64 { return w.size }
