package repo

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

func FuzzKeyObjects(f *testing.F) {
	f.Add([]byte(`{"format":1,"repository":"00000000-0000-0000-0000-000000000000","id":"a","kind":"file"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if o, err := parseKeyObject("keys/a", body); err == nil {
			if again, err := o.encode(); err != nil || !bytes.Equal(again, body) {
				t.Errorf("%q is read as %q, %v", body, again, err)
			}
		}
	})
}

func FuzzRootObject(f *testing.F) {
	f.Add([]byte(`{"format":1,"id":"00000000-0000-0000-0000-000000000000"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if o, err := parseRoot(body); err == nil {
			if again, err := o.encode(); err != nil || !bytes.Equal(again, body) {
				t.Errorf("%q is read as %q, %v", body, again, err)
			}
		}
	})
}

func FuzzManifests(f *testing.F) {
	f.Add([]byte(`{"id":"a","type":"full","cluster":{"system_id":"7"},"packs":["00"]}`))
	f.Fuzz(func(_ *testing.T, body []byte) {
		var m Manifest
		if decodeJSON(body, &m) == nil {
			_ = m.check()
		}
	})
}

// What is read from a list of files is written back as it was read.
func FuzzFileStream(f *testing.F) {
	full := File{
		Path: "base/1/2", Kind: Regular, Mode: 0o600, Size: 3 * PageSize, Hash: Hash{1},
		Extents: []Extent{{0, 1, Blob{PackID{1}, 1, 100, 50, PageSize, Zstd}, 0}, {1, 1, Blob{}, 0}, {2, 1, Blob{PackID{2}, 0, 0, 60, 2 * PageSize, S2}, 1}},
		Hashes:  []Blob{{PackID{1}, 2, 150, 70, 48, None}}, BadPages: []uint32{2},
	}
	f.Add(full.append(nil, map[PackID]bool{}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, form []byte) {
		file, err := parseFile(form)
		if err != nil {
			return
		}
		again, err := parseFile(file.append(nil, map[PackID]bool{}))
		if diff := cmp.Diff(file, again); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	})
}

func FuzzPackFooters(f *testing.F) {
	ring, err := newKeyring(uuid.UUID{1}, bytes.Repeat([]byte{7}, keySize))
	if err != nil {
		f.Fatal(err)
	}
	id := PackID{15: 3}
	seal, err := ring.sealer(id)
	if err != nil {
		f.Fatal(err)
	}
	comp, err := newCompressor(Compression{})
	if err != nil {
		f.Fatal(err)
	}
	p := &pack{sealer: seal, id: id, buf: make([]byte, 0, packRoom(64<<10)), limit: 64 << 10}
	p.add(comp, Hash{1}, []byte("one"))
	p.add(comp, Hash{2}, bytes.Repeat([]byte("two"), 1000))
	f.Add(p.finish())
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, body []byte) {
		size := int64(len(body))
		tr, err := parseTrailer(id, size, body[max(0, len(body)-trailerSize):])
		if err != nil {
			return
		}
		from := size - int64(trailerSize) - int64(tr.footer)
		entries, err := ring.parseFooter(id, size, tr, bytes.Clone(body[from:size-int64(trailerSize)]))
		if err == nil && len(entries) != int(tr.count) {
			t.Errorf("%d entries of %d", len(entries), tr.count)
		}
	})
}

// Whoever has no key makes no sealed object that opens; nothing that is read makes room for more than it may.
func FuzzSealedObjects(f *testing.F) {
	r := testRepo(f)
	good, err := r.seal(kindProof, "clusters/1/backups/a/proof-x", []byte("plain"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, body []byte) {
		plain, err := r.unseal(kindProof, "clusters/1/backups/a/proof-x", bytes.Clone(body))
		if err == nil && (!bytes.Equal(body, good) || string(plain) != "plain") {
			t.Errorf("%x opens", body)
		}
	})
}

func testRepo(tb testing.TB) *Repo {
	tb.Helper()
	ring, err := newKeyring(uuid.UUID{1}, bytes.Repeat([]byte{7}, keySize))
	if err != nil {
		tb.Fatal(err)
	}
	r := &Repo{ring: ring}
	if r.decomp, err = newDecompressor(); err != nil {
		tb.Fatal(err)
	}
	r.objects.New = func() any {
		c, _ := newCompressor(Compression{})
		return c
	}
	return r
}

