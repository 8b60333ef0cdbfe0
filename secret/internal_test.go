package secret

import (
	"bytes"
	"testing"
	"time"
)

func FuzzUnwrap(f *testing.F) {
	master, err := NewMasterKey(bytes.Repeat([]byte("k"), 32))
	if err != nil {
		f.Fatal(err)
	}
	r, err := newRing("main", master, time.Now().UnixMilli())
	if err != nil {
		f.Fatal(err)
	}
	wrapped, canary, err := r.wrap()
	if err != nil {
		f.Fatal(err)
	}
	if _, err = unwrap(keysetRow{name: "main", wrapped: wrapped, canary: canary}, master); err != nil {
		f.Fatal(err)
	}
	f.Add(wrapped, canary)
	f.Add([]byte(`{"format":1,"master":"`+master.ID()+`","meta":{"keys":[{}],"primary":-1}}`), canary)
	f.Add([]byte(nil), []byte(nil))
	f.Fuzz(func(t *testing.T, w, c []byte) {
		got, err := unwrap(keysetRow{name: "main", wrapped: w, canary: c}, master)
		if (err == nil) != (got != nil) {
			t.Fatalf("unwrap = %v, %v", got, err)
		}
		if err != nil {
			return
		}
		if _, err = got.macs("p"); err != nil {
			t.Errorf("an opened keyset derives nothing: %v", err)
		}
	})
}
