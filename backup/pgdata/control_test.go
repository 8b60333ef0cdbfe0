package pgdata_test

import (
	"errors"
	"os"
	"slices"
	"testing"

	"rootstream/backup/pgdata"
)

func TestControlOfEachVersionIsRead(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		major     string
		format    uint32
		catalog   uint32
		segment   uint32
		checksums bool
	}{
		{"14", 1300, 202107181, 16 << 20, true},
		{"15", 1300, 202209061, 16 << 20, false},
		{"16", 1300, 202307071, 16 << 20, true},
		{"17", 1700, 202406281, 1 << 20, true},
		{"18", 1800, 202506291, 16 << 20, true},
	} {
		t.Run(tt.major, func(t *testing.T) {
			t.Parallel()
			c, err := pgdata.ParseControl(fixture(t, tt.major))
			if err != nil {
				t.Fatal(err)
			}
			if c.Version != tt.format || c.Catalog != tt.catalog || c.WALSegmentSize != tt.segment || c.PageChecksums != tt.checksums {
				t.Errorf("format %d, catalog %d, WAL segments of %d, checksums %v", c.Version, c.Catalog, c.WALSegmentSize, c.PageChecksums)
			}
			if c.State != pgdata.ShutDown || c.Timeline != 1 || c.Checkpoint != c.Redo || c.Checkpoint < 1<<20 {
				t.Errorf("state %d, timeline %d, checkpoint %v, redo %v", c.State, c.Timeline, c.Checkpoint, c.Redo)
			}
			if c.BlockSize != 8192 || c.BlocksPerSegment != 131072 || c.MaxConnections != 100 || c.MaxWorkers != 8 ||
				c.MaxWALSenders != 10 || c.MaxLocks != 64 || c.WALLevel != 1 || c.SystemID>>32 == 0 {
				t.Errorf("%+v", c)
			}
		})
	}
}

func TestEveryFlippedBitOfControlIsSeen(t *testing.T) {
	t.Parallel()
	for _, major := range []string{"15", "18"} {
		raw := fixture(t, major)
		for bit := range 8 * 288 {
			raw[bit/8] ^= 1 << (bit % 8)
			if _, err := pgdata.ParseControl(raw); !errors.Is(err, pgdata.ErrControl) {
				t.Fatalf("version %s, bit %d flipped: %v", major, bit, err)
			}
			raw[bit/8] ^= 1 << (bit % 8)
		}
	}
}

func TestControlWithoutCheckpointIsSoundButLeadsNowhere(t *testing.T) {
	t.Parallel()
	raw := fixture(t, "18")
	before := slices.Clone(raw)
	out, err := pgdata.WithoutCheckpoint(raw)
	if err != nil {
		t.Fatal(err)
	}
	c, err := pgdata.ParseControl(out)
	if err != nil || c.Checkpoint != 0xDEAD {
		t.Errorf("checkpoint %v, %v", c.Checkpoint, err)
	}
	if !slices.Equal(raw, before) {
		t.Error("the original was changed")
	}
}

func FuzzParseControl(f *testing.F) {
	for _, major := range []string{"14", "17", "18"} {
		f.Add(fixture(f, major))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := pgdata.ParseControl(raw)
		if err == nil && (c.BlocksPerSegment == 0 || c.BlockSize < 1024) {
			t.Errorf("accepted %+v", c)
		}
	})
}

func fixture(tb testing.TB, major string) []byte {
	tb.Helper()
	raw, err := os.ReadFile("testdata/pg_control." + major)
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}
