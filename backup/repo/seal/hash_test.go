package seal

import (
	"bytes"
	"testing"

	"github.com/google/uuid"
)

// Whoever has no key cannot tell what is stored by the names of what he knows.
func TestTheSameContentHasAnotherNameUnderAnotherKey(t *testing.T) {
	t.Parallel()
	data := []byte("a page that everybody knows")
	names := map[Hash]bool{}
	for key := range byte(3) {
		s, err := newSafe(uuid.UUID{1}, bytes.Repeat([]byte{key + 1}, keySize))
		if err != nil {
			t.Fatal(err)
		}
		h := s.NewHasher().Sum(data)
		if again := s.NewHasher().Sum(data); again != h {
			t.Errorf("it is named %v and %v under one key", h, again)
		}
		names[h] = true
	}
	if len(names) != 3 {
		t.Errorf("%d names under three keys", len(names))
	}
}
