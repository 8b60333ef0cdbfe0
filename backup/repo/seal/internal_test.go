package seal

import (
	"bytes"
	"testing"

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

// Whoever has no key makes no sealed object that opens; nothing that is read makes room for more than it may.
func FuzzSealedObjects(f *testing.F) {
	s, err := newSafe(uuid.UUID{1}, bytes.Repeat([]byte{7}, keySize))
	if err != nil {
		f.Fatal(err)
	}
	good, err := s.Seal(KindProof, "clusters/1/backups/a/proof-x", []byte("plain"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, body []byte) {
		plain, err := s.unseal(KindProof, "clusters/1/backups/a/proof-x", bytes.Clone(body))
		if err == nil && (!bytes.Equal(body, good) || string(plain) != "plain") {
			t.Errorf("%x opens", body)
		}
	})
}

func TestNamingContentAllocatesNothing(t *testing.T) {
	s, err := newSafe(uuid.UUID{1}, bytes.Repeat([]byte{7}, keySize))
	if err != nil {
		t.Fatal(err)
	}
	h, data := s.NewHasher(), bytes.Repeat([]byte("page of a table "), 4096)
	if n := testing.AllocsPerRun(50, func() { h.Sum(data) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkHasher(b *testing.B) {
	s, err := newSafe(uuid.UUID{1}, bytes.Repeat([]byte{7}, keySize))
	if err != nil {
		b.Fatal(err)
	}
	h, page := s.NewHasher(), bytes.Repeat([]byte("of a table "), 8192/11+1)[:8192]
	b.SetBytes(int64(len(page)))
	for b.Loop() {
		h.Sum(page)
	}
}
