package files

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"rootstream/backup/repo/codec"
	"rootstream/backup/repo/pack"
	"rootstream/backup/repo/seal"
)

// What is read from a list of files is written back as it was read.
func FuzzFileStream(f *testing.F) {
	full := File{
		Path: "base/1/2", Kind: Regular, Mode: 0o600, Size: 3 * PageSize, Hash: seal.Hash{1},
		Extents: []Extent{
			{0, 1, pack.Blob{Pack: pack.ID{1}, Number: 1, Offset: 100, Stored: 50, Raw: PageSize, Codec: codec.Zstd}, 0},
			{1, 1, pack.Blob{}, 0},
			{2, 1, pack.Blob{Pack: pack.ID{2}, Stored: 60, Raw: 2 * PageSize, Codec: codec.S2}, 1},
		},
		Hashes:   []pack.Blob{{Pack: pack.ID{1}, Number: 2, Offset: 150, Stored: 70, Raw: 48, Codec: codec.None}},
		BadPages: []uint32{2},
	}
	f.Add(full.append(nil, map[pack.ID]bool{}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, form []byte) {
		file, err := parseFile(form)
		if err != nil {
			return
		}
		again, err := parseFile(file.append(nil, map[pack.ID]bool{}))
		if diff := cmp.Diff(file, again); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	})
}
