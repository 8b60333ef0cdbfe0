package cache_test

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/uuid"

	"rootstream/cache"
)

func TestSessionKeysShareASlotAndOnlyViewsAreBroadcast(t *testing.T) {
	t.Parallel()
	hash := sha256.Sum256([]byte("token"))
	view, lease := cache.SessionView(hash), cache.SessionLease(hash)
	if want := "rss:{" + hex.EncodeToString(hash[:16]) + "}"; view != want {
		t.Errorf("SessionView = %q, want %q", view, want)
	}
	if cache.HashTag(view) != cache.HashTag(lease) {
		t.Errorf("%q and %q lie in different slots", view, lease)
	}
	if strings.HasPrefix(lease, cache.SessionViewPrefix) || !strings.HasPrefix(view, cache.SessionViewPrefix) {
		t.Error("the broadcast prefix must cover views and nothing else")
	}
	half, ok := cache.ParseSessionView(view)
	if !ok || string(half[:]) != string(hash[:16]) {
		t.Errorf("ParseSessionView = %x, %v", half, ok)
	}
}

func TestStreamKeysShareASlot(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	for _, k := range []string{cache.StreamLive(id), cache.StreamViewers(id), cache.StreamViewerCount(id), cache.StreamStats(id)} {
		if cache.HashTag(k) != id.String() || !strings.HasPrefix(k, "rsv:") {
			t.Errorf("key %q", k)
		}
	}
}

func TestHashTagFollowsRedis(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{"a": "a", "{a}b": "a", "x{a}{b}": "a", "{}a": "{}a", "{a": "{a", "a{b{c}d}": "b{c"} {
		if got := cache.HashTag(key); got != want {
			t.Errorf("HashTag(%q) = %q, want %q", key, got, want)
		}
	}
}

func FuzzParseSessionView(f *testing.F) {
	f.Add("rss:{" + strings.Repeat("ab", 16) + "}")
	f.Add("rss:{" + strings.Repeat("x", 32) + "}")
	f.Add("")
	f.Fuzz(func(t *testing.T, key string) {
		half, ok := cache.ParseSessionView(key)
		if !ok {
			return
		}
		var hash [32]byte
		copy(hash[:], half[:])
		if back := cache.SessionView(hash); !strings.EqualFold(back, key) {
			t.Errorf("%q reads as the hash of %q", key, back)
		}
	})
}
