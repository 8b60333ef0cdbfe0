package codec_test

import (
	"bytes"
	"crypto/rand"
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
