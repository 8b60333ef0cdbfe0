package counted_test

import (
	"testing"

	"rootstream/internal/counted"
)

func TestOneIsNotMany(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{
		"0 keys": counted.Of(0, "key"), "1 key": counted.Of(int64(1), "key"), "2 keys": counted.Of(uint64(2), "key"),
		"1 entity": counted.Of(1, "entity", "entities"), "0 entities": counted.Of(0, "entity", "entities"),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
