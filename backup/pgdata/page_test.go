package pgdata_test

import (
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"rootstream/backup/pgdata"
)

// slow is the definition: 32 sums over the page's words dealt out in turn, two rounds of zeros, folded.
func slow(page []byte, number uint32, start [32]uint32) uint16 {
	mix := func(sum, v uint32) uint32 { sum ^= v; return sum*16777619 ^ sum>>17 }
	for i := 0; i < len(page); i += 4 {
		v := binary.LittleEndian.Uint32(page[i:])
		if i == 8 {
			v &= 0xFFFF0000
		}
		start[i/4%32] = mix(start[i/4%32], v)
	}
	var out uint32
	for _, s := range start {
		out ^= mix(mix(s, 0), 0)
	}
	return uint16((out^number)%65535 + 1)
}

func TestPageChecksumIsTheDefinition(t *testing.T) {
	t.Parallel()
	start := [32]uint32{
		0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
		0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
		0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
		0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
	}
	rapid.Check(t, func(t *rapid.T) {
		page := make([]byte, rapid.SampledFrom([]int{1024, 8192, 32768}).Draw(t, "size"))
		seed := rapid.Uint64().Draw(t, "seed")
		for i := 0; i < len(page); i += 8 {
			seed = seed*6364136223846793005 + 1442695040888963407
			binary.LittleEndian.PutUint64(page[i:], seed^seed>>29)
		}
		number := rapid.Uint32().Draw(t, "number")
		if got, want := pgdata.PageChecksum(page, number), slow(page, number, start); got != want {
			t.Fatalf("%d, want %d", got, want)
		}
	})
}

func TestPagesAreJudged(t *testing.T) {
	t.Parallel()
	page := make([]byte, 8192)
	if v := pgdata.CheckPage(page, 7); v != pgdata.Blank {
		t.Errorf("all zeros: %v", v)
	}
	page[8000] = 1
	if v := pgdata.CheckPage(page, 7); v != pgdata.Torn {
		t.Errorf("data on a page that was never initialised: %v", v)
	}
	binary.LittleEndian.PutUint16(page[14:], 8192)
	binary.LittleEndian.PutUint16(page[8:], pgdata.PageChecksum(page, 7))
	if v := pgdata.CheckPage(page, 7); v != pgdata.Sound {
		t.Errorf("right checksum: %v", v)
	}
	if v := pgdata.CheckPage(page, 7+131072); v != pgdata.Torn {
		t.Errorf("the page of another place: %v", v)
	}
	flipped(t, page, 31) // bits of all bytes; all of them on the smallest page there can be
	small := page[:1024]
	clear(small[8:10])
	binary.LittleEndian.PutUint16(small[8:], pgdata.PageChecksum(small, 7))
	flipped(t, small, 1)
}

// flipped turns one bit in so many.
func flipped(t *testing.T, page []byte, step int) {
	t.Helper()
	missed := 0 // 16 bits cannot tell all flips apart: one in 65,535 shows the same
	for bit := 0; bit < 8*len(page); bit += step {
		page[bit/8] ^= 1 << (bit % 8)
		if pgdata.CheckPage(page, 7) == pgdata.Sound {
			missed++
		}
		page[bit/8] ^= 1 << (bit % 8)
	}
	if missed > 2 {
		t.Errorf("%d flipped bits of %d were not seen", missed, 8*len(page)/step)
	}
}

func BenchmarkCheckPage(b *testing.B) {
	page := make([]byte, 8192)
	for i := range page {
		page[i] = byte(i * 7)
	}
	b.SetBytes(8192)
	for b.Loop() {
		pgdata.CheckPage(page, 1)
	}
}
