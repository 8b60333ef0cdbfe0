package repo

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
)

// Kind is what an entry of a data folder is.
type Kind uint8

// The kinds of entries.
const (
	Regular Kind = iota + 1
	Dir
	Symlink
)

// PageSize is the unit of extents, whatever the size of the cluster's blocks.
const PageSize = 8192

// File is an entry of a data folder, and where its pages are.
type File struct {
	Path     string
	Kind     Kind
	Mode     uint32
	ModTime  int64 // nanoseconds since 1970
	Size     int64
	Target   string   // of a symlink
	Hash     Hash     // over the hashes of its pages
	Extents  []Extent // in the order of pages; together they are the file
	Hashes   []Blob   // hashes of its pages, 16 bytes each; none for a small file
	BadPages []uint32 // whose checksum did not fit
}

// Extent is a run of pages. With the zero Blob they are zeros.
type Extent struct {
	Page  uint32 // the first, in the file
	Pages uint32
	Blob  Blob
	At    uint32 // the first, in the blob
}

const (
	lastPath   = "global/pg_control" // read last, hence last
	maxPath    = 4096
	maxEntry   = 64 << 20 // bytes of one entry
	streamBlob = 256 << 10
)

// ComparePaths orders the entries of a stream: a folder, then what is in it, names by their bytes; pg_control last.
func ComparePaths(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return cmp.Or(cmp.Compare(b2i(a == lastPath), b2i(b == lastPath)), cmp.Compare(rank(a, n), rank(b, n)))
}

