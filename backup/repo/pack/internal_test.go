package pack

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"rootstream/backup/repo/codec"
	"rootstream/backup/repo/seal"
)

func FuzzPackFooters(f *testing.F) {
	id := ID{15: 3}
	lock := aSealer(f, id)
	comp, err := codec.NewCompressor(codec.Compression{})
	if err != nil {
		f.Fatal(err)
	}
	p := &pack{sealer: lock, id: id, buf: make([]byte, 0, packRoom(64<<10)), limit: 64 << 10}
	p.add(comp, seal.Hash{1}, []byte("one"))
	p.add(comp, seal.Hash{2}, bytes.Repeat([]byte("two"), 1000))
	f.Add(p.finish())
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, body []byte) {
		size := int64(len(body))
		tr, err := parseTrailer(id, size, body[max(0, len(body)-trailerSize):])
		if err != nil {
			return
		}
		from := size - int64(trailerSize) - int64(tr.footer)
		entries, err := tr.parse(lock, id, size, bytes.Clone(body[from:size-int64(trailerSize)]))
		if err == nil && len(entries) != int(tr.count) {
			t.Errorf("%d entries of %d", len(entries), tr.count)
		}
	})
}

// aSealer is one without a repository.
func aSealer(tb testing.TB, id ID) *sealer {
	tb.Helper()
	block, err := aes.NewCipher(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		tb.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		tb.Fatal(err)
	}
	return newSealer(aead, uuid.UUID{1}, id)
}

// A lane stores a blob without a piece of memory of its own.
func TestAddingABlobAllocatesNothing(t *testing.T) {
	data := bytes.Repeat([]byte("page of a table "), 4096)
	for _, c := range []codec.Compression{{Name: "zstd", Level: 1}, {Name: "s2", Level: 1}} {
		comp, err := codec.NewCompressor(c)
		if err != nil {
			t.Fatal(err)
		}
		id := ID{15: 9}
		lock := aSealer(t, id)
		p := &pack{sealer: lock, id: id, buf: make([]byte, 0, packRoom(MaxSize)), footer: make([]byte, 0, 1<<20), limit: MaxSize}
		if n := testing.AllocsPerRun(50, func() { p.add(comp, seal.Hash{1}, data) }); n > 0 {
			t.Errorf("%v: %v allocations", c, n)
		}
	}
}

// The floor is the same compression and the same seal, without a repository.
func BenchmarkLane(b *testing.B) {
	text := benchPages()
	for _, c := range []codec.Compression{{Name: "zstd", Level: 1}, {Name: "s2", Level: 1}, {Name: "none", Level: 0}} {
		comp, err := codec.NewCompressor(c)
		if err != nil {
			b.Fatal(err)
		}
		lock := aSealer(b, ID{15: 9})
		p := &pack{sealer: lock, buf: make([]byte, 0, packRoom(MaxSize)), footer: make([]byte, 0, 1<<20), limit: MaxSize}
		b.Run(c.Name+"/add", func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				p.buf, p.footer, p.count = p.buf[:0], p.footer[:0], 0
				p.add(comp, seal.Hash{}, text)
			}
		})
		b.Run(c.Name+"/floor", func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			buf := make([]byte, 0, packRoom(MaxSize))
			for b.Loop() {
				out, _ := comp.Append(buf[:0], text)
				lock.aead.Seal(out[:0], lock.nonce[:], out, lock.data[:])
			}
		})
	}
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

// Buffers are made only when none is free, and the more lanes there are, the smaller they are.
func TestPacksOfManyLanesStayWithinTheirMemory(t *testing.T) {
	t.Parallel()
	const uploads = 4
	for _, lanes := range []int{1, 3, 17, maxLanes} {
		w := &Writer{
			cfg: WriterConfig{PackSize: DefaultSize, Uploads: uploads},
			may: make(chan struct{}, maxLanes+uploads), made: make(chan []byte, maxLanes+uploads),
		}
		for range uploads + lanes {
			if !w.allow() {
				t.Fatal("a lane is refused")
			}
		}
		total := 0
		for range uploads + lanes {
			buf, err := w.buffer(t.Context(), packRoom(w.limit()))
			if err != nil || cap(buf) < packRoom(leastPack) {
				t.Fatalf("%d bytes, %v", cap(buf), err)
			}
			total += cap(buf)
		}
		if most := max(memory, (uploads+lanes)*leastPack) * 5 / 4; total > most {
			t.Errorf("%d lanes have %d bytes, more than %d", lanes, total, most)
		}
		w.made <- make([]byte, 0, 1)
		if buf, err := w.buffer(t.Context(), leastPack); err != nil || cap(buf) != 1 {
			t.Errorf("there was a free one, and it got one of %d bytes: %v", cap(buf), err)
		}
	}
}

func TestNeighboursAreReadAtOnce(t *testing.T) {
	t.Parallel()
	blob := func(pack byte, offset, stored uint32) Blob {
		return Blob{Pack: ID{15: pack}, Offset: offset, Stored: stored, Raw: stored}
	}
	all, err := runs([]Blob{
		blob(2, 500, 100), blob(1, 2*rangeBytes, 100), blob(1, 100, 200), blob(2, 0, 500), blob(1, 300+rangeGap, 50), blob(1, 400+2*rangeGap, 50),
	})
	if err != nil {
		t.Fatal(err)
	}
	var got [][]int
	for _, run := range all {
		var order []int
		for _, w := range run {
			order = append(order, w.i)
		}
		got = append(got, order)
	}
	if diff := cmp.Diff([][]int{{2, 4}, {5}, {1}, {3, 0}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err = runs([]Blob{blob(1, 0, MaxSize+1)}); !errors.Is(err, seal.ErrInvalid) {
		t.Errorf("%v: there is no such blob", err)
	}
}
