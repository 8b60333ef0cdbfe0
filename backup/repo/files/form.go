package files

import (
	"encoding/binary"
	"errors"

	"rootstream/backup/repo/codec"
	"rootstream/backup/repo/pack"
	"rootstream/backup/repo/seal"
)

const maxEntry = 64 << 20 // bytes of one entry

// append appends the entry's form to b, and notes its packs. Packs come first,
// so that extents name them by number; blobs are told by how they differ from
// the one before, since most follow it.
func (f *File) append(b []byte, needed map[pack.ID]bool) []byte {
	e := entryWriter{b: b, packs: map[pack.ID]uint64{}}
	e.text(f.Path)
	e.b = append(e.b, byte(f.Kind))
	e.num(uint64(f.Mode))
	e.signed(f.ModTime)
	e.num(uint64(f.Size)) //nolint:gosec // checked
	e.text(f.Target)
	e.b = append(e.b, f.Hash[:]...)
	var packs []pack.ID
	for blob := range f.Blobs() {
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

type entryWriter struct {
	b     []byte
	packs map[pack.ID]uint64
	last  pack.Blob
}

func (e *entryWriter) num(n uint64)   { e.b = binary.AppendUvarint(e.b, n) }
func (e *entryWriter) signed(n int64) { e.b = binary.AppendVarint(e.b, n) }
func (e *entryWriter) text(s string) {
	e.num(uint64(len(s)))
	e.b = append(e.b, s...)
}

// blob writes 0 for zeros, 1 for the same blob again, or 2 + the pack's number.
func (e *entryWriter) blob(b pack.Blob) {
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
	copy(f.Hash[:], e.bytes(len(seal.Hash{})))
	e.packs = make([]pack.ID, 0, e.count(len(pack.ID{})))
	for range cap(e.packs) {
		e.packs = append(e.packs, pack.ID(e.fixed(len(pack.ID{}))))
	}
	page := uint64(0)
	if n := e.count(3); n > 0 {
		f.Extents = make([]Extent, 0, n)
		for range n {
			x := Extent{Page: uint32(page), Pages: uint32(e.num(1<<32 - 1)), Blob: e.blob(), At: uint32(e.num(pack.MaxBlob))} //nolint:gosec // bounded
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
	packs []pack.ID
	last  pack.Blob
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

func (e *entryReader) blob() pack.Blob {
	switch n := e.num(uint64(len(e.packs)) + 1); n {
	case 0:
		return pack.Blob{}
	case 1:
		e.bad = e.bad || e.last.Raw == 0
		return e.last
	default:
		b := pack.Blob{Pack: e.packs[n-2]}
		b.Number = e.relative(int64(e.last.Number))
		b.Offset = e.relative(int64(e.last.Offset) + int64(e.last.Stored))
		b.Stored, b.Raw = uint32(e.num(1<<32-1)), uint32(e.num(1<<32-1)) //nolint:gosec // bounded
		b.Codec = codec.Codec(e.byte())
		e.bad = e.bad || b.Check() != nil
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
