package files

import (
	"fmt"
	"iter"
	"strings"

	"rootstream/backup/repo/pack"
	"rootstream/backup/repo/seal"
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
	Target   string      // of a symlink
	Hash     seal.Hash   // over the hashes of its pages
	Extents  []Extent    // in the order of pages; together they are the file
	Hashes   []pack.Blob // hashes of its pages, 16 bytes each; none for a small file
	BadPages []uint32    // whose checksum did not fit
}

// Extent is a run of pages. With the zero Blob they are zeros.
type Extent struct {
	Page  uint32 // the first, in the file
	Pages uint32
	Blob  pack.Blob
	At    uint32 // the first, in the blob
}

const maxPath = 4096

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

// Blobs goes through all that the entry needs.
func (f *File) Blobs() iter.Seq[pack.Blob] {
	return func(yield func(pack.Blob) bool) {
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
