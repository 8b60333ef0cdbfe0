package secret_test

import (
	"bytes"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"rootstream/postgres/postgrestest"
	"rootstream/secret"
)

func TestMACsDifferByPurposeAndByTheBordersOfParts(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	m := newMaster(t)
	k := open(t, db, m)
	seen := map[[32]byte]string{}
	for name, mac := range map[string]func() ([32]byte, error){
		"one part":        func() ([32]byte, error) { return k.MAC("p", []byte("ab")) },
		"two parts":       func() ([32]byte, error) { return k.MAC("p", []byte("a"), []byte("b")) },
		"an empty part":   func() ([32]byte, error) { return k.MAC("p", []byte("ab"), nil) },
		"no part":         func() ([32]byte, error) { return k.MAC("p") },
		"another purpose": func() ([32]byte, error) { return k.MAC("q", []byte("ab")) },
	} {
		sum, err := mac()
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[sum]; ok {
			t.Errorf("%s and %s have the same MAC", name, other)
		}
		seen[sum] = name
	}
	again, err := open(t, db, m).MAC("p", []byte("ab"))
	if err != nil || seen[again] != "one part" {
		t.Errorf("another process computes another MAC (%v)", err)
	}
}

func TestMACsOutliveARotation(t *testing.T) {
	t.Parallel()
	k := open(t, postgrestest.New(t), newMaster(t))
	before, err := k.MAC("p", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if err = k.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := k.MAC("p", []byte("x"))
	if err != nil || after == before {
		t.Fatalf("the new key makes the same MAC (%v)", err)
	}
	all, err := k.MACs("p", []byte("x"))
	if err != nil || len(all) != 2 || all[0] != after || all[1] != before {
		t.Errorf("MACs = %x, %v", all, err)
	}
	for _, mac := range [][32]byte{before, after} {
		if ok, err := k.Verify("p", mac[:], []byte("x")); err != nil || !ok {
			t.Errorf("Verify = %v, %v", ok, err)
		}
	}
	for _, bad := range [][]byte{nil, before[:31], make([]byte, 32)} {
		if ok, err := k.Verify("p", bad, []byte("x")); err != nil || ok {
			t.Errorf("Verify(%x) = %v, %v", bad, ok, err)
		}
	}
}

func TestMACIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	k := open(t, postgrestest.New(t), newMaster(t))
	want, err := k.MAC("p", bytes.Repeat([]byte("x"), 100))
	if err != nil {
		t.Fatal(err)
	}
	big := bytes.Repeat([]byte("y"), 64<<10)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 500 {
				got, err := k.MAC("p", bytes.Repeat([]byte("x"), 100))
				if err != nil || got != want {
					t.Errorf("MAC = %x, %v", got, err)
					return
				}
				if _, err := k.MAC(string(rune('a'+i)), big); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestSealedValuesAlwaysOpenToWhatWentIn(t *testing.T) {
	t.Parallel()
	k := open(t, postgrestest.New(t), newMaster(t))
	part := rapid.StringMatching(`[a-z0-9_-]{1,40}`)
	rapid.Check(t, func(t *rapid.T) {
		ad := secret.AD{Table: part.Draw(t, "table"), Column: part.Draw(t, "column"), Row: part.Draw(t, "row"), User: part.Draw(t, "user")}
		plain := rapid.SliceOf(rapid.Byte()).Draw(t, "plain")
		sealed, err := k.Seal(ad, plain)
		if err != nil {
			t.Fatal(err)
		}
		got, err := k.Unseal(ad, sealed)
		if err != nil || !slices.Equal(got, plain) {
			t.Fatalf("Unseal = %x, %v; want %x", got, err, plain)
		}
	})
}

func BenchmarkMAC(b *testing.B) {
	k, err := secret.Open(b.Context(), postgrestest.New(b), benchMaster(b), "main")
	if err != nil {
		b.Fatal(err)
	}
	view, id := make([]byte, 160), make([]byte, 32)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.MAC("session.view", id, view); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	k, err := secret.Open(b.Context(), postgrestest.New(b), benchMaster(b), "main")
	if err != nil {
		b.Fatal(err)
	}
	text := make([]byte, 20)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Seal(place, text); err != nil {
			b.Fatal(err)
		}
	}
}

func benchMaster(b *testing.B) secret.MasterKey {
	b.Helper()
	m, err := secret.NewMasterKey(bytes.Repeat([]byte("k"), 32))
	if err != nil {
		b.Fatal(err)
	}
	return m
}
