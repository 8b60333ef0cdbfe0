package codec_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"testing"

	"rootstream/backup/repo/codec"
)

func TestWhatWillNotBecomeSmallerIsStoredAsItIs(t *testing.T) {
	t.Parallel()
	random := make([]byte, 256<<10)
	_, _ = rand.Read(random) // it never fails
	text := bytes.Repeat([]byte("tuple data "), 20_000)
	for _, c := range []codec.Compression{{"zstd", 1}, {"zstd", 3}, {"s2", 1}, {"s2", 2}, {"none", 0}, {}} {
		comp, err := codec.NewCompressor(c)
		if err != nil {
			t.Fatal(err)
		}
		dec, err := codec.NewDecompressor()
		if err != nil {
			t.Fatal(err)
		}
		for _, data := range [][]byte{random, text, random[:5], text[:9000], bytes.Repeat([]byte{0}, codec.Window)} {
			buf := make([]byte, 3, codec.Window+codec.Room(codec.Window))
			out, how := comp.Append(buf, data)
			plain, err := dec.Decode(how, out[3:], len(data), nil)
			if err != nil || !bytes.Equal(plain, data) {
				t.Errorf("%v: %d bytes as %v do not come back: %v", c, len(data), how, err)
			}
			if &out[0] != &buf[0] || len(out)-3 > len(data) || &data[0] == &random[0] && how != codec.None {
				t.Errorf("%v: %d bytes take %d as %v", c, len(data), len(out)-3, how)
			}
		}
	}
	if _, err := codec.NewCompressor(codec.Compression{Name: "lzma"}); err == nil {
		t.Error("an unknown compression is taken")
	}
}

// index makes pages of entries as those of an index on numbers are: a place in the table, then a key.
func index(size int) []byte {
	data := make([]byte, 0, size)
	for n := uint32(0); len(data) < size; n++ {
		data = binary.LittleEndian.AppendUint32(data, n/61<<16)
		data = binary.LittleEndian.AppendUint32(data, n%61|16<<16)
		data = binary.LittleEndian.AppendUint64(data, uint64(n))
	}
	return data[:size]
}

func TestAnIndexIsStoredAsItsSteps(t *testing.T) {
	t.Parallel()
	dec, err := codec.NewDecompressor()
	if err != nil {
		t.Fatal(err)
	}
	for name, how := range map[string]codec.Codec{"zstd": codec.Zstd, "s2": codec.S2} {
		comp, err := codec.NewCompressor(codec.Compression{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{16 << 10, 100_003, codec.Window} {
			data := index(size)
			out, got := comp.Append(make([]byte, 0, size+codec.Room(size)), data)
			if got != how|codec.Stepped || len(out) > size/20 {
				t.Errorf("%s: %d bytes take %d as %v", name, size, len(out), got)
			}
			plain, err := dec.Decode(got, out, size, []byte("before"))
			if err != nil || !bytes.Equal(plain, append([]byte("before"), data...)) {
				t.Errorf("%s: %d bytes do not come back: %v", name, size, err)
			}
		}
	}
	for _, unknown := range []codec.Codec{codec.Stepped, codec.S2 + 1, codec.Zstd | codec.Stepped<<1} {
		if _, err := dec.Decode(unknown, []byte("x"), 1, nil); err == nil || unknown.Known() {
			t.Errorf("%v is taken for known", unknown)
		}
	}
}

func FuzzWhatGoesInComesOut(f *testing.F) {
	f.Add(index(64<<10), true)
	f.Add([]byte("short"), false)
	f.Fuzz(func(t *testing.T, data []byte, fast bool) {
		name := "zstd"
		if fast {
			name = "s2"
		}
		comp, err := codec.NewCompressor(codec.Compression{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		dec, err := codec.NewDecompressor()
		if err != nil {
			t.Fatal(err)
		}
		out, how := comp.Append(make([]byte, 0, len(data)+codec.Room(len(data))), data)
		if plain, err := dec.Decode(how, out, len(data), nil); err != nil || !bytes.Equal(plain, data) {
			t.Errorf("%d bytes as %v do not come back: %v", len(data), how, err)
		}
	})
}
