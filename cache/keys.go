package cache

import (
	"encoding/hex"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Lifetimes of keys. A shorter life may be given where the thing itself ends sooner.
const (
	SessionViewTTL  = 24 * time.Hour   // a cached session view, at most
	SessionLeaseTTL = 10 * time.Second // a fill that takes longer than this is dropped
	StreamLiveTTL   = time.Hour        // live status of a stream
	ViewerCountTTL  = 5 * time.Minute  // viewer count of a stream, and the set behind it
	SyncTTL         = time.Hour        // the stream of shared state after its last entry
)

// SessionViewPrefix begins the keys whose changes are broadcast to every instance, and no others.
const SessionViewPrefix = "rss:"

// SessionView is the key of a cached session view, by the SHA-256 of the token.
func SessionView(tokenHash [32]byte) string { return hashKey(SessionViewPrefix, tokenHash) }

// SessionLease is the key of the nonce that a fill of SessionView holds, in the same slot.
func SessionLease(tokenHash [32]byte) string { return hashKey("rsl:", tokenHash) }

// ParseSessionView returns the half of the token hash that a SessionView key carries.
func ParseSessionView(key string) (half [16]byte, ok bool) {
	const head, tail = SessionViewPrefix + "{", "}"
	if len(key) != len(head)+32+len(tail) || !strings.HasPrefix(key, head) || !strings.HasSuffix(key, tail) {
		return half, false
	}
	var digits [32]byte
	copy(digits[:], key[len(head):])
	_, err := hex.Decode(half[:], digits[:])
	return half, err == nil
}

// StreamLive is the key of a stream's live status.
func StreamLive(stream uuid.UUID) string { return streamKey(stream, "live") }

// StreamViewers is the key of the sorted set of a stream's viewers by expiry.
func StreamViewers(stream uuid.UUID) string { return streamKey(stream, "viewers") }

// StreamViewerCount is the key of a stream's viewer count.
func StreamViewerCount(stream uuid.UUID) string { return streamKey(stream, "count") }

// StreamStats is the key of the hash with a stream's volatile figures: peak, total, bitrate.
func StreamStats(stream uuid.UUID) string { return streamKey(stream, "stats") }

func streamKey(stream uuid.UUID, part string) string { return "rsv:{" + stream.String() + "}:" + part }

// rateLimit is the key of a limiter's log of attempts; digest hides what is limited.
func rateLimit(digest [16]byte) string { return "rsr:{" + hex.EncodeToString(digest[:]) + "}" }

// Failures is the key of a tally of failed tries; digest hides whose they are.
func Failures(digest string) string { return "rsb:{" + digest + "}" }

// StreamsActive is the key of the hash of the streams that have or had viewers: stream → a value that every join
// changes.
const StreamsActive = "rsv:active"

func hashKey(prefix string, hash [32]byte) string {
	var b [4 + 1 + 32 + 1]byte // all prefixes have four bytes
	copy(b[:], prefix)
	b[4] = '{'
	hex.Encode(b[5:37], hash[:16])
	b[37] = '}'
	return string(b[:])
}

// hashTag is the part of key that decides its slot.
func hashTag(key string) string {
	_, rest, ok := strings.Cut(key, "{")
	if !ok {
		return key
	}
	tag, _, ok := strings.Cut(rest, "}")
	if !ok || tag == "" {
		return key
	}
	return tag
}

// Sync is the key of the stream in which instances tell each other what was committed, what they contribute to volatile
// state, and that they live.
const Sync = "rsl:{sync}:log"
