package seal

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"

	"rootstream/secret"
)

// What has the right checksum, whoever wrote it, is read as it was written, and opens for nobody.
func FuzzKeyObjects(f *testing.F) {
	key := Key{Secret: secret.FromString("a key of as many bytes as it has to have"), Kind: KeyFile}
	good, err := parseKeyObject("keys/b134a4d73b521b12", []byte(writtenKey))
	if err != nil {
		f.Fatal(err)
	}
	if root, err := good.unwrap(key); err != nil || !bytes.Equal(root, bytes.Repeat([]byte{7}, keySize)) {
		f.Fatalf("what was written long ago opens as %x, %v", root, err)
	}
	f.Add([]byte(writtenKey))
	f.Add([]byte(`{"format":1,"repository":"00000000-0000-0000-0000-000000000000","id":"a","kind":"passphrase","salt":"AAAAAAAAAAAAAAAAAAAAAA==","argon2":{"memory_kib":65536,"passes":3,"threads":4}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var o keyObject
		if json.Unmarshal(body, &o) != nil {
			return
		}
		summed, err := o.encode()
		if err != nil {
			return // a time that JSON has not
		}
		for _, form := range [][]byte{body, summed} {
			o, bad := parseKeyObject(keyName(o.ID), form)
			if bad != nil {
				continue
			}
			if again, odd := o.encode(); odd != nil || !bytes.Equal(again, form) {
				t.Errorf("%q is read as %q, %v", form, again, odd)
			}
			root, err := o.unwrap(key)
			if head, same := o.head(); err != nil || same != nil || root != nil && !bytes.Equal(head, must(good.head())) {
				t.Errorf("%q opens: %x, %v", form, root, err)
			}
		}
	})
}

func must(b []byte, _ error) []byte { return b }

// What was written long ago: a fuzzer's processes share it, and later versions read it.
const (
	writtenKey = `{"format":1,"repository":"01000000-0000-0000-0000-000000000000","id":"b134a4d73b521b12","kind":"file","created":"2027-01-15T08:00:00Z",` +
		`"salt":"V8mvL6HZVXKwu1NnF/NwAg==","sealed":"/bCXMWBuV20Ati0nHMjycK7xzHGEtL69Wquje0LZAfrwDim3dCJAQplN60xWxciqraJkZV/kNC58Jwk/",` +
		`"checksum":"cc37c17aefc5e4bd5af6e9d200dd0c8c8c4e08a3b3122ee6c2d89a69cb75893b"}`
	writtenProof = "52534f317000000000052104b70e813d96aefdd15d0962652e2ac4b99a8" +
		"d1d8aad4a7d25baa0224776d044b34a9a70ade582914e75445e979932fe"
)

func FuzzRootObject(f *testing.F) {
	body, err := (&rootObject{Format: rootFormat, ID: uuid.UUID{1}, Created: time.Unix(1_800_000_000, 0).UTC(), Cipher: rootCipher, Hash: rootHash, MAC: []byte("mac")}).encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(`{"format":1,"id":"00000000-0000-0000-0000-000000000000"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var o rootObject
		if json.Unmarshal(body, &o) != nil {
			return
		}
		summed, err := o.encode()
		if err != nil {
			return // a time that JSON has not
		}
		for _, form := range [][]byte{body, summed} {
			if o, err := parseRoot(form); err == nil {
				if again, err := o.encode(); err != nil || !bytes.Equal(again, form) {
					t.Errorf("%q is read as %q, %v", form, again, err)
				}
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
	good, err := hex.DecodeString(writtenProof)
	if err != nil {
		f.Fatal(err)
	}
	if plain, err := s.unseal(KindProof, "clusters/1/backups/a/proof-x", bytes.Clone(good)); err != nil || string(plain) != "plain" {
		f.Fatalf("what was written long ago opens as %q, %v", plain, err)
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