func TestWhatWillNotBecomeSmallerIsStoredAsItIs(t *testing.T) {
	t.Parallel()
	random, err := randomBytes(256 << 10)
	if err != nil {
		t.Fatal(err)
	}
	text := bytes.Repeat([]byte("tuple data "), 20_000)
	for _, c := range []Compression{{"zstd", 1}, {"zstd", 3}, {"s2", 1}, {"s2", 2}, {"none", 0}, {}} {
		comp, err := newCompressor(c)
		if err != nil {
			t.Fatal(err)
		}
		dec, err := newDecompressor()
		if err != nil {
			t.Fatal(err)
		}
		for _, data := range [][]byte{random, text, random[:5], text[:9000], bytes.Repeat([]byte{0}, MaxBlob)} {
			buf := make([]byte, 3, packRoom(MaxBlob))
			out, codec := comp.append(buf, data)
			plain, err := dec.decode(codec, out[3:], len(data), nil)
			if err != nil || !bytes.Equal(plain, data) {
				t.Errorf("%v: %d bytes as %v do not come back: %v", c, len(data), codec, err)
			}
			if &out[0] != &buf[0] || len(out)-3 > len(data) || &data[0] == &random[0] && codec != None {
				t.Errorf("%v: %d bytes take %d as %v", c, len(data), len(out)-3, codec)
			}
		}
	}
	if _, err := newCompressor(Compression{Name: "lzma"}); err == nil {
		t.Error("an unknown compression is taken")
	}
}

// A lane stores a blob without a piece of memory of its own.
func TestAddingABlobAllocatesNothing(t *testing.T) {
	r := testRepo(t)
	data := bytes.Repeat([]byte("page of a table "), 4096)
	for _, c := range []Compression{{"zstd", 1}, {"s2", 1}} {
		comp, err := newCompressor(c)
		if err != nil {
			t.Fatal(err)
		}
		id := PackID{15: 9}
		seal, err := r.ring.sealer(id)
		if err != nil {
			t.Fatal(err)
		}
		p := &pack{sealer: seal, id: id, buf: make([]byte, 0, packRoom(maxPack)), footer: make([]byte, 0, 1<<20), limit: maxPack}
		if n := testing.AllocsPerRun(50, func() { p.add(comp, Hash{1}, data) }); n > 0 {
			t.Errorf("%v: %v allocations", c, n)
		}
	}
	h := r.NewHasher()
	if n := testing.AllocsPerRun(50, func() { h.Sum(data) }); n > 0 {
		t.Errorf("a hash: %v allocations", n)
	}
}

// The floor is the same compression and the same seal, without a repository.
func BenchmarkLane(b *testing.B) {
	r := testRepo(b)
	text := benchPages()
	for _, c := range []Compression{{"zstd", 1}, {"s2", 1}, {"none", 0}} {
		comp, err := newCompressor(c)
		if err != nil {
			b.Fatal(err)
		}
		seal, err := r.ring.sealer(PackID{15: 9})
		if err != nil {
			b.Fatal(err)
		}
		p := &pack{sealer: seal, buf: make([]byte, 0, packRoom(maxPack)), footer: make([]byte, 0, 1<<20), limit: maxPack}
		b.Run(c.Name+"/add", func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				p.buf, p.footer, p.count = p.buf[:0], p.footer[:0], 0
				p.add(comp, Hash{}, text)
			}
		})
		b.Run(c.Name+"/floor", func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			buf := make([]byte, 0, packRoom(maxPack))
			for b.Loop() {
				out := append(buf[:0], text...)
				switch comp.codec {
				case Zstd:
					out = comp.zstd.EncodeAll(text, buf[:0])
				case S2:
					out = comp.s2(buf[:cap(buf)], text)
				case None:
				}
				seal.aead.Seal(out[:0], seal.nonce[:], out, seal.data[:])
			}
		})
	}
	b.Run("hash", func(b *testing.B) {
		h := r.NewHasher()
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			for at := 0; at < len(text); at += PageSize {
				h.Sum(text[at : at+PageSize])
			}
		}
	})
}

// benchPages is 256 KiB like pgbench's accounts: numbers that count up, and blanks.
func benchPages() []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < 256<<10; i++ {
		b.Write([]byte{byte(i), byte(i >> 8), byte(i >> 16), 0, 4, 0, 2, 9, 24, 0, byte(i * 7), byte(i >> 3), 0, 0, 1, 0})
		b.WriteString("                                                                                    ")
	}
	return b.Bytes()[:256<<10]
}