// rank is the order of a path's n-th byte: its end, the slash, then all others.
func rank(path string, n int) int {
	switch {
	case n == len(path):
		return -2
	case path[n] == '/':
		return -1
	}
	return int(path[n])
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// FileWriter writes a stream of files. It is not safe for concurrent use.
type FileWriter struct {
	lane  *Lane
	buf   []byte
	entry []byte
	last  string
	count int64
	size  int64
	packs map[PackID]bool
	blobs []Blob
}

// NewFileWriter writes a stream through lane.
func (r *Repo) NewFileWriter(lane *Lane) *FileWriter {
	return &FileWriter{lane: lane, packs: map[PackID]bool{}}
}

// Write appends an entry; entries come in the order of ComparePaths.
func (w *FileWriter) Write(ctx context.Context, f File) error {
	if w.count > 0 && ComparePaths(w.last, f.Path) >= 0 {
		return ErrInvalid.WithCause(fmt.Errorf("%q comes after %q", f.Path, w.last))
	}
	if err := f.check(); err != nil {
		return ErrInvalid.WithCause(err)
	}
	w.entry = f.append(w.entry[:0], w.packs)
	if len(w.entry) > maxEntry {
		return ErrInvalid.WithCause(fmt.Errorf("%q is in too many pieces", f.Path))
	}
	w.buf = binary.AppendUvarint(w.buf, uint64(len(w.entry)))
	w.buf = append(w.buf, w.entry...)
	w.last = f.Path
	w.count++
	w.size += f.Size
	return w.flush(ctx, streamBlob)
}

// flush stores what has come together, if it is at least as much.
func (w *FileWriter) flush(ctx context.Context, least int) error {
	at := 0
	for ; len(w.buf)-at >= least && at < len(w.buf); at += min(streamBlob, len(w.buf)-at) {
		b, err := w.lane.Add(ctx, Hash{}, w.buf[at:min(at+streamBlob, len(w.buf))])
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
func (w *FileWriter) Close(ctx context.Context) ([]Blob, error) {
	err := w.flush(ctx, 1)
	return w.blobs, err
}

// Packs returns every pack that the stream and its files need, in order.
func (w *FileWriter) Packs() []PackID { return slices.SortedFunc(maps.Keys(w.packs), comparePacks) }

// Count returns how many entries were written.
func (w *FileWriter) Count() int64 { return w.count }

// Size returns the bytes of all files written.
func (w *FileWriter) Size() int64 { return w.size }

// check refuses an entry that cannot be, or that leads out of the folder.
func (f *File) check() error {
	if f.Path == "" || len(f.Path) > maxPath || len(f.Target) > maxPath || strings.ContainsRune(f.Path, 0) {
		return fmt.Errorf("path %.80q, target %.80q", f.Path, f.Target)
	}
	for part := range strings.SplitSeq(f.Path, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("path %.80q leads elsewhere", f.Path)
		}
	}
	if f.Kind < Regular || f.Kind > Symlink || f.Size < 0 || f.Kind != Regular && (f.Size != 0 || len(f.Extents) > 0) {
		return fmt.Errorf("%q: kind %d, %d bytes", f.Path, f.Kind, f.Size)
	}
	next := int64(0)
	for _, e := range f.Extents {
		inBlob := (int64(e.Blob.Raw) + PageSize - 1) / PageSize
		if int64(e.Page) != next || e.Pages == 0 || e.Blob.Raw > 0 && int64(e.At)+int64(e.Pages) > inBlob {
			return fmt.Errorf("%q: %d pages at %d (%d in the blob) do not fit", f.Path, e.Pages, e.Page, e.At)
		}
		next += int64(e.Pages)
	}
	if next != (f.Size+PageSize-1)/PageSize {
		return fmt.Errorf("%q: %d bytes are not %d pages", f.Path, f.Size, next)
	}
	return nil
}

// append appends the entry's form to b, and notes its packs. Packs come first,
// so that extents name them by number; blobs are told by how they differ from
// the one before, since most follow it.
func (f *File) append(b []byte, needed map[PackID]bool) []byte {
	e := entryWriter{b: b, packs: map[PackID]uint64{}}
	e.text(f.Path)
	e.b = append(e.b, byte(f.Kind))
	e.num(uint64(f.Mode))
	e.signed(f.ModTime)
	e.num(uint64(f.Size)) //nolint:gosec // checked
	e.text(f.Target)
	e.b = append(e.b, f.Hash[:]...)
	var packs []PackID
	for blob := range f.blobs() {
		if _, known := e.packs[blob.Pack]; !known {
			e.packs[blob.Pack] = uint64(len(packs))
			packs = append(packs, blob.Pack)
			needed[blob.Pack] = true
		}
	}
	e.num(uint64(len(packs)))
	for _, p := range packs {
		e.b = append(e.b, p[:]...)
	}
	e.num(uint64(len(f.Extents)))
	for _, x := range f.Extents {
		e.num(uint64(x.Pages))
		e.blob(x.Blob)
		e.num(uint64(x.At))
	}
	e.num(uint64(len(f.Hashes)))
	for _, h := range f.Hashes {
		e.blob(h)
	}
	e.num(uint64(len(f.BadPages)))
	for _, p := range f.BadPages {
		e.num(uint64(p))
	}
	return e.b
}

// blobs goes through all that the entry needs.
func (f *File) blobs() iter.Seq[Blob] {
	return func(yield func(Blob) bool) {
		for _, x := range f.Extents {
			if x.Blob.Raw > 0 && !yield(x.Blob) {
				return
			}
		}
		for _, h := range f.Hashes {
			if !yield(h) {
				return
			}
		}
	}
}

type entryWriter struct {
	b     []byte
	packs map[PackID]uint64
	last  Blob
}

func (e *entryWriter) num(n uint64)   { e.b = binary.AppendUvarint(e.b, n) }
func (e *entryWriter) signed(n int64) { e.b = binary.AppendVarint(e.b, n) }
func (e *entryWriter) text(s string) {
	e.num(uint64(len(s)))
	e.b = append(e.b, s...)
}

// blob writes 0 for zeros, 1 for the same blob again, or 2 + the pack's number.
func (e *entryWriter) blob(b Blob) {
	switch {
	case b.Raw == 0:
		e.num(0)
		return
	case b == e.last:
		e.num(1)
		return
	}
	e.num(2 + e.packs[b.Pack])
	e.signed(int64(b.Number) - int64(e.last.Number))
	e.signed(int64(b.Offset) - int64(e.last.Offset) - int64(e.last.Stored))
	e.num(uint64(b.Stored))
	e.num(uint64(b.Raw))
	e.b = append(e.b, byte(b.Codec))
	e.last = b
}

var errEntry = errors.New("an entry of the list of files cannot be read")

// parseFile reads an entry's form.
func parseFile(form []byte) (File, error) {
	e := entryReader{b: form}
	f := File{Path: e.text(), Kind: Kind(e.byte()), Mode: uint32(e.num(1<<32 - 1)), ModTime: e.signed()} //nolint:gosec // bounded
	f.Size = int64(e.num(1<<63 - 1))                                                                     //nolint:gosec // bounded
	f.Target = e.text()
	copy(f.Hash[:], e.bytes(len(Hash{})))
	e.packs = make([]PackID, 0, e.count(len(PackID{})))
	for range cap(e.packs) {
		e.packs = append(e.packs, PackID(e.fixed(len(PackID{}))))
	}
	page := uint64(0)
	if n := e.count(3); n > 0 {
		f.Extents = make([]Extent, 0, n)
		for range n {
			x := Extent{Page: uint32(page), Pages: uint32(e.num(1<<32 - 1)), Blob: e.blob(), At: uint32(e.num(MaxBlob))} //nolint:gosec // bounded
			if page += uint64(x.Pages); page > 1<<32-1 {
				e.bad = true
				break
			}
			f.Extents = append(f.Extents, x)
		}
	}
	for range e.count(1) {
		f.Hashes = append(f.Hashes, e.blob())
	}
	for range e.count(1) {
		f.BadPages = append(f.BadPages, uint32(e.num(1<<32-1))) //nolint:gosec // bounded
	}
	if e.bad || len(e.b) > 0 {
		return File{}, errEntry
	}
	return f, f.check()
}

type entryReader struct {
	b     []byte
	packs []PackID
	last  Blob
	bad   bool
}

func (e *entryReader) num(most uint64) uint64 {
	n, size := binary.Uvarint(e.b)
	if size <= 0 || n > most {
		e.bad, e.b = true, nil
		return 0
	}
	e.b = e.b[size:]
	return n
}

func (e *entryReader) signed() int64 {
	n, size := binary.Varint(e.b)
	if size <= 0 {
		e.bad, e.b = true, nil
		return 0
	}
	e.b = e.b[size:]
	return n
}

// count reads how many things follow, each of at least least bytes: no more than there is room for.
func (e *entryReader) count(least int) int { return int(e.num(uint64(len(e.b) / least))) } //nolint:gosec // bounded

func (e *entryReader) bytes(n int) []byte {
	if n > len(e.b) {
		e.bad, e.b = true, nil
		return nil
	}
	out := e.b[:n]
	e.b = e.b[n:]
	return out
}

// fixed is bytes that are there even if the entry is cut off.
func (e *entryReader) fixed(n int) []byte {
	if b := e.bytes(n); b != nil {
		return b
	}
	return make([]byte, n)
}

func (e *entryReader) byte() byte   { return e.fixed(1)[0] }
func (e *entryReader) text() string { return string(e.bytes(int(e.num(maxPath)))) } //nolint:gosec // bounded

func (e *entryReader) blob() Blob {
	switch n := e.num(uint64(len(e.packs)) + 1); n {
	case 0:
		return Blob{}
	case 1:
		e.bad = e.bad || e.last.Raw == 0
		return e.last
	default:
		b := Blob{Pack: e.packs[n-2]}
		b.Number = e.relative(int64(e.last.Number))
		b.Offset = e.relative(int64(e.last.Offset) + int64(e.last.Stored))
		b.Stored, b.Raw = uint32(e.num(1<<32-1)), uint32(e.num(1<<32-1)) //nolint:gosec // bounded
		b.Codec = Codec(e.byte())
		e.bad = e.bad || b.check() != nil
		e.last = b
		return b
	}
}

func (e *entryReader) relative(to int64) uint32 {
	n := to + e.signed()
	if n < 0 || n > 1<<32-1 {
		e.bad = true
		return 0
	}
	return uint32(n)
}
